//! A task's samples in two passes: what all of them say together, then the texts of those that are shown.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::pictures::Picture;
use super::texts::{count, cut, number};
use super::{Pictures, ReportOptions};
use crate::read::{Sample, Samples, reference};

/// How a picture stands in a prompt's text.
const PLACE: &str = "<image>";

/// What a first pass finds.
pub struct Pass {
    /// Samples.
    pub samples: u64,
    /// Samples by finish reason.
    pub reasons: BTreeMap<String, u64>,
    /// Samples by the answer's length in tokens.
    lengths: BTreeMap<u64, u64>,
    /// Samples with a score that may not be the full one.
    wrong: u64,
    /// Samples with a score.
    scored: u64,
    /// Where the lines of the worst begin, the worst first.
    pub worst: Vec<u64>,
    /// Where the lines of the first samples without a score begin.
    pub without_score: Vec<u64>,
}

/// A sample with a score, in what decides how bad it is.
struct Scored {
    score: f64,
    unread: bool,
    doc_id: u64,
    begin: u64,
}

impl Pass {
    /// Reads every sample of `file` once. `higher`: more of the score is better.
    pub fn over(file: &Path, main: &str, higher: bool, worst: usize) -> Result<Self> {
        let mut pass = Self {
            samples: 0,
            reasons: BTreeMap::new(),
            lengths: BTreeMap::new(),
            wrong: 0,
            scored: 0,
            worst: Vec::new(),
            without_score: Vec::new(),
        };
        let (mut scored, mut any_read) = (Vec::new(), false);
        for line in Samples::open(file)? {
            let (begin, sample) = line?;
            pass.samples += 1;
            if let (None, Some(tokens)) = (&sample.error, sample.output_tokens) {
                *pass.lengths.entry(tokens).or_default() += 1;
            }
            let reason = sample.finish_reason.as_deref().unwrap_or("not said");
            *pass.reasons.entry(cut(reason, 40)).or_default() += 1;
            let unread = sample.read.as_deref().is_none_or(str::is_empty);
            any_read |= !unread;
            match score_of(&sample, main) {
                Some(score) => scored.push(Scored { score, unread, doc_id: sample.doc_id, begin }),
                None if pass.without_score.len() < worst => pass.without_score.push(begin),
                None => {}
            }
        }
        pass.scored = scored.len() as u64;
        // Of scores from 0 to 1 those of 1 are right; of others none is known to be.
        let graded = higher && scored.iter().all(|one| (0.0..=1.0).contains(&one.score));
        scored.retain(|one| !graded || one.score < 1.0);
        pass.wrong = scored.len() as u64;
        // A metric that never says what it read leaves nothing unread.
        let unread = |one: &Scored| one.unread && any_read;
        let badness = |one: &Scored| if higher { one.score } else { -one.score };
        scored.sort_by(|a, b| {
            let by_read = unread(b).cmp(&unread(a));
            by_read.then(badness(a).total_cmp(&badness(b))).then(a.doc_id.cmp(&b.doc_id))
        });
        pass.worst = scored.iter().take(worst).map(|one| one.begin).collect();
        Ok(pass)
    }

    /// Counts of lengths in ranges that double.
    pub fn length_bins(&self) -> Vec<(String, u64)> {
        let mut bins: BTreeMap<u32, u64> = BTreeMap::new();
        for (length, count) in &self.lengths {
            // 0, 1, 2–3, 4–7 …: by the number of binary digits.
            *bins.entry(u64::BITS - length.leading_zeros()).or_default() += count;
        }
        let (Some(first), Some(last)) = (bins.keys().next().copied(), bins.keys().next_back().copied()) else {
            return Vec::new();
        };
        // Answers that were given, and not made, have no lengths.
        if last == 0 {
            return Vec::new();
        }
        let name = |digits: u32| match digits {
            0 | 1 => digits.to_string(),
            _ => format!("{}–{}", 1_u128 << (digits - 1), (1_u128 << digits) - 1),
        };
        (first..=last).map(|digits| (name(digits), bins.get(&digits).copied().unwrap_or_default())).collect()
    }

    /// Least, middle, 90th percentile and largest length in words.
    pub fn length_words(&self) -> Option<String> {
        let all: u64 = self.lengths.values().sum();
        let (least, most) = (self.lengths.keys().next()?, self.lengths.keys().next_back()?);
        // The smallest length that so many hundredths of the answers do not exceed.
        let quantile = |hundredths: u64| {
            let rank = (all * hundredths).div_ceil(100).max(1);
            let mut below = 0;
            let found = self.lengths.iter().find(|(_, count)| {
                below += **count;
                below >= rank
            });
            found.map_or(*most, |(length, _)| *length)
        };
        let (middle, long) = (quantile(50), quantile(90));
        Some(format!("least {least}, median {middle}, 90 % up to {long}, most {most}"))
    }

    /// What is said above the samples.
    pub fn words(&self, submitted: bool) -> Option<String> {
        let unscored = self.samples - self.scored;
        let words = match (self.scored, self.wrong) {
            (0, _) if submitted => "No scores: its server scores the answers.".to_owned(),
            (0, _) => "No sample has a score.".to_owned(),
            (scored, 0) => format!("All {} scored samples have the full score.", count(scored)),
            (scored, wrong) => {
                format!("{} of {} scored samples are below the full score.", count(wrong), count(scored))
            }
        };
        Some(if unscored > 0 && self.scored > 0 { format!("{words} {} have none.", count(unscored)) } else { words })
    }
}

/// A sample's own score: under the main metric's name, else the first that its plugins gave.
fn score_of(sample: &Sample, main: &str) -> Option<f64> {
    let named = sample.other.get(main).or_else(|| sample.scores.get(main)).and_then(reference::score);
    named.or_else(|| sample.scores.values().find_map(reference::score))
}

/// A sample as the templates see it.
#[derive(Serialize)]
pub struct Worst {
    title: String,
    /// Score, finish reason and the like.
    facts: Vec<String>,
    /// Name and text: question, answer, target and so on.
    texts: Vec<(&'static str, String)>,
    pictures: Vec<Picture>,
    /// Words about pictures that are not there.
    pictures_note: Option<String>,
}

/// Reads the samples whose lines begin at these bytes.
pub fn show(
    file: &Path,
    begins: &[u64],
    task: &str,
    main: &str,
    pictures: &Pictures<'_>,
    options: &ReportOptions,
) -> Result<Vec<Worst>> {
    if begins.is_empty() {
        return Ok(Vec::new());
    }
    let mut samples = Samples::open(file)?;
    begins.iter().map(|begin| Ok(one(&samples.at(*begin)?, task, main, pictures, options))).collect()
}

fn one(sample: &Sample, task: &str, main: &str, pictures: &Pictures<'_>, options: &ReportOptions) -> Worst {
    let short = |text: &str| cut(text, 200);
    let key = sample.key.as_ref().filter(|key| **key != sample.doc_id.to_string());
    let score = score_of(sample, main);
    let mut facts = vec![score.map_or("no score".into(), |score| format!("score {}", number(score)))];
    if score.is_some() && sample.read.as_deref().is_none_or(str::is_empty) {
        facts.push("nothing read".into());
    }
    facts.extend(sample.finish_reason.as_deref().map(|reason| format!("ended by {}", short(reason))));
    facts.extend(sample.output_tokens.map(|tokens| format!("{} tokens", count(tokens))));
    let errors = (!sample.score_errors.is_empty()).then(|| sample.score_errors.join("\n"));
    let texts = [
        ("Not asked", sample.error.as_ref()),
        ("Not scored", errors.as_ref()),
        ("Question", sample.input.as_ref()),
        ("Answer", sample.answer.as_ref().filter(|_| sample.error.is_none())),
        ("Target", sample.target.as_ref()),
        ("Read", sample.read.as_ref()),
        ("Judgement", sample.judgement.as_ref()),
    ];
    // An empty answer says something, an empty question only that it is not known.
    let said = |name: &str, text: &str| name == "Answer" || !text.is_empty();
    let texts =
        texts.into_iter().filter_map(|(name, text)| Some((name, text?))).filter(|(name, text)| said(name, text));
    let texts = texts.map(|(name, text)| (name, cut(text, options.text_limit))).collect();
    let given = if options.thumbnail == 0 { Vec::new() } else { pictures(task, sample.doc_id) };
    let expected = sample.input.as_deref().map_or(0, |input| input.matches(PLACE).count());
    let missing = (given.len() < expected).then(|| match options.thumbnail {
        0 => format!("{expected} pictures, left out"),
        _ => format!("{} of {expected} pictures are not at hand", expected - given.len()),
    });
    Worst {
        title: match key {
            Some(key) => format!("{} · {}", sample.doc_id, short(key)),
            None => sample.doc_id.to_string(),
        },
        facts,
        texts,
        pictures: given.iter().map(|(name, bytes)| Picture::of(&short(name), bytes, options.thumbnail)).collect(),
        pictures_note: missing,
    }
}
