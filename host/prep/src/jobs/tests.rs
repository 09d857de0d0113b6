//! Jobs are done once, in any split, after any stop; another plan is refused; errors are the first in order.

use std::sync::Mutex;

use ovhost_data::Reject;

use super::*;
use crate::files::put;

/// Writes its number into a file; in order, the sum of all numbers so far.
struct Numbers {
    in_order: bool,
    fails_at: Option<usize>,
    /// Jobs as they were run.
    ran: Mutex<Vec<usize>>,
}

impl Numbers {
    fn new(in_order: bool, fails_at: Option<usize>) -> Self {
        Numbers { in_order, fails_at, ran: Mutex::default() }
    }
}

impl Step for Numbers {
    type Worker = usize;

    fn worker(&self) -> Result<usize, PrepError> {
        Ok(0)
    }

    fn in_order(&self) -> bool {
        self.in_order
    }

    fn save(&self, sum: &mut usize) -> Result<Vec<u8>, PrepError> {
        Ok(sum.to_string().into_bytes())
    }

    fn restore(&self, sum: &mut usize, state: &[u8]) -> Result<(), PrepError> {
        *sum = String::from_utf8_lossy(state).parse().unwrap();
        Ok(())
    }

    fn job(
        &self,
        sum: &mut usize,
        index: usize,
        out: &Path,
        tick: &(dyn Fn(u64) -> Result<(), PrepError> + Sync),
    ) -> Result<Made, PrepError> {
        tick(1)?;
        if self.fails_at == Some(index) {
            return Err(PrepError::Option(format!("job {index} fails")));
        }
        lock(&self.ran).push(index);
        *sum = if self.in_order { *sum + index } else { index };
        let name = format!("{index}.txt");
        put(&out.join(&name), sum.to_string().as_bytes())?;
        let reject = Reject { key: format!("k{index}"), shard: "s".into(), stage: "read", reason: "why".into() };
        let rejected = [("read".to_owned(), 1)].into();
        let mut made = Made::within(out);
        made.rejects.push(reject);
        let counts = Counters { read: 2, samples: 1, rejected, ..Counters::default() };
        Ok(Made { files: vec![MadeFile::of(&out.join(&name), &name, 1)?], counts, ..made })
    }

    fn finish(&self, out: &Path, done: &[Done], _: &Counters) -> Result<(), PrepError> {
        put(&out.join("finished"), done.len().to_string().as_bytes())
    }
}

fn plan(setting: u32) -> Plan {
    Plan { step: "numbers", settings: json!({ "setting": setting }), jobs: (0..10).map(|i| format!("j{i}")).collect() }
}

fn go(step: &Numbers, setting: u32, out: &Path, workers: usize, part: Part) -> Result<Summary, PrepError> {
    let stop = AtomicBool::new(false);
    let budget = RejectBudget { max_rate: 1.0, max_count: None, words: WORDS };
    let options = RunOptions { out: out.to_owned(), workers, part, budget, stop: &stop, progress: &|_| {} };
    run(step, &plan(setting), &options)
}

/// Every file that is output (not the records of single jobs), by name.
fn output(out: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(out)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_file())
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&p).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn any_split_and_any_failure_end_in_the_same_bytes() {
    let whole = tempfile::tempdir().unwrap();
    let summary = go(&Numbers::new(false, None), 1, whole.path(), 3, Part::default()).unwrap();
    assert_eq!((summary.jobs, summary.done, summary.before, summary.finished), (10, 10, 0, true));
    assert_eq!((summary.counts.read, summary.counts.rejected_total()), (20, 10));
    let expected = output(whole.path());
    assert!(expected.iter().any(|(name, _)| name == "rejects.jsonl"));

    let parts = tempfile::tempdir().unwrap();
    let first = go(&Numbers::new(false, None), 1, parts.path(), 2, Part { index: 1, count: 3 }).unwrap();
    assert!(!first.finished && !parts.path().join("manifest.json").exists());
    for index in [0, 2] {
        go(&Numbers::new(false, None), 1, parts.path(), 1, Part { index, count: 3 }).unwrap();
    }
    assert_eq!(output(parts.path()), expected);

    let failing = tempfile::tempdir().unwrap();
    let error = go(&Numbers::new(false, Some(4)), 1, failing.path(), 2, Part::default()).unwrap_err();
    assert_eq!(error.to_string(), "job 4 fails");
    // A file that somebody cut short is made again, too.
    fs::write(failing.path().join("1.txt"), "").unwrap();
    let step = Numbers::new(false, None);
    let summary = go(&step, 1, failing.path(), 2, Part::default()).unwrap();
    let ran = step.ran.into_inner().unwrap();
    assert!(ran.contains(&1) && ran.contains(&4) && !ran.contains(&0), "{ran:?}");
    assert_eq!(summary.done, ran.len());
    assert_eq!(output(failing.path()), expected);
}

#[test]
fn in_order_the_state_goes_on_where_it_was_saved() {
    let whole = tempfile::tempdir().unwrap();
    go(&Numbers::new(true, None), 1, whole.path(), 4, Part::default()).unwrap();
    assert_eq!(fs::read_to_string(whole.path().join("9.txt")).unwrap(), "45");
    assert_eq!(last_state(&plan(1), whole.path()).unwrap(), b"45");

    let broken = tempfile::tempdir().unwrap();
    go(&Numbers::new(true, Some(7)), 1, broken.path(), 4, Part::default()).unwrap_err();
    // As if the state had been saved after job 4.
    let folder = Folder::open(&plan(1), broken.path()).unwrap();
    folder.put_state(4, b"10").unwrap();
    let step = Numbers::new(true, None);
    let summary = go(&step, 1, broken.path(), 4, Part::default()).unwrap();
    assert_eq!(step.ran.into_inner().unwrap(), [5, 6, 7, 8, 9], "what came after the state runs again");
    assert_eq!((summary.before, summary.finished), (5, true));
    assert_eq!(output(broken.path()), output(whole.path()));

    let error = go(&Numbers::new(true, None), 1, broken.path(), 1, Part { index: 0, count: 2 }).unwrap_err();
    assert!(error.to_string().contains("streaming"), "{error}");
    let mut state = fs::read(records(broken.path(), "numbers").join(STATE)).unwrap();
    state[40] ^= 1;
    fs::write(records(broken.path(), "numbers").join(STATE), state).unwrap();
    let error = go(&Numbers::new(true, None), 1, broken.path(), 1, Part::default()).unwrap_err();
    assert!(error.to_string().contains("hash"), "{error}");
}

#[test]
fn other_settings_are_refused_with_what_differs() {
    let out = tempfile::tempdir().unwrap();
    go(&Numbers::new(false, None), 1, out.path(), 1, Part::default()).unwrap();
    let error = go(&Numbers::new(false, None), 2, out.path(), 1, Part::default()).unwrap_err().to_string();
    assert!(error.contains("settings.setting was 1 and is 2 now"), "{error}");
    let again = go(&Numbers::new(false, None), 1, out.path(), 1, Part::default()).unwrap();
    assert_eq!((again.done, again.before), (0, 10));
}

#[test]
fn too_many_rejects_and_a_request_to_stop_end_it() {
    let out = tempfile::tempdir().unwrap();
    let (stop, budget) = (AtomicBool::new(false), RejectBudget { max_rate: 1.0, max_count: Some(3), words: WORDS });
    let mut options = RunOptions {
        out: out.path().into(),
        workers: 1,
        part: Part::default(),
        budget,
        stop: &stop,
        progress: &|_| {},
    };
    let error = run(&Numbers::new(false, None), &plan(1), &options).unwrap_err().to_string();
    assert!(error.contains("--max-rejects is 3") && error.contains("k3"), "{error}");
    stop.store(true, Ordering::Relaxed);
    options.budget.max_count = None;
    assert!(matches!(run(&Numbers::new(false, None), &plan(1), &options), Err(PrepError::Stopped)));
}

#[test]
fn parts_parse() {
    assert_eq!("2/8".parse::<Part>(), Ok(Part { index: 2, count: 8 }));
    for wrong in ["8/8", "1", "a/2", "-1/2", ""] {
        assert!(wrong.parse::<Part>().unwrap_err().contains("0/8"), "{wrong}");
    }
}
