//! `answers.jsonl`: one line an answer, in the order of the data, appended as answers come.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// What the model said to one question, or why it was not asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Place in the data, from 0.
    pub ordinal: u64,
    /// Key of the sample.
    pub key: String,
    /// Shard that it lies in.
    pub source: String,
    /// The answer's text, without special tokens and surrounding white space.
    pub prediction: String,
    /// Correct answers.
    pub references: Vec<String>,
    /// The record's fields, for metrics that group by them.
    pub record: serde_json::Value,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub answer_tokens: usize,
    /// `eos`, `stop` (a stop string), `length`, or `error`.
    pub finish_reason: String,
    /// Why there is no answer: the sample could not be read, rendered or decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The file, open for appending.
pub struct AnswerFile {
    path: PathBuf,
    file: File,
}

impl AnswerFile {
    /// Opens the file and returns the answers that it holds; the rest of a line that a kill cut short is removed.
    ///
    /// # Errors
    /// A damaged line that is not the last one, or answers out of order.
    pub fn open(path: &Path) -> Result<(Self, Vec<Answer>)> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let mut answers = Vec::new();
        for (number, line) in text[..whole].lines().enumerate() {
            let answer: Answer = serde_json::from_str(line).with_context(|| {
                format!("{} line {}: not an answer; remove the folder to evaluate anew", path.display(), number + 1)
            })?;
            ensure!(
                answer.ordinal == number as u64,
                "{} line {}: holds answer {}, not {number}; remove the folder to evaluate anew",
                path.display(),
                number + 1,
                answer.ordinal
            );
            answers.push(answer);
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        file.set_len(whole as u64)?;
        Ok((AnswerFile { path: path.to_path_buf(), file }, answers))
    }

    /// Appends answers; they are on disk when this returns.
    pub fn append(&mut self, answers: &[Answer]) -> Result<()> {
        let mut bytes = Vec::new();
        for answer in answers {
            serde_json::to_writer(&mut bytes, answer)?;
            bytes.push(b'\n');
        }
        self.file.write_all(&bytes).with_context(|| format!("writing {}", self.path.display()))?;
        self.file.sync_data().with_context(|| format!("fsync of {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn answer(ordinal: u64, said: &str, right: &str) -> Answer {
        Answer {
            ordinal,
            key: format!("k{ordinal}"),
            source: "s.tar".into(),
            prediction: said.into(),
            references: vec![right.into()],
            record: serde_json::json!({}),
            prompt_tokens: 1,
            answer_tokens: 1,
            finish_reason: "stop".into(),
            error: None,
        }
    }

    #[test]
    fn a_line_cut_short_is_removed_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        let (mut file, none) = AnswerFile::open(&path).unwrap();
        assert!(none.is_empty());
        file.append(&[answer(0, "a", "a"), answer(1, "b", "a")]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [whole.as_slice(), b"{\"ordinal\": 2, \"ke"].concat()).unwrap();
        let (mut file, found) = AnswerFile::open(&path).unwrap();
        assert_eq!(found, [answer(0, "a", "a"), answer(1, "b", "a")]);
        file.append(&[answer(2, "c", "c")]).unwrap();
        assert_eq!(AnswerFile::open(&path).unwrap().1.len(), 3);
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        let (mut file, _) = AnswerFile::open(&path).unwrap();
        file.append(&[answer(0, "a", "a"), answer(2, "b", "a")]).unwrap();
        let error = AnswerFile::open(&path).err().unwrap().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
