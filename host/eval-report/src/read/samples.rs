//! A samples file, line by line: typed where a field is known, whatever else a line has beside it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};

/// Fields that are known to hold no score and that nothing here reads: the record, and what lmms-eval keeps beside it.
const UNREAD: [&str; 7] = ["record", "source", "resps", "input_media", "submission", "doc", "arguments"];
/// Longest line that is read: a sample holds texts, no pictures.
const LONGEST: u64 = 64 << 20;

/// One sample.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Place in the data, from 0.
    pub doc_id: u64,
    /// sha256 of the record; lmms-eval's is the same for every sample.
    pub doc_hash: Option<String>,
    /// The sample's name in its data.
    pub key: Option<String>,
    /// The correct answer as text.
    pub target: Option<String>,
    /// All correct answers, where there may be several; the target is the first.
    pub references: Vec<String>,
    /// The answer.
    pub answer: Option<String>,
    /// The prompt's text.
    pub input: Option<String>,
    /// Tokens of the answer.
    pub output_tokens: Option<u64>,
    /// `eos`, `stop`, `length` or `error`.
    pub finish_reason: Option<String>,
    /// What the metric read in the answer.
    pub read: Option<String>,
    /// What the judge said.
    pub judgement: Option<String>,
    /// Samples of one cluster share their pictures.
    pub cluster: Option<String>,
    /// Why it was not asked.
    pub error: Option<String>,
    /// Why it has no score.
    pub score_errors: Vec<String>,
    /// Scores by the name of their metric plugin.
    pub scores: Map<String, Value>,
    /// Other fields; scores under a metric's name are among them.
    pub other: Map<String, Value>,
}

impl Sample {
    /// Of a line's object; the error says which field is wrong.
    fn of(mut line: Map<String, Value>) -> Result<Self, String> {
        let id = line.shift_remove("doc_id").ok_or("it has no doc_id")?;
        let doc_id = id.as_u64().ok_or_else(|| format!("doc_id is {id}, and has to be a whole number from 0"))?;
        let mut text = |name: &str| match line.shift_remove(name) {
            None | Some(Value::Null) => None,
            Some(value) => Some(as_text(value)),
        };
        let mut sample = Self {
            doc_id,
            doc_hash: text("doc_hash"),
            key: text("key"),
            target: text("target"),
            answer: text("filtered_resps"),
            input: text("input"),
            finish_reason: text("finish_reason"),
            read: text("read"),
            judgement: text("judgement"),
            cluster: text("cluster"),
            error: text("error"),
            ..Self::default()
        };
        sample.output_tokens = match line.shift_remove("token_counts") {
            Some(Value::Array(counts)) => counts.first().and_then(|count| count.get("output_tokens")?.as_u64()),
            _ => None,
        };
        for (name, texts) in [("score_errors", &mut sample.score_errors), ("references", &mut sample.references)] {
            match line.shift_remove(name) {
                None | Some(Value::Null) => {}
                Some(Value::Array(list)) => *texts = list.into_iter().map(as_text).collect(),
                Some(other) => return Err(format!("{name} is {other}, and has to be a list of texts")),
            }
        }
        match line.shift_remove("scores") {
            None | Some(Value::Null) => {}
            Some(Value::Object(scores)) => sample.scores = scores,
            Some(other) => return Err(format!("scores is {other}, and has to be an object of numbers")),
        }
        line.retain(|name, _| !UNREAD.contains(&name.as_str()));
        sample.other = line;
        Ok(sample)
    }
}

/// A text as it is, anything else as JSON.
fn as_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// JSON; NaN and infinities, which Python writes, are read as null.
///
/// # Errors
/// What is no JSON even so.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(bytes).or_else(|error| match without_nan(bytes) {
        Some(mended) => serde_json::from_slice(&mended),
        None => Err(error),
    })
}

/// The text with `null` for the bare words; none where it has none of them.
fn without_nan(bytes: &[u8]) -> Option<Vec<u8>> {
    const WORDS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
    let (mut out, mut at, mut quoted, mut found) = (Vec::with_capacity(bytes.len()), 0, false, false);
    while let Some(&byte) = bytes.get(at) {
        let word = WORDS.iter().find(|word| !quoted && bytes[at..].starts_with(word));
        let step = match word {
            Some(word) => {
                out.extend_from_slice(b"null");
                found = true;
                word.len()
            }
            None => {
                // Within quotes a backslash takes the next byte with it.
                let step = if quoted && byte == b'\\' { 2 } else { 1 };
                quoted ^= byte == b'"';
                out.extend_from_slice(&bytes[at..(at + step).min(bytes.len())]);
                step
            }
        };
        at += step;
    }
    found.then_some(out)
}

/// The lines of a samples file.
pub struct Samples {
    path: PathBuf,
    file: BufReader<File>,
    /// Lines read.
    line: usize,
    /// Where the next line begins, in bytes.
    at: u64,
    buffer: Vec<u8>,
}

impl Samples {
    /// Opens the file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(Self { path: path.into(), file: BufReader::new(file), line: 0, at: 0, buffer: Vec::new() })
    }

    /// The next sample and where its line begins, in bytes; none at the end. Empty lines are passed over.
    fn read(&mut self) -> Result<Option<(u64, Sample)>> {
        loop {
            let begin = self.at;
            self.buffer.clear();
            let read = Read::by_ref(&mut self.file)
                .take(LONGEST)
                .read_until(b'\n', &mut self.buffer)
                .with_context(|| format!("{} cannot be read", self.path.display()))?;
            if read == 0 {
                return Ok(None);
            }
            (self.at, self.line) = (self.at + read as u64, self.line + 1);
            if read as u64 == LONGEST && self.buffer.last() != Some(&b'\n') {
                bail!("{}, line {}: longer than {} MiB", self.path.display(), self.line, LONGEST >> 20);
            }
            if self.buffer.trim_ascii().is_empty() {
                continue;
            }
            let sample = match parse(&self.buffer) {
                Ok(Value::Object(line)) => Sample::of(line).map_err(|wrong| anyhow!(wrong)),
                Ok(_) => Err(anyhow!("it is no JSON object")),
                Err(e) => Err(anyhow!("it is no whole JSON ({e})")),
            };
            let place =
                || format!("{}, line {}: not a sample of `ovhost eval` or lmms-eval", self.path.display(), self.line);
            return Ok(Some((begin, sample.with_context(place)?)));
        }
    }

    /// The sample whose line begins at a byte that [`Samples::next`] gave.
    ///
    /// # Errors
    /// The file has changed since.
    pub fn at(&mut self, begin: u64) -> Result<Sample> {
        self.file
            .seek(SeekFrom::Start(begin))
            .with_context(|| format!("{} cannot be read at {begin}", self.path.display()))?;
        self.at = begin;
        let found = self.read().with_context(|| format!("{} has changed while it was read", self.path.display()))?;
        let (_, sample) = found.with_context(|| format!("{} became shorter while it was read", self.path.display()))?;
        Ok(sample)
    }
}

impl Iterator for Samples {
    type Item = Result<(u64, Sample)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples_x.jsonl");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn fields_are_typed_and_others_kept() {
        let line = r#"{"doc_id": 3, "target": "A", "filtered_resps": ["a", "b"], "read": null, "scores": {"m": 1},
            "token_counts": [{"output_tokens": 7}], "score_errors": ["m: no"], "exact_match": 1.0, "new": {"x": 1}}"#;
        let text = format!("\n{}\n{}\n", line.replace('\n', ""), r#"{"doc_id": 4, "anls": NaN, "t": "a \" NaN"}"#);
        let (_folder, path) = written(text.as_bytes());
        let all: Vec<_> = Samples::open(&path).unwrap().map(|one| one.unwrap()).collect();
        let first = &all[0].1;
        assert_eq!((first.doc_id, first.output_tokens, first.read.as_deref()), (3, Some(7), None));
        assert_eq!((first.answer.as_deref(), first.score_errors.len()), (Some(r#"["a","b"]"#), 1));
        assert_eq!((first.other["exact_match"].as_f64(), first.other["new"]["x"].as_u64()), (Some(1.0), Some(1)));
        assert_eq!((&all[1].1.other["anls"], all[1].1.other["t"].as_str()), (&Value::Null, Some("a \" NaN")));
        let mut again = Samples::open(&path).unwrap();
        assert_eq!(again.at(all[1].0).unwrap().doc_id, 4);
        assert_eq!(again.at(all[0].0).unwrap().doc_id, 3);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, words) in [
            (&b"{\"doc_id\": 0}\n{\"doc_id\": 1"[..], "line 2"),
            (b"[1]\n", "no JSON object"),
            (b"{\"key\": \"a\"}\n", "no doc_id"),
            (b"{\"doc_id\": -1}\n", "doc_id is -1"),
            (b"{\"doc_id\": 1, \"scores\": 3}\n", "scores is 3"),
            (b"{\"doc_id\": 1, \"key\": \"\xff\"}\n", "line 1"),
        ] {
            let (_folder, path) = written(text);
            let error = Samples::open(&path).unwrap().find_map(Result::err).unwrap();
            let error = format!("{error:#}");
            assert!(error.contains(words) && error.contains("samples_x.jsonl"), "{error}");
        }
    }
}
