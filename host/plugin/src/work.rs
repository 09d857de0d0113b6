//! How much work a component is to compile, bounded before any of it is compiled.
//!
//! In: the sections of its core modules, in the order of the file. Out: what they add up to ([`Work`]), or the first value that
//! is over its bound.
//!
//! The compiler's time and memory are about linear in code, but for one thing: where control flow joins, every local may need
//! a value of its own. A function of 100 KB with 10,000 locals and 9,000 joins takes minutes and gigabytes. So
//! `edges x (locals + values that a block takes and gives)` is bounded, beside plain numbers.
//!
//! Seen in the largest guests that there are; the bounds are ten times the most of each, or more:
//!
//! | guest | MiB | functions | locals | nesting | work of one function | of all |
//! |---|---|---|---|---|---|---|
//! | componentize-py 0.19 (CPython 3.14) | 18.0 | 13,484 | 273 | 781 | 0.26 M | 7.9 M |
//! | componentize-js 0.22 (SpiderMonkey) | 10.0 | 12,584 | 122 | 456 | 0.70 M | 13.3 M |
//! | the same, ahead of time (weval) | 11.7 | 19,852 | 486 | 497 | 0.43 M | 15.0 M |
//! | QuickJS | 1.7 | 1,708 | 86 | 281 | 0.24 M | 2.0 M |
//! | jco's bindings generator (Rust) | 3.3 | 8,207 | 129 | 803 | 0.96 M | 4.2 M |
//! | a Rust filter without optimisation | 10.8 | 3,893 | 483 | 254 | 0.87 M | 2.2 M |
//!
//! A function of 18 M compiles in 3 s, one of 72 M in 20 s and 1.2 GiB, one of 177 M in minutes. What no estimate foresees is
//! stopped by the clock ([`crate::patience`]).

use wasmparser::{
    BinaryReaderError, BlockType, CompositeInnerType, Encoding, FunctionBody, FunctionSectionReader,
    ImportSectionReader, Operator, Payload, TypeRef, TypeSectionReader,
};

/// Most functions of all modules together.
const FUNCTIONS: u64 = 200_000;
/// Most parameters and locals of one function.
const LOCALS: u64 = 10_000;
/// Most blocks in each other.
const NESTING: u64 = 10_000;
/// Most work of one function: ways that control may take, times the values that may be carried along each.
const OF_ONE: u64 = 20_000_000;
/// Most work of all functions together.
const IN_ALL: u64 = 400_000_000;

/// Why a component is not compiled.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Its code cannot be read.
    Malformed(BinaryReaderError),
    /// What there is too much of, how much there is, and how much there may be.
    TooMuch(String),
}

impl From<BinaryReaderError> for Refusal {
    fn from(error: BinaryReaderError) -> Self {
        Refusal::Malformed(error)
    }
}

/// What has been seen so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Work {
    /// Functions of all modules.
    functions: u64,
    /// Most parameters and locals of one function.
    locals: u64,
    /// Deepest nesting of blocks.
    nesting: u64,
    /// Most work of one function.
    of_one: u64,
    /// Work of all functions.
    in_all: u64,
    /// Of the present module: parameters and results of each type; zeros where it is no function's.
    types: Vec<(u32, u32)>,
    /// Of the present module: the type of each function, imported ones first.
    type_of: Vec<u32>,
    /// Of the present module: functions whose body has been seen, and imported ones.
    bodies: usize,
}

impl Work {
    /// Counts in a part of the file, if it is a core module's. The error is wasmparser's, or the bound that is broken.
    pub(crate) fn payload(&mut self, payload: &Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } => {
                self.types.clear();
                self.type_of.clear();
                self.bodies = 0;
                Ok(())
            }
            Payload::TypeSection(section) => self.types(section.clone()).map_err(Refusal::from),
            Payload::ImportSection(section) => self.imports(section.clone()).map_err(Refusal::from),
            Payload::FunctionSection(section) => self.functions(section.clone()),
            Payload::CodeSectionEntry(body) => self.body(body),
            _ => Ok(()),
        }
    }

    /// Types of a module.
    fn types(&mut self, section: TypeSectionReader<'_>) -> wasmparser::Result<()> {
        for group in section {
            for kind in group?.types() {
                self.types.push(match &kind.composite_type.inner {
                    CompositeInnerType::Func(f) => (f.params().len() as u32, f.results().len() as u32),
                    _ => (0, 0),
                });
            }
        }
        Ok(())
    }

    /// Its imports.
    fn imports(&mut self, section: ImportSectionReader<'_>) -> wasmparser::Result<()> {
        for import in section.into_imports() {
            if let TypeRef::Func(kind) | TypeRef::FuncExact(kind) = import?.ty {
                self.type_of.push(kind);
            }
        }
        self.bodies = self.type_of.len();
        Ok(())
    }

    /// The types of its functions. The error is the bound that is broken.
    fn functions(&mut self, section: FunctionSectionReader<'_>) -> Result<(), Refusal> {
        self.functions += u64::from(section.count());
        bound("functions in all", self.functions, FUNCTIONS)?;
        for kind in section {
            self.type_of.push(kind?);
        }
        Ok(())
    }

    /// The body of the next function. The error is wasmparser's, or the bound that is broken.
    fn body(&mut self, body: &FunctionBody<'_>) -> Result<(), Refusal> {
        let (at, index) = (body.range().start, self.bodies);
        self.bodies += 1;
        let of = |kind: u32| self.types.get(kind as usize).copied().unwrap_or_default();
        let of_function = |function: usize| self.type_of.get(function).map_or((0, 0), |kind| of(*kind));
        let sum = |(takes, gives): (u32, u32)| u64::from(takes) + u64::from(gives);

        let mut locals = u64::from(of_function(index).0);
        for group in body.get_locals_reader()? {
            locals += u64::from(group?.0);
        }
        let here = |what: &str| format!("{what} of function {index} (at offset {at:#x})");
        bound(&here("parameters and locals"), locals, LOCALS)?;
        self.locals = self.locals.max(locals);

        let (mut depth, mut edges, mut carried, mut passed) = (0_u64, 1_u64, 0_u64, 0_u64);
        let mut code = body.get_operators_reader()?;
        while !code.eof() {
            match code.read()? {
                Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
                    edges += 1;
                    depth += 1;
                    if depth > NESTING {
                        bound(&here("blocks in each other"), depth, NESTING)?;
                    }
                    self.nesting = self.nesting.max(depth);
                    if let BlockType::FuncType(kind) = blockty {
                        carried = carried.max(sum(of(kind)));
                    }
                }
                Operator::End => {
                    edges += 1;
                    depth = depth.saturating_sub(1);
                }
                Operator::Else | Operator::Br { .. } | Operator::BrIf { .. } | Operator::Return => edges += 1,
                Operator::BrOnNull { .. } | Operator::BrOnNonNull { .. } => edges += 1,
                Operator::BrTable { targets } => edges += u64::from(targets.len()) + 1,
                Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                    passed += sum(of_function(function_index as usize));
                }
                Operator::CallIndirect { type_index, .. } | Operator::ReturnCallIndirect { type_index, .. } => {
                    passed += sum(of(type_index));
                }
                _ => {}
            }
        }
        let work = edges.saturating_mul(1 + locals + carried).saturating_add(passed);
        if work > OF_ONE {
            let values = locals + carried;
            bound(&here(&format!("{edges} branches and blocks times {values} locals and other values")), work, OF_ONE)?;
        }
        self.of_one = self.of_one.max(work);
        self.in_all = self.in_all.saturating_add(work);
        bound("branches and blocks times locals and other values, of all functions", self.in_all, IN_ALL)
    }
}

/// The rule, with the value seen and the most that is allowed.
fn bound(what: &str, seen: u64, most: u64) -> Result<(), Refusal> {
    if seen <= most {
        return Ok(());
    }
    Err(Refusal::TooMuch(format!("{what}: {seen}, at most {most}")))
}

#[cfg(test)]
mod tests {
    use wasmparser::{BinaryReader, Parser};

    use super::*;

    fn measure(bytes: &[u8]) -> Result<Work, String> {
        let mut work = Work::default();
        for payload in Parser::new(0).parse_all(bytes) {
            work.payload(&payload.unwrap()).map_err(|refusal| match refusal {
                Refusal::Malformed(error) => panic!("{error}"),
                Refusal::TooMuch(why) => why,
            })?;
        }
        Ok(work)
    }

    fn module(fields: &str) -> Result<Work, String> {
        measure(&wat::parse_str(format!("(module {fields})")).unwrap())
    }

    /// A loop of so many groups of a block and a branch over so many locals: what the compiler is slowest with.
    fn looped(groups: usize, locals: usize) -> String {
        let group = "(block (br_if 0 (local.get 0)) (local.set 1 (local.get 0)))".repeat(groups);
        format!("(func (local {}) (loop {group} (br 0)))", "i32 ".repeat(locals))
    }

    #[test]
    fn what_a_function_adds_up_to() {
        let work = module(&looped(100, 10)).unwrap();
        // Entry and end; a loop with its end and its branch; a block with its end and its branch, 100 times.
        let edges = 2 + 3 + 3 * 100;
        assert_eq!((work.functions, work.locals, work.nesting, work.of_one), (1, 10, 2, edges * 11));
        assert_eq!(work.in_all, work.of_one);

        // What blocks and calls carry counts too, by the types of this module.
        let many = "i32 ".repeat(50);
        let work = module(&format!(
            "(import \"a\" \"b\" (func $f (param {many}) (result {many})))
             (func (param f64) (block (param) (result {many}) unreachable) unreachable)
             (func unreachable call $f unreachable)"
        ))
        .unwrap();
        assert_eq!((work.locals, work.of_one, work.in_all), (1, 4 * 52, 4 * 52 + 2 + 100));
        let table = "(func (block (block (br_table 0 1 0 1 0 (i32.const 1)))))";
        assert_eq!(module(table).unwrap().of_one, 2 + 4 + 5);
    }

    #[test]
    fn every_bound_names_what_was_seen() {
        let error = |fields: &str| module(fields).unwrap_err();
        assert!(module(&looped(4_000, 1_000)).is_ok());
        let seen = error(&looped(9_000, 1_000));
        for part in
            ["27005 branches and blocks times 1000 locals", "function 0 (at offset 0x", "27032005, at most 20000000"]
        {
            assert!(seen.contains(part), "{part}: {seen}");
        }
        let seen = error(&format!("(func (local {}))", "f32 ".repeat(10_001)));
        assert!(seen.contains("locals of function 0") && seen.contains("10001, at most 10000"), "{seen}");
        let seen = error(&format!("(func) {}", looped(1_500, 4_000).repeat(23)));
        assert!(seen.contains("of all functions: 4") && seen.contains("at most 400000000"), "{seen}");
        let seen = error(&"(func)".repeat(200_001));
        assert_eq!(seen, "functions in all: 200001, at most 200000");
        let bytes = |levels: usize| {
            let body = [&b"\0"[..], &b"\x02\x40".repeat(levels), &b"\x0b".repeat(levels + 1)].concat();
            Work::default().body(&FunctionBody::new(BinaryReader::new(&body, 0)))
        };
        assert!(bytes(10_000).is_ok());
        assert!(matches!(bytes(10_001), Err(Refusal::TooMuch(why)) if why.contains("10001, at most 10000")));
    }

    #[test]
    fn modules_of_a_component_add_up() {
        let text = "(component (core module (type (func (param i32 i32 i32))) (func (type 0)))
                               (component (core module (func (param i64)))))";
        let work = measure(&wat::parse_str(text).unwrap()).unwrap();
        assert_eq!((work.functions, work.locals, work.in_all), (2, 3, 2 * 4 + 2 * 2));
    }
}
