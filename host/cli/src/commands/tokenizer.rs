//! `ovhost tokenizer`: a byte-level BPE for models that are trained from nothing.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use ovhost_data::{
    record::RecordOptions,
    shards::{Shard, expand},
    tokenizer_train::train_bpe,
};
use serde_json::Value;

/// Subcommands of `ovhost tokenizer`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Train a byte-level BPE with Qwen's special tokens and ChatML template on the texts of shards
    #[command(after_help = "Example:\n  ovhost tokenizer train --data data/train --vocab-size 2048 --out tokenizer")]
    Train {
        /// Shards: files, folders, {000000..000009} patterns
        #[arg(long, required = true, num_args = 1..)]
        data: Vec<String>,
        /// Most ids, special tokens included
        #[arg(long, default_value_t = 2048)]
        vocab_size: usize,
        /// Folder of the tokenizer
        #[arg(long)]
        out: PathBuf,
    },
}

/// Runs the command.
pub fn run(command: Command) -> Result<ExitCode> {
    let Command::Train { data, vocab_size, out } = command;
    let (mut texts, mut rejects) = (Vec::new(), 0u64);
    for path in expand(&data, Path::new(""))? {
        let shard = Shard::open(&path)?;
        for index in 0..shard.len() {
            match shard.record(index, &RecordOptions::default()) {
                Ok(record) => {
                    // The chat template writes these around every turn: they should be single tokens.
                    texts.extend(ROLES.map(str::to_owned));
                    record
                        .fields
                        .iter()
                        .filter(|(name, _)| !NOT_TEXT.contains(&name.as_str()))
                        .for_each(|(_, v)| strings(v, &mut texts));
                }
                Err(_) => rejects += 1,
            }
        }
    }
    let made = train_bpe(texts.into_iter(), vocab_size, &out)?;
    println!(
        "{}: {} ids, {} merges from {} distinct words in {:.1} MB of text{}",
        out.display(),
        made.vocab_size,
        made.merges,
        made.words,
        made.bytes as f64 / 1e6,
        if rejects > 0 { format!(" ({rejects} samples could not be read)") } else { String::new() }
    );
    Ok(ExitCode::SUCCESS)
}

/// Fields that name things instead of saying something.
const NOT_TEXT: [&str; 3] = ["id", "image", "source"];

/// Roles of the ChatML template.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

fn strings(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::String(text) => out.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|v| strings(v, out)),
        Value::Object(map) => map.values().for_each(|v| strings(v, out)),
        _ => {}
    }
}
