//! A web server on this machine that serves files from memory, as a plain one and as S3 does (objects of a bucket at
//! `/BUCKET/KEY`, listing with `?list-type=2`), and fails when it is told to.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing.
    None,
    /// So many bytes of the body come, then the connection closes.
    Break(usize),
    /// Another status, with this text.
    Status(u16, &'static str),
    /// Nothing comes for so long, then the connection closes.
    Silent(Duration),
    /// So many bytes come, then nothing for so long, then the connection closes.
    Stall(usize, Duration),
    /// The file is said to be so much longer than it is.
    Longer(usize),
    /// The whole file comes, whatever part of it was asked for.
    NoRange,
    /// Somewhere else.
    Redirect(String),
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// With names in lower case.
    pub headers: HashMap<String, String>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Arc<Vec<u8>>>,
    faults: HashMap<String, VecDeque<Fault>>,
    always: HashMap<String, Fault>,
    seen: Vec<Seen>,
    tags: bool,
}

/// A running server; it ends with the process.
#[derive(Clone)]
pub struct Server {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// `tags`: files have an ETag.
    pub fn start(tags: bool) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { tags, ..State::default() }));
        let server = Server { url, state };
        let on = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let on = on.clone();
                std::thread::spawn(move || on.serve(stream));
            }
        });
        server
    }

    /// Serves `bytes` at `path` (`/a/b.tar`).
    pub fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.state.lock().unwrap().files.insert(path.to_owned(), Arc::new(bytes.into()));
    }

    /// Serves the files of a folder below `path`.
    pub fn put_folder(&self, path: &str, folder: &std::path::Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{path}/{}", entry.file_name().to_str().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true => self.put_folder(&name, &entry.path()),
                false => self.put(&name, std::fs::read(entry.path()).unwrap()),
            }
        }
    }

    /// What goes wrong with the next requests of `path`, one after the other.
    pub fn fail(&self, path: &str, faults: &[Fault]) {
        self.state.lock().unwrap().faults.entry(path.to_owned()).or_default().extend(faults.iter().cloned());
    }

    /// What goes wrong with every request of `path`.
    pub fn fail_always(&self, path: &str, fault: Fault) {
        self.state.lock().unwrap().always.insert(path.to_owned(), fault);
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// The `Range` headers of the requests of `path` so far; empty for none.
    pub fn ranges(&self, path: &str) -> Vec<String> {
        let of = |s: &Seen| s.headers.get("range").cloned().unwrap_or_default();
        self.seen().iter().filter(|s| s.target == path && s.method == "GET").map(of).collect()
    }

    fn serve(&self, stream: TcpStream) {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while let Some(request) = read_request(&mut reader) {
            if self.answer(request, &mut stream).is_none() {
                return;
            }
        }
    }

    /// None: the connection is over.
    fn answer(&self, seen: Seen, stream: &mut TcpStream) -> Option<()> {
        let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
        let path = decode(path);
        let (file, fault, tags) = {
            let mut state = self.state.lock().unwrap();
            state.seen.push(seen.clone());
            let fault = state.faults.get_mut(&path).and_then(VecDeque::pop_front);
            let fault = fault.or_else(|| state.always.get(&path).cloned());
            (state.files.get(&path).cloned(), fault, state.tags)
        };
        match &fault {
            Some(Fault::Status(status, text)) => return respond(stream, *status, "", text.as_bytes()),
            Some(Fault::Silent(time)) => {
                std::thread::sleep(*time);
                return None;
            }
            Some(Fault::Redirect(to)) => return respond(stream, 302, &format!("Location: {to}\r\n"), b""),
            _ => {}
        }
        if query.contains("list-type=2") {
            return respond(stream, 200, "", self.list(&path, query).as_bytes());
        }
        let Some(file) = file else {
            let text = "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>";
            return respond(stream, 404, "", text.as_bytes());
        };
        let tag = format!("\"{}-{}\"", file.len(), file.iter().map(|b| u64::from(*b)).sum::<u64>());
        if seen.headers.get("if-match").is_some_and(|m| *m != tag) {
            return respond(stream, 412, "", b"");
        }
        let mut headers = "Last-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\nAccept-Ranges: bytes\r\n".to_owned();
        if tags {
            headers.push_str(&format!("ETag: {tag}\r\n"));
        }
        let range = seen.headers.get("range").filter(|_| !matches!(fault, Some(Fault::NoRange)));
        let total = file.len() + if let Some(Fault::Longer(more)) = fault { more } else { 0 };
        let (status, from, to) = match range.and_then(|r| r.strip_prefix("bytes=")?.split_once('-')) {
            None => (200, 0, total),
            Some((from, to)) => {
                let from: usize = from.parse().unwrap();
                if from >= file.len() {
                    return respond(stream, 416, "", b"");
                }
                let to = to.parse().map_or(total, |to: usize| to + 1).min(total);
                headers.push_str(&format!("Content-Range: bytes {from}-{}/{total}\r\n", to - 1));
                (206, from, to)
            }
        };
        headers.push_str(&format!("Content-Length: {}\r\n", to - from));
        write!(stream, "HTTP/1.1 {status} OK\r\n{headers}\r\n").ok()?;
        if seen.method == "HEAD" {
            return Some(());
        }
        let body = &file[from..to.min(file.len())];
        match fault {
            Some(Fault::Break(n)) => {
                stream.write_all(&body[..n.min(body.len())]).ok()?;
                None
            }
            Some(Fault::Stall(n, time)) => {
                stream.write_all(&body[..n.min(body.len())]).ok()?;
                std::thread::sleep(time);
                None
            }
            _ => {
                stream.write_all(body).ok()?;
                (body.len() == to - from).then_some(())
            }
        }
    }

    /// The objects of a bucket under a prefix, two a page.
    fn list(&self, bucket: &str, query: &str) -> String {
        let of = |name: &str| {
            let value = query.split('&').find_map(|q| q.strip_prefix(&format!("{name}=")));
            decode(value.unwrap_or_default())
        };
        let (prefix, after) = (of("prefix"), of("continuation-token"));
        let base = format!("{}/", bucket.trim_end_matches('/'));
        let state = self.state.lock().unwrap();
        let keys = state.files.iter().filter_map(|(path, file)| Some((path.strip_prefix(&base)?, file.len())));
        let keys: Vec<_> = keys
            .filter(|(k, _)| k.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/')) && *k > after.as_str())
            .collect();
        let more = keys.len() > 2;
        let mut xml = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>");
        for (key, size) in keys.iter().take(2) {
            xml.push_str(&format!(
                "<Contents><Key>{key}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>\"x\"</ETag>\
                 <Size>{size}</Size></Contents>"
            ));
        }
        if let (true, Some((last, _))) = (more, keys.get(1)) {
            xml.push_str(&format!("<NextContinuationToken>{last}</NextContinuationToken>"));
        }
        xml + "</ListBucketResult>"
    }
}

/// `%2F` to `/`, of ASCII.
fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let byte = u8::from_str_radix(&part[..2], 16).unwrap();
        text + &char::from(byte).to_string() + &part[2..]
    })
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => return Some(Seen { method, target, headers }),
        };
    }
}

fn respond(stream: &mut TcpStream, status: u16, headers: &str, body: &[u8]) -> Option<()> {
    write!(stream, "HTTP/1.1 {status} Status\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).ok()?;
    stream.write_all(body).ok()
}
