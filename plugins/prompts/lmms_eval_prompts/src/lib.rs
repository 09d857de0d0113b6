//! `lmms_eval_prompts`: the prompts of the tasks that LLaVA-OneVision-1.5 reports, one entry a task.
//!
//! ```text
//!  record ──► wording (crate ovhost-eval-scoring) ──► one user turn: pictures first, or where MMMU names them ──► the model
//! ```
//!
//! The wording is the reference's in every profile, since a score of another question is another score. The profiles differ in
//! where pictures stand and in the system turn: `paper-2025-09` is the reference's "simple" form of September 2025.

use std::marker::PhantomData;

pub use ovhost_eval_scoring::profile::Profile;
use ovhost_eval_scoring::prompts::mathvista::Shot;
use ovhost_eval_scoring::prompts::{self, LETTER, PHRASE, QWEN_LETTER, WORD, mathvista, mmmu, vstar};
use ovhost_eval_scoring::tasks::charxiv;
use ovhost_eval_scoring::texts::Texts;
use ovhost_sdk::prelude::*;

/// Configuration of every entry.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Where pictures stand, and what the system turn says. `fixed`: pictures first, MMMU's where the question names them.
    /// `lmms-eval`: MMMU's sorted pictures go into the places one after the other, whatever these name. `paper-2025-09`:
    /// pictures first, MMMU's `<image 1>` as text, "You are a helpful assistant." as system turn.
    pub profile: Profile,
    /// Qwen3-VL's wording, of MMMU, MMMU-Pro and MMStar.
    pub qwen3_vl: bool,
    /// MathVista's form: "step-by-step", "solution", "format-prompt" or "reason-first".
    pub shot: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { profile: Profile::Fixed, qwen3_vl: false, shot: "step-by-step".into() }
    }
}

/// The configuration with what it names.
pub struct Setup {
    config: Config,
    shot: Shot,
    texts: Texts,
}

/// The asset of others' texts: CharXiv's questions.
const TEXTS: &str = "texts";
const SYSTEM: &str = "You are a helpful assistant.";

/// What is asked.
pub enum Question {
    /// After all pictures.
    Text(String),
    /// With pictures between.
    Parts(Vec<prompts::Part>),
}

/// A task's prompt.
pub trait Task: 'static {
    /// The entry's name.
    const NAME: &'static str;
    /// One sentence.
    const SUMMARY: &'static str;
    /// Whether its questions are among the texts that a user brings.
    const NEEDS_TEXTS: bool = false;

    /// The question.
    ///
    /// # Errors
    /// The record is not the task's.
    fn ask(setup: &Setup, record: &Json) -> Result<Question, String>;
}

/// A task as a plugin.
pub struct Entry<T> {
    setup: Setup,
    task: PhantomData<fn() -> T>,
}

impl<T: Task> Plugin for Entry<T> {
    type Config = Config;
    const NAME: &'static str = T::NAME;
    const SUMMARY: &'static str = T::SUMMARY;
    const READS: &'static [Need] = &[Need::utf8("record"), Need::u32s("num-images")];
    const ASSETS: &'static [&'static str] = &[TEXTS];

    fn new(config: Config, assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        let shot = Shot::named(&config.shot);
        findings.require(shot.is_some(), "/shot", || {
            format!("\"{}\" is none of step-by-step, solution, format-prompt, reason-first", config.shot)
        });
        let texts = match assets.bytes(TEXTS) {
            None => Ok(Texts::default()),
            Some(_) => Texts::parse(assets.text(TEXTS)?),
        };
        let checked = texts
            .and_then(|texts| if config.profile == Profile::Fixed { Ok(texts) } else { texts.check().map(|()| texts) });
        if let Err(message) = &checked {
            findings.require(false, "", || format!("the asset `{TEXTS}`: {message}"));
        }
        let texts = checked.unwrap_or_default();
        findings.require(!T::NEEDS_TEXTS || !texts.is_empty(), "", || {
            format!("this task's questions come as the asset `{TEXTS}`; README.md says how to make it")
        });
        findings.finish()?;
        Ok(Self { setup: Setup { config, shot: shot.unwrap_or(Shot::StepByStep), texts }, task: PhantomData })
    }
}

impl<T: Task> Prompt for Entry<T> {
    fn render(&mut self, _ctx: &mut RowCtx, mode: Mode, row: &Row) -> Result<Rendered, String> {
        if mode == Mode::Train {
            return Err("this prompt is of an evaluation and has no answer to learn".into());
        }
        let record = row.json("record")?.ok_or("the row has no record")?;
        let images = row.u32("num-images").unwrap_or(0);
        let parts = match T::ask(&self.setup, record)? {
            Question::Text(text) => (0..images).map(Part::Image).chain([Part::Text(text)]).collect(),
            Question::Parts(parts) => {
                parts.into_iter().map(|part| placed(part, images)).collect::<Result<Vec<_>, _>>()?
            }
        };
        let system = (self.setup.config.profile == Profile::Paper).then(|| Message::text("system", SYSTEM, false));
        let user = Message { role: "user".into(), parts, train: false };
        Ok(Rendered::Conversation(system.into_iter().chain([user]).collect()))
    }
}

/// The picture of the field `image_k` is the row's k-th.
fn placed(part: prompts::Part, images: u32) -> Result<Part, String> {
    let field = match part {
        prompts::Part::Text(text) => return Ok(Part::Text(text)),
        prompts::Part::Picture(field) => field,
    };
    let number = field.strip_prefix("image_").and_then(|number| number.parse::<u32>().ok());
    let index = number.and_then(|number| number.checked_sub(1)).filter(|&index| index < images);
    index.map(Part::Image).ok_or_else(|| format!("the question names the picture `{field}` and the row has {images}"))
}

macro_rules! tasks {
    ($($task:ident $name:literal $summary:literal $needs:literal |$setup:ident, $record:ident| $ask:expr;)+) => {
        $(
            #[doc = concat!("`", $name, "`: ", $summary)]
            pub struct $task;
            impl Task for $task {
                const NAME: &'static str = $name;
                const SUMMARY: &'static str = $summary;
                const NEEDS_TEXTS: bool = $needs;
                fn ask($setup: &Setup, $record: &Json) -> Result<Question, String> {
                    let _ = $setup;
                    $ask
                }
            }
        )+
        ovhost_sdk::export_prompt!($(Entry<$task>),+);
    };
}

fn text(text: Result<String, String>) -> Result<Question, String> {
    text.map(Question::Text)
}

fn ask_mmmu(setup: &Setup, record: &Json, style: mmmu::Style, chat: bool) -> Result<Question, String> {
    let style = if setup.config.qwen3_vl { mmmu::Style::qwen() } else { style };
    match setup.config.profile {
        Profile::Fixed => mmmu::in_place(record, &style).map(Question::Parts),
        Profile::LmmsEval if chat => mmmu::interleaved(record, &style).map(Question::Parts),
        // Pictures first, only those that the question names.
        Profile::LmmsEval | Profile::Paper => {
            let mut parts: Vec<_> = mmmu::pictures(record)?.into_iter().map(prompts::Part::Picture).collect();
            parts.push(prompts::Part::Text(mmmu::plain(record, &style)?));
            Ok(Question::Parts(parts))
        }
    }
}

fn whole(record: &Json, key: &str) -> Result<u64, String> {
    record.get(key).and_then(Json::as_u64).ok_or_else(|| format!("the record's `{key}` is no whole number"))
}

/// A row of the fourfold data set says its template in `qid`; a record of the benchmark says which of its four questions is
/// meant in `descriptive_number`, 1 to 4.
fn ask_descriptive(setup: &Setup, record: &Json) -> Result<Question, String> {
    let template = match record.get("qid") {
        Some(_) => whole(record, "qid")?,
        None => whole(record, &format!("descriptive_q{}", whole(record, "descriptive_number")?))?,
    };
    let cell = |key: &str| record.get(key).cloned().unwrap_or(Json::Null);
    let place = match cell("subplot_loc") {
        Json::Null => json!([cell("subplot_row"), cell("subplot_col")]),
        place => place,
    };
    let question = charxiv::descriptive_question(&setup.texts, template, &place)?;
    Ok(Question::Text(ovhost_eval_scoring::python::text::strip(&question).into()))
}

tasks! {
    Ai2d "ai2d" "AI2D: the question with its options." false
        |setup, record| text(prompts::ai2d(record, "", &format!("\n{LETTER}")));
    ChartQa "chartqa" "ChartQA: the question, answered with a word." false
        |setup, record| text(prompts::question(record, "", &format!("\n{WORD}")));
    DocVqa "docvqa" "DocVQA: the question, answered with a word or phrase." false
        |setup, record| text(prompts::question(record, "", &format!("\n{PHRASE}")));
    Mme "mme" "MME: the question, answered with a word or phrase." false
        |setup, record| text(prompts::bare_question(record, "", &format!("\n{PHRASE}")));
    MmStar "mmstar" "MMStar: the question, which holds its options." false
        |setup, record| text(if setup.config.qwen3_vl {
            prompts::bare_question(record, "Question: ", QWEN_LETTER)
        } else {
            // Without the full stop, as the reference has it.
            prompts::bare_question(record, "", &format!("\n{}", LETTER.trim_end_matches('.')))
        });
    ScienceQa "scienceqa" "ScienceQA: hint, question and choices." false
        |setup, record| text(prompts::scienceqa(record, "", &format!("\n{LETTER}")));
    MmBench "mmbench" "MMBench: hint, question and options." false
        |setup, record| text(prompts::mmbench(record, &format!("\n{LETTER}")));
    MmeRealWorld "mmerealworld" "MME-RealWorld: the question with its options." false
        |setup, record| text(prompts::mmerealworld(record, false));
    MmeRealWorldCn "mmerealworld_cn" "MME-RealWorld in Chinese." false
        |setup, record| text(prompts::mmerealworld(record, true));
    VStar "vstar" "V*: the question, its options on lines." false
        |setup, record| text(vstar::question(record, "", &format!("\n{LETTER}")));
    Mmmu "mmmu" "MMMU: question and options, pictures where they are named." false
        |setup, record| ask_mmmu(setup, record, mmmu::Style::mmmu(), true);
    MmmuPro "mmmu_pro" "MMMU-Pro: question and options." false
        |setup, record| ask_mmmu(setup, record, mmmu::Style::pro(), false);
    MathVista "mathvista" "MathVista: question, choices and a hint, in four forms." false
        |setup, record| text(mathvista::question(record, setup.shot));
    CharXivReasoning "charxiv_reasoning" "CharXiv: a reasoning question." true
        |setup, record| text(charxiv::reasoning_question(
            &setup.texts,
            whole(record, "reasoning_q_source")?,
            prompts::field(record, "reasoning_q")?,
            prompts::field(record, "reasoning_a")?,
        ));
    CharXivDescriptive "charxiv_descriptive" "CharXiv: a descriptive question." true
        |setup, record| ask_descriptive(setup, record);
}

#[cfg(test)]
mod tests;
