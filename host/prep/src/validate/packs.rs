//! A pack: its description against its samples and members, its samples against what every sample must be.

use std::collections::BTreeSet;

use ovhost_data::image::decode::is_picture_name;
use ovhost_data::packed::{self, MadeFor, Pack, PackJson, VERSION};
use ovhost_data::pipeline::Outcome;
use ovhost_data::record::RecordOptions;
use ovhost_data::shards::RawSample;

use super::Check;
use super::report::Kind;
use crate::error::PrepError;
use crate::samples::Reader;

impl Check<'_> {
    /// Checks the pack with number `index` of its shard; `id` is one that its samples may be given.
    pub(super) fn pack(&mut self, raw: RawSample, reader: &Reader<'_>, index: usize, id: u64) -> Result<(), PrepError> {
        self.report.packs += 1;
        let (key, before) = (raw.key.clone(), self.report.total());
        for (part, bytes) in &raw.parts {
            self.part(&key, part, bytes);
        }
        let json = raw.parts.iter().find(|(part, _)| part == "json").map(|(_, bytes)| bytes.as_slice());
        let described = json.and_then(|bytes| serde_json::from_slice::<PackJson>(bytes).ok());
        if let Some(described) = &described {
            let members: BTreeSet<&str> = raw.parts.iter().map(|(part, _)| part.as_str()).collect();
            self.head(&key, described);
            self.members(&key, described, &members);
        }
        let (shard_name, options) = (self.file.clone(), RecordOptions { max_pixels: self.settings.max_pixels });
        let again = RawSample { key: raw.key.clone(), parts: raw.parts.clone() };
        let unit = reader.take(raw, index);
        if unit.pack.is_none() {
            // The whole of it cannot be read; why is told already where a part is the reason.
            if let Some(Err(reject)) = unit.records.first()
                && self.report.total() == before
            {
                self.add(Kind::Pack, &key, reject.reason.clone());
            }
            return Ok(());
        }
        self.report.samples += unit.records.len() as u64;
        for record in unit.records {
            match record {
                Ok(record) => drop(self.record(&format!("{key}/{}", record.key), record)),
                // Pictures that cannot be read are told by their part.
                Err(reject) if reject.reason.starts_with("part ") => {}
                Err(reject) => self.add(Kind::Pack, &format!("{key}/{}", reject.key), reject.reason),
            }
        }
        if self.report.total() > before || self.encoder.is_none() {
            return Ok(());
        }
        match packed::parse(again, &shard_name, &options) {
            Ok(pack) => self.lengths(&key, pack, described.as_ref(), id + index as u64),
            Err(_) => Ok(()),
        }
    }

    /// What it says of itself.
    fn head(&mut self, key: &str, described: &PackJson) {
        let PackJson { head, samples } = described;
        let mut wrong = Vec::new();
        if head.version != VERSION {
            wrong.push(format!("it has version {}, and this program reads version {VERSION}", head.version));
        }
        let tokens: u64 = samples.iter().map(|s| u64::from(s.tokens)).sum();
        let patches: u64 = samples.iter().map(|s| u64::from(s.patches)).sum();
        for (what, said, is) in [("tokens", head.tokens, tokens), ("patches", head.patches, patches)] {
            if said != is {
                wrong.push(format!("it says {said} {what}, and its samples have {is}"));
            }
        }
        if tokens > u64::from(head.capacity) {
            wrong.push(format!("its samples have {tokens} tokens, and it was made to hold {}", head.capacity));
        }
        if samples.is_empty() {
            wrong.push("it has no samples".into());
        }
        wrong.into_iter().for_each(|reason| self.add(Kind::Pack, key, reason));
        let is = head.made_for.fingerprint();
        if head.fingerprint != is {
            let reason = format!("its fingerprint is {}, and what it covers has {is}", head.fingerprint);
            self.add(Kind::Fingerprint, key, reason);
        }
        if let Some(set) = self.facts.fingerprint.as_ref().filter(|set| **set != head.fingerprint) {
            self.add(
                Kind::Fingerprint,
                key,
                format!("its fingerprint is {}, and that of pack.json {set}", head.fingerprint),
            );
        }
        let Some(encoding) = &self.settings.encoding else { return };
        let now = MadeFor::of(&encoding.chat, &encoding.images, encoding.stages.prompt_identity());
        if let Err(error) = head.check(&format!("pack {key}"), &now, encoding.capacity) {
            self.add(Kind::Fingerprint, key, error.to_string());
        }
    }

    /// Every picture that is named is there, and the other way round.
    fn members(&mut self, key: &str, described: &PackJson, members: &BTreeSet<&str>) {
        let mut named = BTreeSet::new();
        for sample in &described.samples {
            for image in &sample.images {
                if !named.insert(image.as_str()) {
                    self.add(Kind::Pack, key, format!("{image} is named twice"));
                }
            }
        }
        for lost in members.iter().filter(|m| is_picture_name(m) && !named.contains(**m)) {
            self.add(Kind::Pack, key, format!("{lost} belongs to none of its samples"));
        }
    }

    /// Its samples, tokenised again, have the lengths that it says.
    fn lengths(&mut self, key: &str, pack: Pack, described: Option<&PackJson>, id: u64) -> Result<(), PrepError> {
        let Some(encoder) = self.encoder.as_deref_mut() else { return Ok(()) };
        let outcomes = match encoder.run_pack(id, pack) {
            Ok(outcomes) => outcomes,
            // Too many tokens for the run: the words say so.
            Err(ovhost_data::DataError::Config(reason)) => {
                self.add(Kind::TooLong, key, reason);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let said = described.map(|d| d.samples.as_slice()).unwrap_or_default();
        for (i, outcome) in outcomes.into_iter().enumerate() {
            match (outcome, said.get(i)) {
                (Outcome::Sample(sample), Some(said)) => {
                    let is = [sample.input_ids.len() as u64, u64::from(sample.patches)];
                    if is != [u64::from(said.tokens), u64::from(said.patches)] {
                        let reason = format!(
                            "it has {} tokens and {} patches, and its pack says {} and {}",
                            is[0], is[1], said.tokens, said.patches
                        );
                        self.add(Kind::Pack, &format!("{key}/{}", said.key), reason);
                    }
                }
                (other, _) => self.outcome(other),
            }
        }
        Ok(())
    }
}
