//! The loader on bytes that are no plugin, almost a plugin, or a plugin with a bit or two wrong: an error or a plugin, and
//! never a panic, a crash or a wait without end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::forge::{Forged, load_bytes};
use crate::load_any::{Reached, load_bytes as try_any};
use crate::mutate::{Random, mutate};
use crate::{assert_says, frame, workspace};

/// Longest that any input may take; one takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tries the inputs one after the other on a thread of its own, so that one that hangs is named. Returns how many came how
/// far.
fn try_all(inputs: Vec<(String, Vec<u8>)>) -> BTreeMap<Reached, usize> {
    let names: Vec<String> = inputs.iter().map(|(name, _)| name.clone()).collect();
    let (sender, results) = channel();
    std::thread::spawn(move || inputs.iter().for_each(|(_, bytes)| sender.send(try_any(bytes)).unwrap()));
    let mut reached = BTreeMap::new();
    for name in &names {
        match results.recv_timeout(PATIENCE) {
            Ok(stage) => *reached.entry(stage).or_default() += 1,
            Err(RecvTimeoutError::Timeout) => panic!("the loader hangs on {name}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the loader panics on {name}"),
        }
    }
    println!("{reached:?}");
    reached
}

fn corpus_folder() -> PathBuf {
    workspace().join("tests/fuzz/corpus/load")
}

/// The small inputs that a fuzzer begins with, in order of their names.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(corpus_folder()).unwrap();
    let file = |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap());
    let mut files: Vec<_> = entries.map(|entry| file(entry.unwrap().path())).collect();
    files.sort();
    files
}

/// The forged part of the corpus is what the forge makes now. `OVHOST_BLESS=1` writes it.
#[test]
fn the_corpus_is_up_to_date() {
    let plain: [(&str, Vec<u8>); 6] = [
        ("empty", vec![]),
        ("elf", b"\x7fELF\x02\x01\x01\0".to_vec()),
        ("text", b"(component)".to_vec()),
        ("core_module", b"\0asm\x01\0\0\0".to_vec()),
        ("bare_component", b"\0asm\x0d\0\x01\0".to_vec()),
        ("other_version", b"\0asm\xff\xff\x01\0".to_vec()),
    ];
    let forged = frame::FROZEN.map(|(kind, _)| (kind, Forged::idle(kind).build()));
    let nameless = ("nameless", Forged::described(|_, entry| entry[1] = 0).build());
    for (name, bytes) in plain.into_iter().chain(forged).chain([nameless]) {
        let path = corpus_folder().join(format!("{name}.wasm"));
        if std::env::var_os("OVHOST_BLESS").is_some() {
            std::fs::create_dir_all(corpus_folder()).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert!(
            std::fs::read(&path).unwrap() == bytes,
            "{} is not what the test makes: set OVHOST_BLESS=1",
            path.display()
        );
    }
}

#[test]
fn the_corpus_reaches_every_stage() {
    let reached = try_all(corpus());
    let stages = [Reached::Scan, Reached::Types, Reached::Described, Reached::Loaded, Reached::Works];
    assert!(stages.iter().all(|stage| reached.contains_key(stage)), "{reached:?}");
}

#[test]
fn a_component_cut_anywhere_is_an_error_or_a_plugin() {
    let whole = Forged::new().build();
    let cuts = (0..whole.len()).map(|n| (format!("the first {n} bytes"), whole[..n].to_vec())).collect();
    let reached = try_all(cuts);
    // What follows the last section that counts are the names for debuggers.
    assert!(reached[&Reached::Scan] + reached[&Reached::Types] > whole.len() - 3_000, "{reached:?}");
}

#[test]
fn one_bit_wrong_at_every_fourth_byte() {
    let whole = Forged::new().build();
    let mut random = Random(1);
    let mut flip = |at: usize| {
        let (mut bytes, bit) = (whole.clone(), random.below(8));
        bytes[at] ^= 1 << bit;
        (format!("bit {bit} of byte {at}"), bytes)
    };
    let reached = try_all((0..whole.len()).step_by(4).map(&mut flip).collect());
    assert!(reached[&Reached::Types] > 1_000 && reached[&Reached::Works] > 100, "{reached:?}");
}

#[test]
fn random_bytes_and_mutants_of_the_corpus() {
    let corpus = corpus();
    let mut random = Random(2);
    let mut inputs = Vec::new();
    for i in 0..300 {
        let length = random.below(400);
        let mut bytes: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        if i % 2 == 0 {
            bytes.splice(..0, *b"\0asm\x0d\0\x01\0");
        }
        inputs.push((format!("random bytes {i}"), bytes));
    }
    for i in 0..2_000 {
        let (name, bytes) = &corpus[random.below(corpus.len())];
        let mut bytes = bytes.clone();
        let times = 1 + random.below(3);
        for _ in 0..times {
            mutate(&mut bytes, &corpus[random.below(corpus.len())].1, &mut random);
        }
        inputs.push((format!("mutant {i}, of {name}"), bytes));
    }
    let reached = try_all(inputs);
    assert!(reached[&Reached::Types] > 100 && reached[&Reached::Scan] > 100, "{reached:?}");
}

#[test]
fn code_that_would_take_minutes_to_compile_is_refused() {
    let group = "(block (br_if 0 (local.get 0)) (local.set 1 (local.get 0)))".repeat(9_000);
    let mut forged = Forged::new();
    forged.fields = format!("(func (local {}) (loop {group} (br 0)))", "i32 ".repeat(5_000));
    assert_says(&load_bytes(&forged.build()).unwrap_err(), &["would take too long to compile", "5000 locals"]);
}

#[test]
fn types_nested_without_end_are_refused() {
    // Each level is three bytes: a component type (0x41) of one declaration (0x01), which is a type (0x01).
    let depth = 200_000;
    let mut section = vec![1];
    section.extend([0x41, 1, 1].repeat(depth));
    section.extend([0x41, 0]);
    let mut component = Forged::new().build();
    component.push(7);
    leb(&mut component, section.len());
    component.extend(section);
    assert_says(
        &load_bytes(&component).unwrap_err(),
        &["not a valid component", "types are nested more than 100 deep"],
    );

    let nested = |levels: usize| {
        // Each around the last: the section's number (4), its length, a header, the inside.
        let mut inside = b"\0asm\x0d\0\x01\0".to_vec();
        for _ in 0..levels {
            let mut around = b"\0asm\x0d\0\x01\0".to_vec();
            around.push(4);
            leb(&mut around, inside.len());
            around.extend(inside);
            inside = around;
        }
        load_bytes(&inside).unwrap_err()
    };
    assert_says(&nested(3), &["exports none of"]);
    assert_says(&nested(5_000), &["not a valid component", "components are nested more than 100 deep"]);
}

fn leb(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
