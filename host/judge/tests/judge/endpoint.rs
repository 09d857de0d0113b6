//! One request to an endpoint: what goes out, what comes back, what is tried again.

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::server::{Answer, Server};
use ovhost_judge::{AskError, Judge, Key, NoText, OpenAi, Request, Retries, Settings};
use serde_json::json;

const SECRET: &str = "sk-sesame-0123456789";

fn quick(url: &str) -> Settings {
    let mut settings = Settings::new(url, "judge-7b");
    settings.retries = Retries { most: 3, first: Duration::from_millis(2), ..Retries::default() };
    settings.timeout = Duration::from_secs(10);
    settings
}

fn ask(settings: Settings) -> Result<ovhost_judge::Reply, AskError> {
    OpenAi::new(settings).unwrap().ask(&request())
}

fn request() -> Request {
    Request::new(vec![("system".into(), "Judge.".into()), ("user".into(), "Is \"é\" right?".into())])
}

#[test]
fn a_request_carries_messages_parameters_and_the_key() {
    let server = Server::start(|_, _| Answer::says("1"));
    let settings = Settings { key: Key::new(SECRET).unwrap(), ..quick(&server.url) };
    let judge = OpenAi::new(settings).unwrap();
    let reply = judge.ask(&request()).unwrap();
    assert_eq!((reply.text.as_str(), reply.prompt_tokens, reply.completion_tokens), ("1", 10, 2));
    let seen = server.seen().remove(0);
    assert_eq!(seen.target, "/v1/chat/completions");
    assert_eq!(seen.headers["authorization"], format!("Bearer {SECRET}"));
    let messages = json!([{"role": "system", "content": "Judge."}, {"role": "user", "content": "Is \"é\" right?"}]);
    let whole = json!({"model": "judge-7b", "messages": messages, "temperature": 0, "seed": 42, "max_tokens": 256});
    assert_eq!(seen.body, whole);
    judge.ask(&Request { json: true, ..request() }).unwrap();
    assert_eq!(server.seen()[1].body["response_format"], json!({"type": "json_object"}));
}

#[test]
fn without_a_key_none_is_sent() {
    let server = Server::start(|_, _| Answer::says("1"));
    ask(quick(&(server.url.clone() + "/chat/completions"))).unwrap();
    let seen = server.seen().remove(0);
    assert_eq!((seen.target.as_str(), seen.headers.get("authorization")), ("/v1/chat/completions", None));
}

#[test]
fn too_many_requests_are_tried_again_after_what_the_server_asks_for() {
    let server = Server::start(|_, before| match before {
        0 => Answer::status(429, "{}").with("Retry-After: 1\r\n"),
        _ => Answer::says("yes"),
    });
    let judge = OpenAi::new(quick(&server.url)).unwrap();
    let begin = Instant::now();
    assert_eq!(judge.ask(&request()).unwrap().text, "yes");
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!((server.seen().len(), judge.retried()), (2, 1));
}

#[test]
fn a_wait_that_is_too_long_is_an_error_at_once() {
    let server = Server::start(|_, _| {
        Answer::status(429, r#"{"error": {"message": "daily limit"}}"#).with("Retry-After: 86400\r\n")
    });
    let error = ask(quick(&server.url)).unwrap_err().to_string();
    assert!(error.contains("86400 s") && error.contains("300 s") && error.contains("daily limit"), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_server_that_always_fails_is_tried_so_often_and_named() {
    for status in [500, 503, 408, 409] {
        let server = Server::start(move |_, _| Answer::status(status, "out of memory"));
        let error = ask(quick(&server.url)).unwrap_err();
        let url = server.url.clone() + "/chat/completions";
        assert_eq!(error, AskError::Status { url, status, tries: 4, message: "out of memory".into() });
        assert!(!error.is_of_the_request());
        assert_eq!(server.seen().len(), 4);
    }
}

#[test]
fn what_will_not_change_is_asked_once() {
    for (status, body, words) in [
        (400, r#"{"error": {"message": "Unsupported value: 'temperature'"}}"#, "parameters"),
        (401, r#"{"error": {"message": "no such key"}}"#, "environment variable"),
        (404, r#"{"detail": "Not Found"}"#, "ends in /v1"),
        (429, r#"{"error": {"code": "insufficient_quota", "message": "pay"}}"#, "pay"),
    ] {
        let server = Server::start(move |_, _| Answer::status(status, body));
        let error = ask(quick(&server.url)).unwrap_err().to_string();
        assert!(error.contains(&status.to_string()) && error.contains(words), "{error}");
        assert_eq!(server.seen().len(), 1, "{error}");
    }
    let server = Server::start(|_, _| Answer::status(307, "").with("Location: https://elsewhere.example/v1\r\n"));
    let error = ask(quick(&server.url)).unwrap_err().to_string();
    assert!(error.contains("307") && error.contains("elsewhere.example"), "{error}");
}

#[test]
fn a_refused_connection_is_tried_again_and_named() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let judge = OpenAi::new(quick(&format!("http://127.0.0.1:{port}/v1"))).unwrap();
    let error = judge.ask(&request()).unwrap_err();
    assert!(matches!(error, AskError::Unreachable { tries: 4, .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("http://127.0.0.1:{port}/v1")), "{error}");
    assert_eq!(judge.retried(), 3);
}

#[test]
fn an_answer_that_breaks_off_or_never_comes_is_tried_again() {
    let server = Server::start(|_, before| match before {
        0 => Answer { cut: Some(20), ..Answer::says("yes") },
        1 => Answer::says("too late").after(Duration::from_secs(2)),
        _ => Answer::says("yes"),
    });
    let reply = ask(Settings { timeout: Duration::from_millis(500), ..quick(&server.url) }).unwrap();
    assert_eq!((reply.text.as_str(), server.seen().len()), ("yes", 3));
}

#[test]
fn what_is_no_completion_is_an_error_that_shows_it() {
    let server = Server::start(|_, _| Answer::status(200, "<html>please sign in</html>"));
    let error = ask(quick(&server.url)).unwrap_err();
    assert!(matches!(error, AskError::Malformed { .. }) && error.to_string().contains("please sign in"), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_cut_reply_is_asked_again_with_more_tokens() {
    // A model that thinks 700 tokens before it says a word.
    let server = Server::start(|seen, _| match seen.body["max_tokens"].as_u64() {
        Some(700..) => Answer::says("yes"),
        _ => Answer::ends(json!({ "content": null, "reasoning_content": "Let me see" }), "length"),
    });
    let reply = ask(quick(&server.url)).unwrap();
    // 256, 512, 1024 tokens: all three were paid for.
    assert_eq!((reply.text.as_str(), reply.prompt_tokens, reply.completion_tokens), ("yes", 30, 6));

    let server = Server::start(|_, _| Answer::ends(json!({ "content": "" }), "length"));
    let why = NoText::Cut { tokens: 1024 };
    let error = ask(quick(&server.url)).unwrap_err();
    assert_eq!(error, AskError::NoText { why, prompt_tokens: 30, completion_tokens: 6 });
    assert!(error.to_string().contains("1024 tokens"), "{error}");
}

#[test]
fn a_cut_text_is_a_reply_and_a_cut_object_is_asked_again() {
    let server = Server::start(|seen, _| match seen.body["max_tokens"].as_u64() {
        Some(512) => Answer::says(r#"{"score": 1}"#),
        _ => Answer::ends(json!({ "content": "{\"score\":" }), "length"),
    });
    let judge = OpenAi::new(quick(&server.url)).unwrap();
    assert_eq!(judge.ask(&request()).unwrap().text, "{\"score\":");
    assert_eq!(judge.ask(&Request { json: true, ..request() }).unwrap().text, r#"{"score": 1}"#);
}

#[test]
fn refusals_and_filters_are_named() {
    let server = Server::start(|_, before| match before {
        0 => Answer::ends(json!({ "content": null, "refusal": "I can't help with that" }), "stop"),
        _ => Answer::ends(json!({ "content": "" }), "content_filter"),
    });
    let judge = OpenAi::new(quick(&server.url)).unwrap();
    for words in ["I can't help with that", "content filter"] {
        let error = judge.ask(&request()).unwrap_err();
        assert!(error.is_of_the_request() && error.to_string().contains(words), "{error}");
    }
}

#[test]
fn the_key_is_never_shown() {
    // Servers repeat keys: in errors, and one that means harm in replies.
    let server = Server::start(|seen, before| {
        let key = seen.headers["authorization"].clone();
        match before {
            0 => Answer::status(401, &json!({ "error": { "message": format!("wrong key: {key}") } }).to_string()),
            1 => Answer::status(200, &format!("<p>{key}</p>")),
            _ => Answer::says(&key),
        }
    });
    let judge = OpenAi::new(Settings { key: Key::new(SECRET).unwrap(), ..quick(&server.url) }).unwrap();
    let mut shown = vec![format!("{judge:?}"), judge.identity().to_string()];
    for _ in 0..2 {
        let error = judge.ask(&request()).unwrap_err();
        shown.extend([error.to_string(), format!("{error:?}")]);
    }
    assert!(shown[2].contains("wrong key: Bearer (the key)"), "{}", shown[2]);
    shown.push(judge.ask(&request()).unwrap().text);
    // No port answers there, and the transport may say what it sent.
    let gone = Settings { key: Key::new(SECRET).unwrap(), ..quick("http://127.0.0.1:9/v1?key=sk-sesame-0123456789") };
    let error = ask(gone).unwrap_err();
    shown.extend([error.to_string(), format!("{error:?}")]);
    for text in shown {
        assert!(!text.contains("sesame"), "{text}");
    }
    assert_eq!(server.seen().len(), 3);
    assert_eq!(server.seen()[0].headers["authorization"], format!("Bearer {SECRET}"));
}

#[test]
fn waiting_ends_when_the_run_stops() {
    let server = Server::start(|_, _| Answer::status(503, "").with("Retry-After: 200\r\n"));
    let settings = quick(&server.url);
    let stop = settings.stop.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::SeqCst);
    });
    let begin = Instant::now();
    assert_eq!(ask(settings).unwrap_err(), AskError::Stopped);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}
