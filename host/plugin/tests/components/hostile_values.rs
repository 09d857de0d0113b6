//! Answers that no compiler would lay out: addresses, lengths and cases that are lies, one buffer given many times over,
//! an allocator that lies; and what must come out of all of it bit for bit the same.

use std::time::{Duration, Instant};

use ovhost_plugin::{ColumnData, FilterInstance, OnTrap, PluginError, TrapCause};

use crate::forge::{Forged, ONES};
use crate::{assert_says, ctx, guest, host, load, spec, texts};

/// The error of a batch of two rows. The same host then answers a sound plugin.
fn fault(forged: &Forged) -> PluginError {
    let start = Instant::now();
    let error = forged.load().unwrap().filter().unwrap().process(&ctx(), &texts(&["a", "b"])).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10), "{error}: {:?}", start.elapsed());
    let sound = Forged::new().load().unwrap();
    assert_eq!(sound.filter().unwrap().process(&ctx(), &texts(&["a"])).unwrap().keep, [true]);
    error
}

/// 4 MiB of zeros, which the allocator does not reach.
const ZEROS: u32 = 12 << 20;

/// Words of the good answer over two rows: ok; keep, reason, reasons, add, errors.
const GOOD: [u32; 11] = [0, ONES, 2, 0, 0, 0, 0, 0, 0, 0, 0];

fn answer(change: &[(usize, u32)]) -> PluginError {
    let mut words = GOOD;
    for (at, word) in change {
        words[*at] = *word;
    }
    fault(&Forged::new().answers(&words))
}

#[test]
fn wild_addresses_are_no_memory() {
    let outside = ["failed in process", "malformed value", "out of bounds of memory", "defect of the plugin"];
    assert_says(&answer(&[(1, 0xffff_fff0), (2, 2)]), &outside);
    assert_says(&answer(&[(1, 0), (2, u32::MAX)]), &outside);
    assert_says(&answer(&[(3, 0xfff_fff0), (4, 0x4000_0000)]), &outside);
    assert_says(&answer(&[(5, 0xffff_fff0), (6, 0x2000_0000)]), &outside);
    assert_says(&answer(&[(1, u32::MAX), (2, u32::MAX)]), &outside);
    let mut forged = Forged::new();
    forged.process = "(i32.const -16)".into();
    assert_says(&fault(&forged), &outside);
    forged.process = "(i32.const 61441)".into();
    assert_says(&fault(&forged), &["failed in process", "not aligned"]);
    assert_says(&answer(&[(5, 61_441), (6, 1)]), &["failed in process", "not aligned"]);
}

#[test]
fn cases_that_do_not_exist() {
    assert_says(&answer(&[(0, 7)]), &["failed in process", "discriminant"]);
    let column = |words: [u32; 10]| {
        let mut forged = Forged::new();
        let name = forged.image.text("added");
        let mut words = words;
        words[..2].copy_from_slice(&name);
        let at = forged.image.words(&words);
        fault(&forged.answers(&[0, ONES, 2, 0, 0, 0, 0, at, 1, 0, 0]))
    };
    assert_says(&column([0, 0, 99, 0, 0, 0, 0, 0, 0, 0]), &["failed in process", "discriminant"]);
    assert_says(&column([0, 0, 0, ONES, 2, 0, 0, 2, 0, 0]), &["failed in process", "discriminant"]);
    // A column of the right type and no values.
    assert_says(&column([0, 0, 0, ONES, 1, 0, 0, 0, 0, 0]), &["added", "it has 1 values for 2 rows"]);
    // A mask that is as long as the memory.
    assert_says(&column([0, 0, 0, ONES, 2, 0, 0, 1, 0, 16 << 20]), &["16777216 validity bytes for 2 rows"]);
}

#[test]
fn strings_that_are_none() {
    let mut forged = Forged::new();
    let bytes = forged.image.put(b"\xff\xfe\xfd");
    let reason = forged.image.words(&[bytes, 3]);
    assert_says(&fault(&forged.answers(&[0, ONES, 2, 0, 0, reason, 1, 0, 0, 0, 0])), &["failed in process", "utf-8"]);
    // A reason of 4 MiB: zeros are characters.
    let mut forged = Forged::new();
    let reason = forged.image.words(&[ZEROS, 4 << 20]);
    let error = fault(&forged.answers(&[0, ONES, 2, 0, 0, reason, 1, 0, 0, 0, 0]));
    assert_says(&error, &["has 4194304 bytes, at most 128"]);
    assert!(error.to_string().len() < 1000 && !error.to_string().contains('\0'), "{error}");
}

/// One buffer given many times: little memory in the guest, all of it in the host.
#[test]
fn one_buffer_a_thousand_times_is_too_much() {
    let too_much = |error: PluginError| match error {
        PluginError::Trap { cause: TrapCause::OutputTooLarge { limit_mib: 64 }, .. } => {}
        other => panic!("{other}"),
    };
    let mut forged = Forged::new();
    let reasons = forged.image.words(&[ZEROS, 4 << 20].repeat(1000));
    too_much(fault(&forged.answers(&[0, ONES, 2, 0, 0, reasons, 1000, 0, 0, 0, 0])));

    let mut forged = Forged::new();
    let [at, length] = forged.image.text("added");
    let columns = forged.image.words(&[at, length, 6, ZEROS, 1 << 20, ZEROS, 4 << 20, 1, ZEROS, 4 << 20].repeat(1000));
    too_much(fault(&forged.answers(&[0, ONES, 2, 0, 0, 0, 0, columns, 1000, 0, 0])));

    // 5,000 small columns of one name pass, and are then one too many.
    let mut forged = Forged::new();
    let [at, length] = forged.image.text("added");
    let columns = forged.image.words(&[at, length, 0, ONES, 2, 0, 0, 0, 0, 0].repeat(5_000));
    assert_says(&fault(&forged.answers(&[0, ONES, 2, 0, 0, 0, 0, columns, 5_000, 0, 0])), &["column \"added\" twice"]);

    // 300,000 row errors out of zeros.
    let error = fault(&Forged::new().answers(&[0, ONES, 2, 0, 0, 0, 0, 0, 0, ZEROS, 300_000]));
    assert_says(&error, &["two errors name row 0"]);
}

#[test]
fn an_allocator_that_lies() {
    let realloc = |body: &str| {
        let mut forged = Forged::new();
        forged.realloc = body.into();
        // The configuration needs memory first.
        match forged.load() {
            Err(error) => error,
            Ok(plugin) => plugin.filter().unwrap().process(&ctx(), &texts(&["a", "b"])).unwrap_err(),
        }
    };
    assert_says(&realloc("(i32.const -8)"), &["init", "malformed value", "realloc return: beyond end of memory"]);
    assert_says(&realloc("(unreachable)"), &["init", "aborted"]);
    assert_says(&realloc("(loop (br 0)) (unreachable)"), &["init", "stopped after"]);
    // Calling out of an allocator is against the rules of components.
    let calls = "(call $log (i32.const 1) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0)) (i32.const 0)";
    assert_says(&realloc(calls), &["init", "cannot leave component instance"]);
    // The same place for everything: it hurts nobody but the plugin.
    let mut forged = Forged::new();
    forged.realloc = "(i32.const 8388608)".into();
    assert_eq!(forged.load().unwrap().filter().unwrap().process(&ctx(), &texts(&["a"])).unwrap().keep, [true]);
}

#[test]
fn what_follows_an_answer_is_bounded() {
    let after = |body: &str| {
        let mut forged = Forged::new();
        forged.post = body.into();
        forged.load().unwrap_err()
    };
    assert_says(&after("(loop (br 0))"), &["describe", "stopped after"]);
    assert_says(&after("(unreachable)"), &["describe", "aborted"]);
    assert_says(&after("(drop (memory.grow (i32.const 60000)))"), &["describe", "limits.memory_mib is 256"]);
}

/// Bytes of a guest's answer in a bytes column.
fn bytes_of(filter: &mut FilterInstance) -> Vec<u8> {
    match filter.process(&ctx(), &texts(&["a"])).unwrap().add.remove(0).data {
        ColumnData::Bytes(bytes) => bytes.data,
        other => panic!("{other:?}"),
    }
}

/// A filter that runs `body` and adds the 4 MiB of memory from 12 MiB on, of one row.
fn shows_memory(body: &str) -> Forged {
    let mut forged = Forged::new();
    let [at, length] = forged.image.text("added");
    let offsets = forged.image.words(&[0, 4 << 20]);
    let column = forged.image.words(&[at, length, 6, offsets, 2, 12 << 20, 4 << 20, 0, 0, 0]);
    let answer = forged.image.words(&[0, ONES, 1, 0, 0, 0, 0, column, 1, 0, 0]);
    forged.process = format!("{body} (i32.const {answer})");
    forged
}

#[test]
fn no_instance_sees_what_another_left_behind() {
    // Each instance fills its memory after its answer was taken, and then breaks or goes.
    let mut forged = shows_memory("");
    forged.post = "(memory.fill (i32.const 12582912) (i32.const 170) (i32.const 4194304))".into();
    let plugin = forged.load().unwrap();
    for _ in 0..8 {
        let mut filter = plugin.filter().unwrap();
        // `init` has filled it in this instance.
        assert_eq!(bytes_of(&mut filter), vec![170; 4 << 20], "memory lives from call to call");
    }
    forged.post = "(if (i32.eq (local.get 0) (i32.const ANSWER)) (then
        (memory.fill (i32.const 12582912) (i32.const 170) (i32.const 4194304))))"
        .replace("ANSWER", forged.process.trim().trim_start_matches("(i32.const ").trim_end_matches(')'));
    let plugin = forged.load().unwrap();
    for _ in 0..8 {
        let mut filter = plugin.filter().unwrap();
        assert!(bytes_of(&mut filter).iter().all(|byte| *byte == 0), "a new instance begins with zeros");
        assert!(bytes_of(&mut filter).iter().all(|byte| *byte == 170));
    }
}

#[test]
fn not_a_numbers_are_the_same_bits_everywhere() {
    // Vector and scalar arithmetic whose NaNs IEEE 754 leaves open; 0xffc0... and 0x7f80...1 as inputs.
    let nan = "(v128.const i32x4 0xffc12345 0x7f800001 0xff812345 0x7fffffff)";
    let zero = "(v128.const f32x4 0 0 inf -inf)";
    let body = format!(
        "(v128.store (i32.const 12582912) (f32x4.div {zero} {zero}))
        (v128.store (i32.const 12582928) (f32x4.add {nan} {zero}))
        (v128.store (i32.const 12582944) (f32x4.min {nan} {zero}))
        (v128.store (i32.const 12582960) (f32x4.sqrt (v128.const f32x4 -1 -2 -inf nan:0x123456)))
        (f32.store (i32.const 12582976) (f32.div (f32.const 0) (f32.const 0)))
        (f32.store (i32.const 12582980) (f32.sub (f32.const inf) (f32.const inf)))
        (f32.store (i32.const 12582984) (f32.sqrt (f32.const -1)))
        (f32.store (i32.const 12582988) (f32.demote_f64 (f64.const nan:0xdeadbeef)))
        (f64.store (i32.const 12582992) (f64.mul (f64.const 0) (f64.const inf)))
        (f64.store (i32.const 12583000) (f64.promote_f32 (f32.const nan:0x200001)))"
    );
    let mut filter = shows_memory(&body).load().unwrap().filter().unwrap();
    let bytes = bytes_of(&mut filter);
    let word = |i: usize| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap());
    for i in (0..20).filter(|i| !matches!(i, 2..4 | 6..8 | 10 | 11)) {
        assert_eq!(word(i), 0x7fc0_0000, "word {i}: {:08x?}", (0..24).map(word).collect::<Vec<_>>());
    }
    for i in [21, 23] {
        assert_eq!((word(i - 1), word(i)), (0, 0x7ff8_0000));
    }
    assert_eq!(bytes, bytes_of(&mut filter));
}

#[test]
fn not_a_numbers_of_a_compiled_guest() {
    let plugin = load(guest("misbehave"), "nan");
    let batch = texts(&["a"; 6]);
    let bits = |filter: &mut FilterInstance| {
        let out = filter.process(&ctx(), &batch).unwrap();
        match (&out.add[0].data, &out.add[1].data) {
            (ColumnData::F32s(a), ColumnData::F64s(b)) => {
                (a.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), b.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
            }
            other => panic!("{other:?}"),
        }
    };
    let mut filter = plugin.filter().unwrap();
    let (computed, own) = bits(&mut filter);
    assert_eq!(computed, [0x7fc0_0000; 6], "what arithmetic gives is canonical");
    assert_eq!(own, [0xfff4_dead_beef_0001; 6], "what the plugin wrote is data, and comes through as it is");
    assert_eq!((computed, own), bits(&mut plugin.filter().unwrap()));
}

#[test]
fn a_forged_failure_is_contained_like_any_other() {
    // Row 0's text has its length in the first offset after 0: a row longer than 3 bytes gets a wild answer.
    let mut forged = Forged::new();
    forged.process = "(if (result i32) (i32.gt_u (i32.load offset=4 (i32.load offset=12 (local.get 5))) (i32.const 3))
          (then (i32.const -16)) (else
            (i32.store (i32.const 61444) (i32.const 40960)) (i32.store (i32.const 61448) (local.get 4))
            (i32.const 61440)))"
        .into();
    let mut filter = forged.load().unwrap().filter().unwrap();
    filter.set_on_trap(OnTrap::Reject).unwrap();
    for _ in 0..3 {
        let out = filter.process(&ctx(), &texts(&["long enough"])).unwrap();
        assert_eq!(out.errors.len(), 1);
        assert!(out.errors[0].1.contains("out of bounds of memory"), "{:?}", out.errors);
        assert_eq!(filter.process(&ctx(), &texts(&["a", "b", "c"])).unwrap().keep, [true; 3]);
    }
    assert_eq!(filter.counters().traps, 3);
    let spec = spec(guest("misbehave"), "good");
    assert_eq!(host().load(&spec).unwrap().filter().unwrap().process(&ctx(), &texts(&["a"])).unwrap().keep, [true]);
}
