//! Valid components whose functions are random: all of them pass the checks of form, and their code runs. It may do anything
//! but harm the host: each ends in a plugin or in an error.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::forge::{Forged, KEEP_ALL};
use crate::load_any::{Reached, load_bytes};
use crate::mutate::Random;

/// Core types of values.
const TYPES: [&str; 4] = ["i32", "i64", "f32", "f64"];
/// Locals of each function: this many of each type, in the order of [`TYPES`].
const LOCALS: usize = 3;
/// Random functions of a module.
const FUNCTIONS: usize = 6;

/// Writes functions. Whatever it draws is valid: every expression has the type that is asked for.
struct Writer {
    random: Random,
    /// Result types of the functions, of [`TYPES`]; they have no parameters.
    results: Vec<usize>,
    /// The function that is being written. Most calls are of earlier ones, so that not all code calls itself for ever.
    current: usize,
}

impl Writer {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let results = (0..FUNCTIONS).map(|_| random.below(TYPES.len())).collect();
        Writer { random, results, current: 0 }
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.random.below(of.len())]
    }

    /// An expression of a type, at most so deep.
    fn value(&mut self, ty: usize, depth: usize) -> String {
        let (name, local) = (TYPES[ty], ty * LOCALS + self.random.below(LOCALS));
        let float = ty > 1;
        if depth == 0 {
            let special =
                self.pick(if float { &["nan", "inf", "-0", "1.5", "1e30"] } else { &["0", "-1", "7", "65535"] });
            return match self.random.below(2) {
                0 => format!("(local.get {local})"),
                _ => format!("({name}.const {special})"),
            };
        }
        let d = depth - 1;
        match self.random.below(10) {
            0..=2 => {
                let op = self.pick(if float {
                    &["add", "sub", "mul", "div", "min", "max", "copysign"]
                } else {
                    &[
                        "add", "sub", "mul", "and", "or", "xor", "shl", "shr_s", "shr_u", "rotl", "rotr", "add", "sub",
                        "mul", "and", "or", "xor", "shl", "shr_s", "shr_u", "rotl", "rotr", "div_u", "rem_s",
                    ]
                });
                format!("({name}.{op} {} {})", self.value(ty, d), self.value(ty, d))
            }
            3 => {
                let op = self.pick(if float {
                    &["abs", "neg", "ceil", "trunc", "sqrt", "nearest"]
                } else {
                    &["clz", "ctz", "popcnt", "extend8_s"]
                });
                format!("({name}.{op} {})", self.value(ty, d))
            }
            4 => self.converted(ty, d),
            5 => format!("({name}.load {})", self.address(d)),
            6 => format!(
                "(if (result {name}) {} (then {}) (else {}))",
                self.value(0, d),
                self.value(ty, d),
                self.value(ty, d)
            ),
            7 => format!("(select {} {} {})", self.value(ty, d), self.value(ty, d), self.value(0, d)),
            8 => match (0..self.callable()).rfind(|f| self.results[*f] == ty) {
                Some(function) => format!("(call $f{function})"),
                None => self.value(ty, d),
            },
            _ => format!(
                "(block (result {name}) {} (br_if 0 {} {}))",
                self.statement(d),
                self.value(ty, d),
                self.value(0, d)
            ),
        }
    }

    /// Functions that may be called.
    fn callable(&mut self) -> usize {
        if self.random.below(200) == 0 { FUNCTIONS } else { self.current }
    }

    /// Mostly near the memory's beginning; seldom outside.
    fn address(&mut self, depth: usize) -> String {
        let mask = if self.random.below(100) == 0 { "-1" } else { self.pick(&["1023", "65535", "1048575"]) };
        format!("(i32.and {} (i32.const {mask}))", self.value(0, depth))
    }

    fn converted(&mut self, ty: usize, depth: usize) -> String {
        let (op, from) = match (ty, self.random.below(3)) {
            (0, 0) => ("i32.wrap_i64", 1),
            (0, 1) if self.random.below(20) == 0 => ("i32.trunc_f64_s", 3),
            (0, 1) => ("i32.trunc_sat_f64_s", 3),
            (0, _) => ("f32.lt", 2),
            (1, 0) => ("i64.extend_i32_u", 0),
            (1, 1) => ("i64.trunc_sat_f32_u", 2),
            (1, _) => ("i64.reinterpret_f64", 3),
            (2, 0) => ("f32.demote_f64", 3),
            (2, _) => ("f32.convert_i64_u", 1),
            (_, 0) => ("f64.promote_f32", 2),
            (_, _) => ("f64.convert_i32_s", 0),
        };
        if op == "f32.lt" {
            return format!("(f32.lt {} {})", self.value(from, depth), self.value(from, depth));
        }
        format!("({op} {})", self.value(from, depth))
    }

    /// What leaves nothing on the stack.
    fn statement(&mut self, depth: usize) -> String {
        let ty = self.random.below(TYPES.len());
        if depth == 0 {
            return format!("(local.set {} {})", ty * LOCALS + self.random.below(LOCALS), self.value(ty, 0));
        }
        let d = depth - 1;
        match self.random.below(12) {
            0..=2 => format!("(local.set {} {})", ty * LOCALS + self.random.below(LOCALS), self.value(ty, d)),
            3 => format!("({}.store {} {})", TYPES[ty], self.address(d), self.value(ty, d)),
            4 if self.random.below(50) == 0 => format!("(loop {} (br_if 0 {}))", self.statement(d), self.value(0, d)),
            4 => {
                // The counter is the last local, which nothing else writes; a loop within leaves it above the bound.
                let count = TYPES.len() * LOCALS;
                let next = format!("(local.tee {count} (i32.add (local.get {count}) (i32.const 1)))");
                let body = self.statement(d);
                format!("(local.set {count} (i32.const 0)) (loop {body} (br_if 0 (i32.lt_u {next} (i32.const 9))))")
            }
            5 => format!("(if {} (then {}) (else {}))", self.value(0, d), self.statement(d), self.statement(d)),
            6 => format!("(drop {})", self.value(ty, d)),
            7 => format!("(block (block (br_table 0 1 0 {})) {})", self.value(0, d), self.statement(d)),
            8 => format!("(drop (memory.grow (i32.and {} (i32.const 4095))))", self.value(0, d)),
            9 => {
                let what = self.pick(&["fill", "copy"]);
                let (to, from) = (self.address(d), if what == "copy" { self.address(d) } else { self.value(0, d) });
                format!("(memory.{what} {to} {from} (i32.and {} (i32.const 65535)))", self.value(0, d))
            }
            10 => {
                let lanes =
                    format!("(i32x4.add (i32x4.splat {}) (f32x4.splat {}))", self.value(0, d), self.value(2, d));
                format!(
                    "(local.set {} (i32x4.extract_lane {} {lanes}))",
                    self.random.below(LOCALS),
                    self.random.below(4)
                )
            }
            _ => format!("{} {}", self.statement(d), self.statement(d)),
        }
    }

    fn locals() -> String {
        TYPES.iter().map(|ty| format!("(local {})", [*ty; LOCALS].join(" "))).collect::<String>() + "(local i32)"
    }

    fn functions(&mut self) -> String {
        let mut all = String::new();
        for (number, ty) in self.results.clone().into_iter().enumerate() {
            self.current = number;
            let body: String = (0..3).map(|_| self.statement(4)).collect();
            let (name, locals, result) = (TYPES[ty], Self::locals(), self.value(ty, 4));
            let _ = writeln!(all, "(func $f{number} (result {name}) {locals} {body} {result})");
        }
        all
    }
}

/// A component with random functions, which one of the frame's functions calls before it does its work.
fn component(seed: u64) -> Vec<u8> {
    let mut writer = Writer::new(seed);
    let calls: String = (0..=writer.random.below(FUNCTIONS)).map(|f| format!("(drop (call $f{f}))")).collect();
    let mut forged = Forged::new();
    match seed % 8 {
        0 => forged.describe = format!("{calls} {}", forged.describe),
        1 => forged.init = format!("{calls} {}", forged.init),
        2 => forged.post = calls,
        3 => forged.fields = format!("(func $start {calls}) (start $start)"),
        // The answer itself is random.
        4 => forged.process = format!("{calls} {}", "(call $answer)"),
        _ => forged.process = format!("{calls} {KEEP_ALL}"),
    }
    writer.current = FUNCTIONS;
    let answer = writer.value(0, 5);
    let _ = write!(forged.fields, "(func $answer (result i32) {} {answer})", Writer::locals());
    forged.fields.push_str(&writer.functions());
    forged.build()
}

#[test]
fn random_code_ends_in_a_plugin_or_an_error() {
    let mut reached = std::collections::BTreeMap::<Reached, usize>::new();
    for seed in 0..240 {
        let bytes = component(seed);
        let start = Instant::now();
        *reached.entry(load_bytes(&bytes)).or_default() += 1;
        assert!(start.elapsed() < Duration::from_secs(60), "component {seed} takes {:?}", start.elapsed());
    }
    println!("{reached:?}");
    // All of them are valid, and some of the code runs to its end.
    assert!(
        !reached.contains_key(&Reached::Scan) && reached.get(&Reached::Works).is_some_and(|works| *works > 10),
        "{reached:?}"
    );
    assert!(reached.len() > 2, "{reached:?}");
}
