//! What was found, by kind: counts, and the first few of each.

use std::collections::BTreeMap;

use serde::Serialize;

/// What can be wrong. The order is that of reports: what makes the rest doubtful comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The shard cannot be opened or read.
    Unreadable,
    /// The tar is damaged.
    Tar,
    /// The shard has no sample.
    EmptyShard,
    /// A member that no sample can have: a link, a sparse file, one part twice, a name without a key.
    Member,
    /// The `.tar.idx` does not agree with the tar.
    Index,
    /// Energon's `.nv-meta` does not agree with the shards.
    Metadata,
    /// `manifest.json` or `pack.json` does not agree with the shards.
    Manifest,
    /// A key that another sample of the same folder has.
    DuplicateKey,
    /// A part that is not JSON.
    Json,
    /// JSON of a type that cannot be used.
    JsonType,
    /// Text that is not UTF-8.
    Utf8,
    /// A picture whose header cannot be read, or that does not decode.
    Image,
    /// A picture that is named and not there; none where there must be one.
    MissingImage,
    /// Nothing to learn: no answer, caption or text.
    MissingText,
    /// `<image>` is there more or less often than there are pictures.
    Placeholder,
    /// The record cannot be used for another reason.
    Record,
    /// A pack whose description is wrong.
    Pack,
    /// A pack that was made for other settings than it says, or than are given.
    Fingerprint,
    /// The prompt cannot make a conversation of it.
    Prompt,
    /// It cannot be tokenised.
    Encode,
    /// It has more tokens than a pack holds.
    TooLong,
    /// Not a fault: no `.tar.idx`.
    NoIndex,
    /// Not a fault: no `.nv-meta`.
    NoMetadata,
    /// Not a fault: a sample without a picture.
    TextOnly,
}

impl Kind {
    /// Whether it is only worth knowing.
    pub fn is_note(self) -> bool {
        matches!(self, Kind::NoIndex | Kind::NoMetadata | Kind::TextOnly)
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Kind::Unreadable => "shards that cannot be read",
            Kind::Tar => "damaged shards",
            Kind::EmptyShard => "shards without a sample",
            Kind::Member => "members that no sample can have",
            Kind::Index => "indexes that do not agree with their shard",
            Kind::Metadata => "metadata (.nv-meta) that does not agree with the shards",
            Kind::Manifest => "manifests that do not agree with the shards",
            Kind::DuplicateKey => "keys that another sample of the folder has",
            Kind::Json => "parts that are not JSON",
            Kind::JsonType => "JSON of the wrong type",
            Kind::Utf8 => "text that is not UTF-8",
            Kind::Image => "pictures that cannot be read",
            Kind::MissingImage => "pictures that are missing",
            Kind::MissingText => "samples with nothing to learn",
            Kind::Placeholder => "placeholders that do not match the pictures",
            Kind::Record => "samples that cannot be used",
            Kind::Pack => "packs whose description is wrong",
            Kind::Fingerprint => "packs made for other settings",
            Kind::Prompt => "samples that the prompt refuses",
            Kind::Encode => "samples that cannot be tokenised",
            Kind::TooLong => "samples that are too long",
            Kind::NoIndex => "shards without an index",
            Kind::NoMetadata => "folders without .nv-meta",
            Kind::TextOnly => "samples without a picture",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The shard, or another file.
    pub file: String,
    /// The sample's key; empty where it is the file's.
    pub key: String,
    /// What is wrong, with the value seen.
    pub reason: String,
}

/// All of a kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Vec<Finding>,
}

/// What was found in some shards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether there is no fault.
    pub clean: bool,
    /// Shards.
    pub shards: u64,
    /// Samples; of packed shards, those in packs.
    pub samples: u64,
    /// Packs.
    pub packs: u64,
    /// Pictures whose headers were read.
    pub images: u64,
    /// Of these, decoded.
    pub decoded: u64,
    /// By kind.
    pub faults: BTreeMap<Kind, Found>,
    /// By kind.
    pub notes: BTreeMap<Kind, Found>,
}

impl Report {
    /// Takes a finding in, and keeps it if there are fewer than `most` of its kind.
    pub fn add(&mut self, most: usize, kind: Kind, file: &str, key: &str, reason: impl Into<String>) {
        let list = if kind.is_note() { &mut self.notes } else { &mut self.faults };
        let found = list.entry(kind).or_default();
        found.count += 1;
        if found.first.len() < most {
            found.first.push(Finding { file: file.to_owned(), key: key.to_owned(), reason: reason.into() });
        }
    }

    /// Takes in what was found in later shards.
    pub fn join(&mut self, most: usize, other: Report) {
        self.shards += other.shards;
        self.samples += other.samples;
        self.packs += other.packs;
        self.images += other.images;
        self.decoded += other.decoded;
        for (mine, theirs) in [(&mut self.faults, other.faults), (&mut self.notes, other.notes)] {
            for (kind, theirs) in theirs {
                let found = mine.entry(kind).or_default();
                found.count += theirs.count;
                let room = most.saturating_sub(found.first.len());
                found.first.extend(theirs.first.into_iter().take(room));
            }
        }
    }

    /// Faults of all kinds.
    pub fn total(&self) -> u64 {
        self.faults.values().map(|f| f.count).sum()
    }
}
