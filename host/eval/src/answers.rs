//! `answers.jsonl`: one line an answer, appended as answers come, of all tasks of an evaluation.
//!
//! A line may be cut short by a kill; it is dropped, and the question asked again. Of two lines for one question the later counts:
//! questions that could not be asked are tried again when the same command runs again.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;

/// How often answers go from the kernel's hands to the disk; a killed process loses nothing even in between.
const SYNC_EVERY: Duration = Duration::from_millis(200);

/// What the model said to one question, or why it was not asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The task.
    pub task: String,
    /// The question's place in the task's data, from 0.
    pub doc_id: u64,
    /// SHA-256 of `record`.
    pub doc_hash: String,
    /// Key of the sample.
    pub key: String,
    /// File that it lies in.
    pub source: String,
    /// The answer's text, without special tokens and surrounding white space.
    pub prediction: String,
    /// Correct answers.
    pub references: Vec<String>,
    /// What the model was given: the chat's text, each picture as `<image>`.
    #[serde(default)]
    pub input: String,
    /// The benchmark's own fields, for metrics.
    pub record: Box<RawValue>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub answer_tokens: usize,
    /// `eos`, `stop` (a stop string), `length`, `given` (read from a file), or `error`.
    pub finish_reason: String,
    /// SHA-256 of the pictures: questions about the same ones belong together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// What a judge said of it, where it came with the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judgement: Option<String>,
    /// Why there is no answer: the sample could not be read, rendered or decoded, or does not fit the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Answers by task and number.
pub type Answers = BTreeMap<String, BTreeMap<u64, Answer>>;

/// The file, open for appending.
pub struct AnswerFile {
    path: PathBuf,
    file: File,
    /// Whether something was written since the last sync.
    written: Arc<AtomicBool>,
}

/// Brings what was written to the disk, five times a second, beside the thread that writes.
pub struct Syncer {
    file: File,
    written: Arc<AtomicBool>,
}

impl Syncer {
    /// Runs until `done`. What the disk refuses is left to [`AnswerFile::sync`], which reports it.
    pub fn run(&self, done: &AtomicBool) {
        while !done.load(Ordering::SeqCst) {
            std::thread::park_timeout(SYNC_EVERY);
            if self.written.swap(false, Ordering::SeqCst) && self.file.sync_data().is_err() {
                self.written.store(true, Ordering::SeqCst);
            }
        }
    }
}

impl AnswerFile {
    /// Reads the file; the rest of a line that a kill cut short is not read.
    ///
    /// # Errors
    /// A damaged line that is not the last one.
    pub fn read(path: &Path) -> Result<(Answers, u64)> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let mut answers = Answers::new();
        for (number, line) in text[..whole].split(|b| *b == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let answer: Answer = serde_json::from_slice(line).with_context(|| {
                format!(
                    "{} line {}: not an answer; remove the line, or the folder to evaluate anew",
                    path.display(),
                    number + 1
                )
            })?;
            answers.entry(answer.task.clone()).or_default().insert(answer.doc_id, answer);
        }
        Ok((answers, whole as u64))
    }

    /// Opens the file for appending and returns the answers that it holds; the rest of a line that a kill cut short is removed.
    ///
    /// # Errors
    /// As [`Self::read`], and a file that cannot be written.
    pub fn open(path: &Path) -> Result<(Self, Answers)> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        // Before it is read: what another process is writing would be cut off.
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "{} is being written by another evaluation; wait for it, or name another folder with --out",
                path.display()
            ),
            Err(TryLockError::Error(error)) => warn!("{}: cannot be locked ({error})", path.display()),
        }
        let (answers, whole) = Self::read(path)?;
        file.set_len(whole)?;
        Ok((Self { path: path.to_path_buf(), file, written: Arc::default() }, answers))
    }

    /// Appends an answer in one write.
    ///
    /// # Errors
    /// The disk's.
    pub fn append(&mut self, answer: &Answer) -> Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        self.file.write_all(&line).with_context(|| format!("writing {}", self.path.display()))?;
        self.written.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// What syncs the file beside the writing.
    ///
    /// # Errors
    /// The system's.
    pub fn syncer(&self) -> Result<Syncer> {
        Ok(Syncer { file: self.file.try_clone()?, written: Arc::clone(&self.written) })
    }

    /// Returns when all answers are on the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&mut self) -> Result<()> {
        self.written.store(false, Ordering::SeqCst);
        self.file.sync_data().with_context(|| format!("fsync of {}", self.path.display()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn answer(doc_id: u64, said: &str, right: &str) -> Answer {
        Answer {
            task: "t".into(),
            doc_id,
            doc_hash: "h".into(),
            key: format!("k{doc_id}"),
            source: "s.tar".into(),
            prediction: said.into(),
            references: vec![right.into()],
            input: "?".into(),
            record: RawValue::from_string("{}".into()).unwrap(),
            prompt_tokens: 1,
            answer_tokens: 1,
            finish_reason: "stop".into(),
            cluster: None,
            judgement: None,
            error: None,
        }
    }

    fn said(answers: &Answers) -> Vec<(u64, &str)> {
        answers["t"].values().map(|a| (a.doc_id, a.prediction.as_str())).collect()
    }

    #[test]
    fn a_line_cut_short_is_removed_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        let (mut file, none) = AnswerFile::open(&path).unwrap();
        assert!(none.is_empty());
        // As they finish, not as they were asked.
        file.append(&answer(1, "b", "a")).unwrap();
        file.append(&answer(0, "a", "a")).unwrap();
        let error = AnswerFile::open(&path).err().unwrap().to_string();
        assert!(error.contains("another evaluation"), "{error}");
        drop(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [whole.as_slice(), b"{\"task\": \"t\", \"doc"].concat()).unwrap();
        let (mut file, found) = AnswerFile::open(&path).unwrap();
        assert_eq!(said(&found), [(0, "a"), (1, "b")]);
        file.append(&answer(2, "c", "c")).unwrap();
        file.append(&answer(0, "again", "a")).unwrap();
        drop(file);
        assert_eq!(said(&AnswerFile::open(&path).unwrap().1), [(0, "again"), (1, "b"), (2, "c")]);
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        let (mut file, _) = AnswerFile::open(&path).unwrap();
        file.append(&answer(0, "a", "a")).unwrap();
        drop(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [whole.as_slice(), b"nonsense\n", &whole].concat()).unwrap();
        let error = format!("{:#}", AnswerFile::open(&path).err().unwrap());
        assert!(error.contains("line 2"), "{error}");
    }
}
