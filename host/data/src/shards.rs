//! WebDataset tar shards, both ways.
//!
//! ```text
//!  patterns ─ expand.rs ─► paths ─ scan.rs, read.rs ─► index of samples ─► RawSample i, read directly (run.rs: many at once)
//!                                └ indexed.rs ─► byte offsets (NAME.tar.idx) ─► RawSample i, for training
//!               (object stores, gzip, zstd: places.rs)
//!  tars of others ─ index.rs ─► NAME.tar.idx, .nv-meta/
//!  (key, parts) ─ write.rs ─► NAME.tar + NAME.tar.idx, renamed when whole ─ energon.rs ─► .nv-meta/
//! ```
//! Nothing is ever extracted, so a member named `../../x` is only a key.

pub mod energon;
mod expand;
mod index;
mod indexed;
mod places;
mod read;
mod run;
mod scan;
mod section;
mod write;

pub use energon::{check_split, write_nv_meta};
pub use expand::{expand, expand_braces};
pub use index::{IndexOptions, Indexed, index};
pub use indexed::{IndexedShard, index_path, read_index};
pub use places::{ShardBytes, count_samples, is_shard_name, measure, shard_stem, stored_size};
pub(crate) use read::allow_many_files;
pub use read::{Damage, Member, RawSample, SampleIndex, Shard};
pub use run::Run;
pub use write::{Commit, ShardFile, ShardWriter, WriterOptions, WrittenShard, shard_name};

/// What can go wrong with shards as files.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// A pattern that cannot be expanded.
    #[error("shard pattern \"{pattern}\": {reason}")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// A shard that does not exist.
    #[error("shard {path} does not exist; {beside}. Check the pattern \"{pattern}\" or make the shard again")]
    Missing {
        /// The file that was looked for.
        path: String,
        /// What lies in its folder.
        beside: String,
        /// The pattern that named it.
        pattern: String,
    },
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What was tried.
        action: &'static str,
        /// Its own words.
        source: std::io::Error,
    },
    /// An object store or web server refused, failed or is not there.
    #[error(transparent)]
    Store(#[from] ovhost_store::StoreError),
    /// A compressed shard that cannot be read so.
    #[error("{path}: {reason}")]
    Packing {
        /// The file.
        path: String,
        /// What it is and what to do.
        reason: String,
    },
    /// A shard that ends early or holds garbage.
    #[error(
        "{path} is damaged at byte {offset}: {reason}. {whole} whole samples come before it (the last is {last}); fetch or make the file again"
    )]
    Damaged {
        /// The file.
        path: String,
        /// Where the damage starts.
        offset: u64,
        /// What was found.
        reason: String,
        /// Usable samples before it.
        whole: usize,
        /// Key of the last of them, or a dash.
        last: String,
    },
    /// A sample that cannot be read or written as it is.
    #[error("{path}, sample \"{key}\": {reason}")]
    Sample {
        /// The shard.
        path: String,
        /// The sample.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Metadata beside the shards that is not ours to change.
    #[error("{path}: {reason}")]
    Metadata {
        /// The file.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
}

fn io_error(path: &std::path::Path, action: &'static str) -> impl FnOnce(std::io::Error) -> ShardError {
    let path = path.display().to_string();
    move |source| {
        let full = source.raw_os_error() == Some(libc::EMFILE);
        let action = if full { "open one more shard (every shard stays open; raise `ulimit -n`)" } else { action };
        ShardError::Io { path, action, source }
    }
}

#[cfg(test)]
mod tests;
