//! Many requests: order, what is kept, what it may cost, how it stops.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::server::{Answer, Server};
use ovhost_judge::{
    AskError, Budget, Counters, Court, CourtError, Judge, Key, OpenAi, Outcome, Reply, Request, Retries, Settings,
    Unasked,
};
use serde_json::{Value, json};

fn endpoint(server: &Server, concurrency: usize) -> Box<OpenAi> {
    let mut settings = Settings::new(&server.url, "judge-7b");
    settings.retries = Retries { most: 1, first: Duration::from_millis(2), ..Retries::default() };
    settings.concurrency = concurrency;
    settings.key = Key::new("sk-sesame").unwrap();
    Box::new(OpenAi::new(settings).unwrap())
}

/// Says what it was asked.
fn echo() -> Server {
    Server::start(|seen, _| Answer::says(&format!("of {}", seen.asked())))
}

fn requests(texts: impl IntoIterator<Item = impl ToString>) -> Vec<Request> {
    texts.into_iter().map(|t| Request::new(vec![("user".into(), t.to_string())])).collect()
}

fn hear(court: &mut Court<'_>, requests: &[Request]) -> Vec<Outcome> {
    court.hear(requests, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

fn texts(outcomes: &[Outcome]) -> Vec<&str> {
    let text = |outcome| match outcome {
        &Outcome::Reply(Reply { ref text, .. }) => text.as_str(),
        Outcome::Failed(_) => "failed",
        Outcome::Unasked(Unasked::Budget) => "budget",
        Outcome::Unasked(Unasked::Stopped) => "stopped",
        Outcome::Unasked(Unasked::GivenUp) => "given up",
    };
    outcomes.iter().map(text).collect()
}

#[test]
fn outcomes_are_in_the_order_of_the_requests_whatever_the_timing() {
    // The earlier it is asked, the later it answers.
    let (now, most) = (std::sync::Arc::new(AtomicUsize::new(0)), std::sync::Arc::new(AtomicUsize::new(0)));
    let (inside, highest) = (now.clone(), most.clone());
    let server = Server::start(move |seen, before| {
        highest.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(60u64.saturating_sub(before as u64 * 2)));
        inside.fetch_sub(1, Ordering::SeqCst);
        Answer::says(&format!("of {}", seen.asked()))
    });
    let mut court = Court::new(endpoint(&server, 8), Budget::default());
    let told = Mutex::new(Vec::new());
    let asked = requests(0..40);
    let outcomes = court
        .hear(&asked, &AtomicBool::new(false), &mut |p| told.lock().unwrap().push((p.done, p.of, p.counters.asked)))
        .unwrap();
    let wanted: Vec<String> = (0..40).map(|i| format!("of {i}")).collect();
    assert_eq!(texts(&outcomes), wanted);
    let told = told.into_inner().unwrap();
    assert_eq!(told.iter().map(|t| (t.0, t.1)).collect::<Vec<_>>(), (0..=40).map(|i| (i, 40)).collect::<Vec<_>>());
    assert_eq!(told.last().unwrap().2, 40);
    let most = most.load(Ordering::SeqCst);
    assert!((2..=8).contains(&most), "{most} at once");
}

#[test]
fn what_is_in_the_file_is_not_asked_again() {
    let (dir, server) = (tempfile::tempdir().unwrap(), echo());
    let path = dir.path().join("judge.jsonl");
    let first = {
        let mut court = Court::new(endpoint(&server, 3), Budget::default()).with_cache(&path).unwrap();
        hear(&mut court, &requests(["a", "b", "c"]))
    };
    let file = std::fs::read_to_string(&path).unwrap();
    assert_eq!(file.lines().count(), 3);
    assert!(!file.contains("sesame"), "{file}");
    let mut court = Court::new(endpoint(&server, 3), Budget::default()).with_cache(&path).unwrap();
    assert_eq!(hear(&mut court, &requests(["a", "b", "c"])), first);
    assert_eq!(court.counters(), Counters { cached: 3, ..Counters::default() });
    assert_eq!(server.seen().len(), 3);
    // Another request, another length, another judge: asked.
    hear(&mut court, &[Request { max_tokens: 9, ..requests(["a"]).remove(0) }]);
    hear(&mut court, &[Request { json: true, ..requests(["a"]).remove(0) }]);
    drop(court);
    let mut other = Settings::new(&server.url, "judge-70b");
    other.concurrency = 1;
    let other = Box::new(OpenAi::new(other).unwrap());
    let mut court = Court::new(other, Budget::default()).with_cache(&path).unwrap();
    hear(&mut court, &requests(["a"]));
    assert_eq!(server.seen().len(), 6);
}

#[test]
fn the_same_request_is_asked_once() {
    let server = echo();
    let mut court = Court::new(endpoint(&server, 4), Budget::default());
    let outcomes = hear(&mut court, &requests(["a", "b", "a", "a"]));
    assert_eq!(texts(&outcomes), ["of a", "of b", "of a", "of a"]);
    let wanted = Counters { asked: 2, cached: 2, prompt_tokens: 20, completion_tokens: 4, ..Counters::default() };
    assert_eq!((court.counters(), server.seen().len()), (wanted, 2));
}

fn filled(path: &Path, server: &Server) -> Vec<u8> {
    let mut court = Court::new(endpoint(server, 1), Budget::default()).with_cache(path).unwrap();
    hear(&mut court, &requests(["a", "b"]));
    std::fs::read(path).unwrap()
}

#[test]
fn a_line_cut_short_is_dropped_and_asked_again() {
    let (dir, server) = (tempfile::tempdir().unwrap(), echo());
    let path = dir.path().join("judge.jsonl");
    let whole = filled(&path, &server);
    let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
    for cut in [first, first + 1, whole.len() - 20, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let mut court = Court::new(endpoint(&server, 1), Budget::default()).with_cache(&path).unwrap();
        assert_eq!(texts(&hear(&mut court, &requests(["a", "b"]))), ["of a", "of b"]);
        assert_eq!((court.counters().cached, court.counters().asked), (1, 1));
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn damaged_lines_are_named() {
    let (dir, server) = (tempfile::tempdir().unwrap(), echo());
    let path = dir.path().join("judge.jsonl");
    let whole = String::from_utf8(filled(&path, &server)).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    for second in ["{}", "", "\0\0\0", &lines[0][1..], &lines[1].replace("\"b\"", "\"x\"")] {
        std::fs::write(&path, format!("{}\n{second}\n{}\n", lines[0], lines[1])).unwrap();
        let error = Court::new(endpoint(&server, 1), Budget::default()).with_cache(&path).err().unwrap().to_string();
        assert!(error.contains("line 2") && error.contains("remove the line"), "{error}");
    }
}

#[test]
fn two_processes_do_not_write_one_file() {
    let (dir, server) = (tempfile::tempdir().unwrap(), echo());
    let path = dir.path().join("judge.jsonl");
    let _first = Court::new(endpoint(&server, 1), Budget::default()).with_cache(&path).unwrap();
    let error = Court::new(endpoint(&server, 1), Budget::default()).with_cache(&path).err().unwrap().to_string();
    assert!(error.contains("another process"), "{error}");
}

#[test]
fn the_budget_of_requests_is_kept_exactly() {
    let (dir, server) = (tempfile::tempdir().unwrap(), echo());
    let path = dir.path().join("judge.jsonl");
    let budget = Budget { requests: Some(5), tokens: None };
    let mut court = Court::new(endpoint(&server, 8), budget).with_cache(&path).unwrap();
    let outcomes = hear(&mut court, &requests(0..12));
    assert_eq!(
        texts(&outcomes),
        ["of 0", "of 1", "of 2", "of 3", "of 4", "budget", "budget", "budget", "budget", "budget", "budget", "budget"]
    );
    assert_eq!((court.counters().asked, court.counters().over_budget, server.seen().len()), (5, 7, 5));
    // It is one budget for all hearings; what is known costs nothing.
    assert_eq!(texts(&hear(&mut court, &requests(4..6))), ["of 4", "budget"]);
    drop(court);
    let mut court = Court::new(endpoint(&server, 8), budget).with_cache(&path).unwrap();
    assert_eq!(texts(&hear(&mut court, &requests(0..10))).last(), Some(&"of 9"));
}

#[test]
fn the_budget_of_tokens_ends_the_asking() {
    let server = echo();
    let mut court = Court::new(endpoint(&server, 1), Budget { requests: None, tokens: Some(30) });
    // Twelve tokens each: after the third more than 30 are spent.
    assert_eq!(texts(&hear(&mut court, &requests(0..5))), ["of 0", "of 1", "of 2", "budget", "budget"]);
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn a_budget_of_tokens_that_nobody_counts_is_an_error() {
    let server = Server::start(|_, _| Answer::status(200, r#"{"choices": [{"message": {"content": "1"}}]}"#));
    let mut court = Court::new(endpoint(&server, 1), Budget { requests: None, tokens: Some(30) });
    let error = court.hear(&requests(0..5), &AtomicBool::new(false), &mut |_| {}).unwrap_err();
    assert!(matches!(error, CourtError::Uncounted { budget: 30 }), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn failures_are_outcomes_and_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("judge.jsonl");
    let server = Server::start(|seen, _| match seen.asked() {
        "bad" => Answer::ends(json!({ "content": null, "refusal": "no" }), "stop"),
        "odd" => Answer::status(500, "broke"),
        other => Answer::says(other),
    });
    let mut court = Court::new(endpoint(&server, 2), Budget::default()).with_cache(&path).unwrap();
    let outcomes = hear(&mut court, &requests(["a", "bad", "odd", "b"]));
    assert_eq!(texts(&outcomes), ["a", "failed", "failed", "b"]);
    let counters = court.counters();
    // The refusal was paid for.
    assert_eq!((counters.asked, counters.failed, counters.retried, counters.prompt_tokens), (4, 2, 1, 30));
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
}

#[test]
fn a_judge_that_fails_always_is_given_up() {
    let server = Server::start(|_, _| Answer::status(401, "who are you?"));
    let mut court = Court::new(endpoint(&server, 1), Budget::default());
    let outcomes = hear(&mut court, &requests(0..50));
    assert_eq!(texts(&outcomes)[7..10], ["failed", "given up", "given up"]);
    assert_eq!((server.seen().len(), court.counters().failed, court.counters().left), (8, 8, 42));
    // Requests that are themselves to blame say nothing of the others.
    let server = Server::start(|_, _| Answer::ends(json!({ "content": null, "refusal": "no" }), "stop"));
    let mut court = Court::new(endpoint(&server, 1), Budget::default());
    hear(&mut court, &requests(0..50));
    assert_eq!(server.seen().len(), 50);
}

#[test]
fn stopping_ends_between_requests_and_the_rest_is_asked_the_next_time() {
    let (dir, server) = (tempfile::tempdir().unwrap(), echo());
    let path = dir.path().join("judge.jsonl");
    let stop = AtomicBool::new(false);
    let mut court = Court::new(endpoint(&server, 1), Budget::default()).with_cache(&path).unwrap();
    let outcomes = court.hear(&requests(0..6), &stop, &mut |p| stop.store(p.done >= 2, Ordering::SeqCst)).unwrap();
    assert_eq!(texts(&outcomes), ["of 0", "of 1", "stopped", "stopped", "stopped", "stopped"]);
    assert_eq!((server.seen().len(), court.counters().left), (2, 4));
    let outcomes = hear(&mut court, &requests(0..6));
    assert_eq!(texts(&outcomes).last(), Some(&"of 5"));
    assert_eq!(server.seen().len(), 6);
}

/// A model of this process, which one thread asks.
struct Local {
    asked: std::cell::Cell<usize>,
}

impl Judge for &Local {
    fn identity(&self) -> Value {
        json!({ "kind": "local" })
    }

    fn ask(&self, request: &Request) -> Result<Reply, AskError> {
        self.asked.set(self.asked.get() + 1);
        match request.messages[0].1.as_str() {
            "bad" => Err(AskError::Other("out of memory".into())),
            text => Ok(Reply { text: text.into(), prompt_tokens: 1, completion_tokens: 1 }),
        }
    }
}

#[test]
fn a_judge_of_one_thread_is_asked_in_order() {
    let local = Local { asked: std::cell::Cell::new(0) };
    let mut court = Court::new(Box::new(&local), Budget { requests: Some(3), tokens: None });
    assert_eq!(texts(&hear(&mut court, &requests(["a", "bad", "b", "c"]))), ["a", "failed", "b", "budget"]);
    assert_eq!(local.asked.get(), 3);
}
