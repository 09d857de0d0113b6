//! Failures that are kept as files, and make the plugin fail again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ovhost_plugin::{
    Batch, Bundle, CallCtx, Limits, Mode, OnTrap, PackLimits, Plugin, PluginError, PluginSpec, Replay, Verdict,
};

use crate::{answers, ctx, guest, host, samples, spec, texts};

/// Limits under which loops and leaks end soon.
fn tight() -> Limits {
    Limits { memory_mib: 16, fuel_base: 20_000_000, fuel_per_row: 100_000, output_mib: 2, ..Limits::default() }
}

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Lab { dir: tempfile::tempdir().unwrap() }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("crashes")
    }

    fn load(&self, name: &str, entry: &str) -> Plugin {
        self.try_load(name, entry).unwrap()
    }

    fn try_load(&self, name: &str, entry: &str) -> Result<Plugin, PluginError> {
        host().load(&PluginSpec { limits: tight(), seed: 11, crashes: Some(self.folder()), ..spec(guest(name), entry) })
    }

    /// The files that were kept.
    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder()).into_iter().flatten();
        let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }

    fn only(&self) -> Bundle {
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        Bundle::read(&files[0]).unwrap()
    }
}

fn replay(bundle: &Bundle) -> Replay {
    bundle.replay(host(), None, &BTreeMap::new()).unwrap()
}

#[track_caller]
fn assert_again(bundle: &Bundle) {
    let again = replay(bundle);
    assert_eq!(again.verdict, Verdict::Reproduced, "{bundle:?}\n{again:?}");
}

fn poison() -> Batch {
    texts(&["a", "b", "poison", "d", "e"])
}

#[test]
fn a_filter_s_failure_is_its_guilty_row() {
    for (entry, class) in [
        ("panic", "panic"),
        ("abort", "panic"),
        ("loop", "out-of-fuel"),
        ("memory", "memory"),
        ("wild_pointer", "out-of-bounds"),
        ("log_lies", "panic"),
    ] {
        let lab = Lab::new();
        let error = lab.load("misbehave", entry).filter().unwrap().process(&ctx(), &poison()).unwrap_err();
        let bundle = lab.only();
        let failure = &bundle.failure;
        assert_eq!((failure.class.as_str(), failure.row, failure.key.as_deref()), (class, Some(1002), Some("k2")));
        assert!(error.to_string().contains(&failure.text), "{error}");
        assert_eq!(bundle.call.batch.rows.len(), 1);
        assert_eq!(bundle.call.batch.rows[0]["text"], "poison", "{entry}");
        assert_eq!(bundle.call.ctx, Some(CallCtx { first_row: 1002, ..ctx() }));
        assert_again(&bundle);
    }
}

#[test]
fn a_broken_answer_keeps_the_batch() {
    for entry in ["wrong_length", "bad_keep", "undeclared_column", "bad_offsets", "same_error", "huge_output"] {
        let lab = Lab::new();
        lab.load("misbehave", entry).filter().unwrap().process(&ctx(), &poison()).unwrap_err();
        let bundle = lab.only();
        // An answer that is too large is a trap and is bisected; a malformed one is seen as a whole.
        let whole = entry != "huge_output";
        assert_eq!(bundle.call.batch.rows.len(), if whole { 5 } else { 1 }, "{entry}");
        assert_eq!(bundle.failure.class == "contract", whole);
        assert_again(&bundle);
    }
}

#[test]
fn the_backtrace_names_the_plugin_s_functions() {
    let lab = Lab::new();
    let error = lab.load("misbehave", "panic").filter().unwrap().process(&ctx(), &poison()).unwrap_err();
    let PluginError::Trap { backtrace, .. } = &error else { panic!("{error}") };
    assert!(backtrace.iter().any(|name| name.contains("misbehave")), "{backtrace:?}");
    assert!(!backtrace[0].contains("panicking"), "{backtrace:?}");
    assert!(error.to_string().contains(" [in "), "{error}");
    assert_eq!(lab.only().failure.backtrace, **backtrace);
}

#[test]
fn rejected_rows_leave_ten_files_and_no_more() {
    let lab = Lab::new();
    let plugin = lab.load("misbehave", "panic");
    let rows: Vec<String> = (0..30).map(|i| if i % 2 == 0 { format!("poison {i}") } else { "good".into() }).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let mut filter = plugin.filter().unwrap();
    filter.set_on_trap(OnTrap::Reject).unwrap();
    let decisions = filter.process(&ctx(), &texts(&rows)).unwrap();
    assert_eq!(decisions.errors.len(), 15);
    assert!(decisions.errors.iter().all(|(_, words)| !words.contains("[in ")), "row errors stay short");
    let files = lab.files();
    assert_eq!(files.len(), 10, "{files:?}");
    for file in &files {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("filter.panic.") && name.ends_with(".json"), "{name}");
        assert_again(&Bundle::read(file).unwrap());
    }
    // The same failure again is the same file: a run that is started again does not use up the number.
    let first: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    filter.process(&ctx(), &texts(&rows)).unwrap();
    assert_eq!(lab.files().iter().map(|f| std::fs::read(f).unwrap()).collect::<Vec<_>>(), first);
}

#[test]
fn without_a_folder_nothing_is_kept() {
    let lab = Lab::new();
    let plugin = host().load(&PluginSpec { limits: tight(), ..spec(guest("misbehave"), "panic") }).unwrap();
    plugin.filter().unwrap().process(&ctx(), &poison()).unwrap_err();
    assert!(!lab.folder().exists());
}

#[test]
fn a_refusal_is_no_crash() {
    let lab = Lab::new();
    lab.load("misbehave", "call_error").filter().unwrap().process(&ctx(), &poison()).unwrap_err();
    assert!(lab.files().is_empty());
}

#[test]
fn a_streaming_filter_is_brought_to_where_it_was() {
    let lab = Lab::new();
    let plugin = lab.load("counting", "counting");
    let mut filter = plugin.filter().unwrap();
    let at = |row| CallCtx { first_row: row, ..CallCtx::default() };
    filter.process(&at(0), &texts(&["a", "b"])).unwrap();
    filter.save().unwrap();
    filter.process(&at(2), &texts(&["c", "c"])).unwrap();
    filter.process(&at(4), &texts(&["a", "poison"])).unwrap_err();
    let bundle = lab.only();
    let stream = bundle.stream.as_ref().unwrap();
    assert!(stream.state.is_some());
    assert_eq!(stream.before.len(), 1);
    assert_eq!((bundle.call.batch.rows.len(), bundle.failure.row, &bundle.missing), (2, None, &None));
    assert_again(&bundle);
    // It is the rows, and not the replay, that fail.
    let mut mended = bundle.clone();
    mended.call.batch.rows[1].insert("text".into(), "cure".into());
    assert_eq!(replay(&mended).verdict, Verdict::Passed);
}

#[test]
fn a_packer_is_brought_to_where_it_was() {
    let limits = PackLimits { capacity: 5000, max_items_per_bin: 0, max_open_items: 0 };
    let start = |lab: &Lab, entry: &str| {
        let mut packer = lab.load("misbehave_packer", entry).packer().unwrap();
        packer.start(&limits).unwrap();
        packer
    };
    // A trap at a long sample, after a saved state.
    let lab = Lab::new();
    let mut packer = start(&lab, "panic");
    packer.push(&ctx(), &samples(&[(1, 10), (2, 20)])).unwrap();
    packer.save().unwrap();
    packer.push(&ctx(), &samples(&[(3, 10)])).unwrap();
    packer.push(&ctx(), &samples(&[(4, 10), (5, 2000)])).unwrap_err();
    let bundle = lab.only();
    let stream = bundle.stream.as_ref().unwrap();
    assert_eq!((stream.limits, stream.state.is_some(), stream.before.len()), (Some(limits), true, 1));
    assert_again(&bundle);

    // Samples that never come back: only what was pushed before shows it.
    let lab = Lab::new();
    let mut packer = start(&lab, "hoard");
    for id in 0..4 {
        packer.push(&ctx(), &samples(&[(id, 10)])).unwrap();
    }
    packer.flush().unwrap_err();
    let bundle = lab.only();
    assert_eq!((bundle.failure.class.as_str(), bundle.call.function.as_str()), ("contract", "flush"));
    assert_eq!(bundle.stream.as_ref().unwrap().before.len(), 4);
    assert_again(&bundle);

    for (entry, function) in [("flush_panic", "flush"), ("save_panic", "save")] {
        let lab = Lab::new();
        let mut packer = start(&lab, entry);
        packer.push(&ctx(), &samples(&[(1, 10)])).unwrap();
        match function {
            "flush" => drop(packer.flush().unwrap_err()),
            _ => drop(packer.save().unwrap_err()),
        }
        let bundle = lab.only();
        assert_eq!(bundle.call.function, function);
        assert_again(&bundle);
    }

    let lab = Lab::new();
    let state = start(&lab, "restore_panic").save().unwrap();
    start(&lab, "restore_panic").restore(&state).unwrap_err();
    let bundle = lab.only();
    assert_eq!((bundle.call.function.as_str(), bundle.call.argument.is_some()), ("restore", true));
    assert_again(&bundle);
}

#[test]
fn a_stream_too_long_to_keep_says_so() {
    let lab = Lab::new();
    let mut packer = lab.load("misbehave_packer", "panic").packer().unwrap();
    packer.start(&PackLimits { capacity: 5000, max_items_per_bin: 0, max_open_items: 0 }).unwrap();
    for id in 0..300 {
        packer.push(&ctx(), &samples(&[(id, 10)])).unwrap();
    }
    packer.push(&ctx(), &samples(&[(999, 2000)])).unwrap_err();
    let mut bundle = lab.only();
    assert!(bundle.missing.as_ref().unwrap().contains("too much to keep"));
    assert!(bundle.stream.as_ref().unwrap().before.is_empty());
    assert_again(&bundle);
    // Where it then does not fail, nobody can tell why.
    bundle.call.batch.rows[0].insert("length".into(), 10.into());
    assert_eq!(replay(&bundle).verdict, Verdict::Unclear);
}

#[test]
fn a_metric_s_failure_comes_with_its_state() {
    for policy in [OnTrap::Stop, OnTrap::Reject] {
        let lab = Lab::new();
        let mut metric = lab.load("misbehave_metric", "panic").metric().unwrap();
        metric.set_on_trap(policy);
        metric.update(&ctx(), &answers(&["yes", "no"])).unwrap();
        let answer = metric.update(&ctx(), &answers(&["yes", "poison", "no"]));
        assert_eq!(answer.is_err(), policy == OnTrap::Stop);
        let bundle = lab.only();
        assert_eq!((bundle.call.function.as_str(), bundle.failure.key.as_deref()), ("update", Some("k1")));
        assert_eq!(bundle.stream.is_some(), policy == OnTrap::Reject, "the state is known where it is saved");
        assert_again(&bundle);
    }
    for (entry, function) in [("finalize_loop", "finalize"), ("infinite", "finalize"), ("no_outputs", "outputs")] {
        let lab = Lab::new();
        let mut metric = lab.load("misbehave_metric", entry).metric().unwrap();
        metric.set_on_trap(OnTrap::Reject);
        if function == "outputs" {
            metric.outputs().unwrap_err();
        } else {
            metric.update(&ctx(), &answers(&["yes"])).unwrap();
            metric.finalize().unwrap_err();
        }
        let bundle = lab.only();
        assert_eq!(bundle.call.function, function, "{entry}");
        assert_again(&bundle);
    }
}

#[test]
fn a_prompt_s_failure_keeps_its_mode() {
    let records = |texts: &[&str]| Batch {
        rows: texts.len() as u32,
        columns: vec![
            ovhost_plugin::Column::utf8("record", texts),
            ovhost_plugin::Column::new("num-images", ovhost_plugin::ColumnData::U32s(vec![1; texts.len()])),
        ],
    };
    for entry in ["panic", "no_such_image", "wrong_length"] {
        let lab = Lab::new();
        let mut prompt = lab.load("misbehave_prompt", entry).prompt().unwrap();
        prompt.render(&ctx(), Mode::Generate, &records(&["a", "poison"])).unwrap_err();
        let bundle = lab.only();
        assert_eq!(bundle.call.mode, Some(Mode::Generate), "{entry}");
        assert_again(&bundle);
    }
    let lab = Lab::new();
    assert!(lab.load("misbehave_prompt", "specials_panic").prompt().is_err());
    assert_again(&lab.only());
}

#[test]
fn a_failing_init_is_kept_too() {
    for entry in ["init_panic", "init_loop"] {
        let lab = Lab::new();
        assert!(lab.try_load("misbehave", entry).is_err());
        let bundle = lab.only();
        assert_eq!(bundle.call.function, "init");
        assert_again(&bundle);
    }
}

#[test]
fn another_component_and_another_hash() {
    let lab = Lab::new();
    lab.load("misbehave", "panic").filter().unwrap().process(&ctx(), &poison()).unwrap_err();
    let bundle = lab.only();
    // The recorded hash must be met, unless another component is asked for.
    let mut other = bundle.clone();
    other.component.sha256 = "0".repeat(64);
    let error = other.replay(host(), None, &BTreeMap::new()).unwrap_err();
    assert!(matches!(error, PluginError::HashMismatch { .. }), "{error}");
    let given: &Path = &guest("misbehave");
    assert_eq!(other.replay(host(), Some(given), &BTreeMap::new()).unwrap().verdict, Verdict::Reproduced);
    // Mended: the same rows, and the entry that does nothing wrong.
    let mut mended = bundle.clone();
    mended.entry = "good".into();
    assert_eq!(replay(&mended).verdict, Verdict::Passed);
    mended.entry = "loop".into();
    assert_eq!(replay(&mended).verdict, Verdict::FailedOtherwise);
}
