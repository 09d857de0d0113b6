//! Records to prompts, in order, for evaluation and inference: the same record → prompt → tokens path as training.

use std::sync::Arc;

use ovhost_plugin::{CallCtx, Message, Mode, Part, Piece, Rendered};

use super::work::decode_bin;
use crate::DataError;
use crate::chat::{ChatTokenizer, Encoded};
use crate::columns::{self, Compute, RowView};
use crate::image::ImageProcessor;
use crate::pipeline::{EncodedSample, Item, PromptStage, SampleImage, SampleSource, StageFactory, image_tokens};
use crate::record::{Media, Record, Reject};

/// A question, ready for the model.
#[derive(Debug, Clone)]
pub struct EvalSample {
    /// Place in the data, from 0.
    pub ordinal: u64,
    /// Key in its shard.
    pub key: String,
    /// Shard's file name.
    pub source: String,
    /// The record's fields as JSON.
    pub record: String,
    /// What the prompt plugin rendered.
    pub rendered: Rendered,
    /// Token ids up to where the model answers.
    pub prompt: Encoded,
    /// Pictures in the order of their pads.
    pub images: Vec<SampleImage>,
    /// How many of the pictures, the first ones, are of examples before the question.
    pub example_images: usize,
    /// Correct answers, where the record has any.
    pub references: Vec<String>,
}

impl EvalSample {
    /// Decodes the pictures: patches `[P, patch_dim]` and grids. `blank` gives black pictures of the same sizes.
    pub fn pixels(&self, images: &ImageProcessor, blank: bool) -> Result<(Vec<f32>, Vec<[i64; 3]>), Reject> {
        let sample = EncodedSample {
            item: Item { ordinal: self.ordinal, shard: 0, index: 0 },
            key: self.key.clone(),
            source: self.source.clone(),
            input_ids: Vec::new(),
            labels: Vec::new(),
            images: self.images.clone(),
            patches: 0,
        };
        let mut bin = decode_bin(vec![sample], images, blank);
        match bin.rejects.pop() {
            Some(reject) => Err(reject),
            None => Ok((bin.pixel_values, bin.grid_thw)),
        }
    }
}

/// Reads records and renders prompts. Filters are not applied: every record is asked.
pub struct EvalReader {
    source: Option<Arc<dyn SampleSource>>,
    places: Vec<(u32, u64)>,
    prompt: Box<dyn PromptStage>,
    reads: Vec<String>,
    stop_strings: Vec<String>,
    chat: Arc<ChatTokenizer>,
    images: Arc<ImageProcessor>,
    seed: u64,
    examples: Vec<Example>,
}

/// A question with its answer, shown before every other question.
struct Example {
    messages: Vec<Message>,
    media: Vec<Media>,
}

impl EvalReader {
    /// A reader over all samples of `source`, shard by shard; without one only [`Self::prepare`] is of use.
    pub fn new(
        source: Option<Arc<dyn SampleSource>>,
        stages: &dyn StageFactory,
        chat: Arc<ChatTokenizer>,
        images: Arc<ImageProcessor>,
        seed: u64,
    ) -> Result<Self, DataError> {
        if source.as_ref().is_some_and(|s| s.packed()) {
            return Err(DataError::Config(
                "the shards hold packs, which are made for training; an evaluation asks single samples: name the shards that the                  packs were made from"
                    .into(),
            ));
        }
        let mut prompt = stages.prompt()?;
        chat.check_special_tokens(&prompt.special_tokens()?)?;
        let shards = source.as_ref().map(|s| s.shards()).unwrap_or_default();
        let places = shards.iter().enumerate().flat_map(|(s, (_, n))| (0..*n).map(move |i| (s as u32, i))).collect();
        let (reads, stop_strings) = (prompt.reads(), prompt.stop_strings()?);
        Ok(Self { source, places, prompt, reads, stop_strings, chat, images, seed, examples: Vec::new() })
    }

    /// Shows these records, each with its answer, before every question.
    ///
    /// # Errors
    /// A record that the prompt cannot render; a prompt that gives segments, between which no turns can be put.
    pub fn with_examples(mut self, examples: &[(Record, String)]) -> Result<Self, DataError> {
        for (ordinal, (record, answer)) in examples.iter().enumerate() {
            let refuse = |why: String| DataError::Config(format!("example {} cannot be shown: {why}", record.key));
            let Rendered::Conversation(mut messages) = self.render(record, ordinal as u64)?.map_err(refuse)? else {
                return Err(refuse("the prompt gives segments; examples need one that gives conversations".into()));
            };
            messages.retain(|message| message.role != "system");
            let said = Message { role: "assistant".into(), parts: vec![Part::Text(answer.clone())], train: false };
            messages.push(said);
            self.examples.push(Example { messages, media: record.media.clone() });
        }
        Ok(self)
    }

    /// Number of records.
    pub fn len(&self) -> u64 {
        self.places.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Strings beside the end tokens that end an answer, as the prompt plugin says.
    pub fn stop_strings(&self) -> &[String] {
        &self.stop_strings
    }

    /// Reads and renders record `ordinal`. The inner error is a reject of this record alone.
    pub fn read(&mut self, ordinal: u64) -> Result<Result<EvalSample, Reject>, DataError> {
        let place = self.places.get(ordinal as usize).copied();
        let (Some((shard, index)), Some(source)) = (place, &self.source) else {
            return Err(DataError::Config(format!("there is no record {ordinal}; the data has {}", self.places.len())));
        };
        match source.record(shard, index) {
            Ok(record) => self.prepare(&record, ordinal),
            Err(reject) => source.failure().map_or(Ok(Err(reject)), |why| Err(DataError::Source(why))),
        }
    }

    /// Renders a record from anywhere, such as a picture and a question on the command line.
    pub fn prepare(&mut self, record: &Record, ordinal: u64) -> Result<Result<EvalSample, Reject>, DataError> {
        let rendered = self.render(record, ordinal)?.map_err(|e| ("prompt", e));
        Ok(rendered
            .and_then(|r| self.encode(record, ordinal, r).map_err(|e| ("encode", e)))
            .map_err(|(stage, reason)| Reject { key: record.key.clone(), shard: record.shard.clone(), stage, reason }))
    }

    fn render(&mut self, record: &Record, ordinal: u64) -> Result<Result<Rendered, String>, DataError> {
        let compute = Compute { chat: Some(&self.chat), max_pixels: self.images.max_decode_pixels };
        let batch = columns::build(&[RowView { ordinal, record, added: &[] }], &self.reads, compute);
        let ctx = CallCtx { run_seed: self.seed, shard: 0, batch_index: ordinal, first_row: ordinal };
        let rendered = self.prompt.render(&ctx, Mode::Generate, &batch)?.pop();
        rendered.ok_or_else(|| DataError::Worker("the prompt gave no item for a row".into()))
    }

    /// The question after the examples, with all their pictures.
    fn after_examples(&self, record: &Record, rendered: Rendered) -> Result<(Vec<Media>, Rendered), String> {
        if self.examples.is_empty() {
            return Ok((record.media.clone(), rendered));
        }
        let Rendered::Conversation(asked) = rendered else {
            return Err("the prompt gives segments; examples need one that gives conversations".into());
        };
        let (mut messages, asked): (Vec<Message>, Vec<Message>) = asked.into_iter().partition(|m| m.role == "system");
        let mut media = Vec::new();
        let turns = self.examples.iter().map(|e| (e.messages.clone(), &e.media)).chain([(asked, &record.media)]);
        for (turn, pictures) in turns {
            let before = media.len() as u32;
            media.extend(pictures.iter().cloned());
            messages.extend(turn.into_iter().map(|mut message| {
                for part in &mut message.parts {
                    if let Part::Image(number) = part {
                        *number += before;
                    }
                }
                message
            }));
        }
        Ok((media, Rendered::Conversation(messages)))
    }

    fn encode(&self, record: &Record, ordinal: u64, rendered: Rendered) -> Result<EvalSample, String> {
        let (media, mut rendered) = self.after_examples(record, rendered)?;
        // A question may name some of its record's pictures (MMMU's do): only these are read.
        let shown = keep_shown(&mut rendered, media.len())?;
        let before = media.len() - record.media.len();
        let example_images = shown.iter().filter(|i| **i < before).count();
        let record = &Record { media: shown.iter().map(|i| media[*i].clone()).collect(), ..record.clone() };
        let sizes = image_tokens(record, &self.images)?;
        let prompt = self.chat.encode_prompt(&rendered, &sizes.tokens).map_err(|e| e.to_string())?;
        let image = |i: &usize| SampleImage { media: record.media[*i].clone(), tokens: sizes.tokens[*i] };
        Ok(EvalSample {
            ordinal,
            key: record.key.clone(),
            source: record.shard.clone(),
            record: columns::record_json(record),
            images: prompt.image_order.iter().map(image).collect(),
            example_images,
            references: columns::references(&record.fields),
            rendered,
            prompt,
        })
    }
}

/// The pictures that a prompt shows, by their places in the record; the prompt's own numbers become places among these.
fn keep_shown(rendered: &mut Rendered, have: usize) -> Result<Vec<usize>, String> {
    let mut numbers: Vec<&mut u32> = match rendered {
        Rendered::Conversation(messages) => messages
            .iter_mut()
            .flat_map(|message| &mut message.parts)
            .filter_map(|part| match part {
                Part::Image(number) => Some(number),
                _ => None,
            })
            .collect(),
        Rendered::Segments(segments) => segments
            .iter_mut()
            .filter_map(|segment| match &mut segment.piece {
                Piece::Image(number) => Some(number),
                _ => None,
            })
            .collect(),
    };
    let mut shown: Vec<usize> = numbers.iter().map(|number| **number as usize).collect();
    shown.sort_unstable();
    shown.dedup();
    if let Some(beyond) = shown.last().filter(|last| **last >= have) {
        return Err(format!("the prompt shows image {beyond} (counted from 0), and the record has {have}"));
    }
    for number in &mut numbers {
        **number = shown.binary_search(&(**number as usize)).map_err(|_| "an image was lost")? as u32;
    }
    Ok(shown)
}
