//! A judge's endpoint on this machine, which answers what it is told to.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// An answer.
pub struct Answer {
    pub status: u16,
    /// Lines, each with `\r\n`.
    pub headers: &'static str,
    pub body: String,
    /// So many bytes of the body come, then the connection closes.
    pub cut: Option<usize>,
    /// Before it comes.
    pub wait: Duration,
}

impl Answer {
    pub fn status(status: u16, body: &str) -> Answer {
        Answer { status, headers: "", body: body.into(), cut: None, wait: Duration::ZERO }
    }

    /// A completion of 10 + 2 tokens.
    pub fn says(text: &str) -> Answer {
        Answer::ends(json!({ "role": "assistant", "content": text }), "stop")
    }

    pub fn ends(message: Value, finish: &str) -> Answer {
        let usage = json!({ "prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12 });
        let choice = json!({ "index": 0, "message": message, "finish_reason": finish });
        Answer::status(200, &json!({ "id": "x", "choices": [choice], "usage": usage }).to_string())
    }

    pub fn with(mut self, headers: &'static str) -> Answer {
        self.headers = headers;
        self
    }

    pub fn after(mut self, wait: Duration) -> Answer {
        self.wait = wait;
        self
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Path and query.
    pub target: String,
    /// With names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Value,
}

impl Seen {
    /// The text of the last message.
    pub fn asked(&self) -> &str {
        self.body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap()
    }
}

/// A running endpoint; it ends with the process.
pub struct Server {
    /// `http://127.0.0.1:PORT/v1`.
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// `answer` is called for each request, with how many came before.
    pub fn start(answer: impl Fn(&Seen, usize) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (seen, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Server { url, seen: kept }
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Seen>>, answer: &dyn Fn(&Seen, usize) -> Answer) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader) {
        let before = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        let Answer { status, headers, body, cut, wait } = answer(&request, before);
        std::thread::sleep(wait);
        let head = format!("HTTP/1.1 {status} Status\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        let sent = &body.as_bytes()[..cut.unwrap_or(body.len())];
        if stream.write_all(&[head.as_bytes(), sent].concat()).is_err() || cut.is_some() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let target = line.split_whitespace().nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { target, headers, body: serde_json::from_slice(&body).ok()? })
}
