//! `visual_nouns`: keeps captions that name enough different things of a word list.
//!
//! A caption such as "what a lovely day, I had so much fun" teaches a vision-language model nothing about its image. The list
//! is an asset of the recipe, so that every data set can have its own; the number of things found becomes the column
//! `visual-nouns`, for later filters and for looking at.
//!
//! | reason | rule |
//! |---|---|
//! | `no text` | the row has no text |
//! | `few things` | fewer than `min_things` different entries of the list are in it |
//!
//! Entries may have several words ("traffic light"); the longest that fits is taken, and its words count once. Case does not
//! matter, and a plural in s or es is found.

use std::collections::{BTreeSet, HashSet};

use ovhost_sdk::prelude::*;
use ovhost_sdk::text::words;

/// What a recipe may say under `config`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Fewest different things that a caption must name.
    pub min_things: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { min_things: 2 }
    }
}

/// The plugin.
pub struct VisualNouns {
    min_things: u32,
    nouns: HashSet<String>,
    /// Words of the longest entry.
    longest: usize,
}

impl Plugin for VisualNouns {
    type Config = Config;
    const NAME: &'static str = "visual_nouns";
    const SUMMARY: &'static str = "Keeps captions that name enough different things of a word list.";
    const READS: &'static [Need] = &[Need::utf8("text")];
    const WRITES: &'static [Write] = &[Write::u32s("visual-nouns")];
    const ASSETS: &'static [&'static str] = &["nouns"];

    fn new(config: Config, assets: &Assets) -> Result<Self, ConfigError> {
        let lines = assets.text("nouns")?.lines().map(str::trim);
        let entries = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        // As captions are cut into words, so that "t-shirt" is found where it is written so.
        let nouns: HashSet<String> = entries.map(|entry| joined(&lower_words(entry))).collect();
        let mut findings = Findings::new();
        findings.require(!nouns.is_empty(), "", || "the asset `nouns` lists nothing; one thing to a line".into());
        findings.require(config.min_things > 0, "/min_things", || "0 keeps everything; must be at least 1".into());
        findings.finish()?;
        let longest = nouns.iter().map(|entry| entry.split(' ').count()).max().unwrap_or(1);
        Ok(Self { min_things: config.min_things, nouns, longest })
    }
}

impl VisualNouns {
    /// The entries that `text` names.
    fn things(&self, text: &str) -> BTreeSet<&str> {
        let words = lower_words(text);
        let mut found = BTreeSet::new();
        let mut at = 0;
        while at < words.len() {
            let most = self.longest.min(words.len() - at);
            let hit = (1..=most).rev().find_map(|n| Some((n, self.entry(&joined(&words[at..at + n]))?)));
            if let Some((n, entry)) = hit {
                found.insert(entry);
                at += n;
            } else {
                at += 1;
            }
        }
        found
    }

    /// The entry that `phrase` is, or is the plural of.
    fn entry(&self, phrase: &str) -> Option<&str> {
        let singular = |end: &str| phrase.strip_suffix(end).and_then(|stem| self.nouns.get(stem));
        self.nouns.get(phrase).or_else(|| singular("s")).or_else(|| singular("es")).map(String::as_str)
    }
}

impl Filter for VisualNouns {
    fn row(&mut self, ctx: &mut RowCtx, row: &Row) -> Verdict {
        let Some(text) = row.str("text") else { return Verdict::drop("no text") };
        let things = self.things(text).len() as u32;
        ctx.set("visual-nouns", things);
        if things < self.min_things { Verdict::drop("few things") } else { Verdict::Keep }
    }
}

fn lower_words(text: &str) -> Vec<String> {
    words(text).map(str::to_lowercase).collect()
}

fn joined(words: &[String]) -> String {
    words.join(" ")
}

ovhost_sdk::export_filter!(VisualNouns);

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::testing;

    const LIST: &[u8] = b"# things\ndog\nbench\ntraffic light\nlight\nT-shirt\n";

    fn counts(texts: &[&str]) -> Vec<Json> {
        let mut plugin = testing::filter_with_assets::<VisualNouns>(json!({}), &[("nouns", LIST)]).unwrap();
        let rows: Vec<Json> = texts.iter().map(|text| json!({ "text": text })).collect();
        plugin.run(json!(rows)).column("visual-nouns")
    }

    #[test]
    fn different_things_count_and_repeated_ones_do_not() {
        assert_eq!(counts(&["A DOG on a bench, a dog", "dogs and benches", "a hotdog"]), [2, 2, 0].map(Json::from));
    }

    #[test]
    fn the_longest_entry_wins() {
        assert_eq!(counts(&["traffic lights", "a traffic jam, a light", "a t-shirt"]), [1, 1, 1].map(Json::from));
    }

    #[test]
    fn a_missing_or_empty_list_is_refused() {
        let refused = |assets: &[(&str, &[u8])]| {
            testing::filter_with_assets::<VisualNouns>(json!({}), assets).err().unwrap().to_string()
        };
        assert!(refused(&[]).contains("`nouns` is missing"));
        assert!(refused(&[("nouns", b"# nothing\n")]).contains("lists nothing"));
    }
}
