//! Judges of answers: a model behind an endpoint, a model folder, or judgements that a file holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use ovhost_data::ChatTokenizer;
use ovhost_eval::score::Ask;
use ovhost_infer::{GenerationConfig, Generator, Prompt};
use ovhost_judge::{AskError, Budget, Court, Judge, Key, NoText, OpenAi, Outcome, Reply, Request, Settings, Work};
use ovhost_model::{LlavaOnevision, LoadOptions};
use ovhost_plugin::{Message, Part};
use serde_json::{Value, json};
use tch::{Device, Kind};
use tracing::info;

/// Flags about judges.
#[derive(clap::Args)]
#[command(next_help_heading = "Judges")]
pub struct JudgeArgs {
    /// Metrics do without a judge: answers that they cannot read without one are wrong
    #[arg(long, conflicts_with_all = ["judge_url", "judge_model"])]
    pub no_judge: bool,
    /// Base address of an OpenAI-compatible server, as in http://localhost:8000/v1; needs --judge-model
    #[arg(long, requires = "judge_model")]
    pub judge_url: Option<String>,
    /// What the server calls the judge; without --judge-url a model folder, as --model takes it
    #[arg(long)]
    pub judge_model: Option<String>,
    /// Environment variable with the server's key
    #[arg(long, default_value = ovhost_judge::DEFAULT_KEY_VARIABLE, value_name = "VARIABLE")]
    pub judge_key: String,
    /// Requests under way at once at the server; prompts at once of a model folder
    #[arg(long, default_value_t = 8)]
    pub judge_concurrency: usize,
    /// Most tokens of a reply
    #[arg(long, default_value_t = ovhost_judge::DEFAULT_MAX_TOKENS)]
    pub judge_reply_tokens: u32,
    /// Most requests; answers beyond are reported as unscored
    #[arg(long, value_name = "N")]
    pub judge_max_requests: Option<u64>,
    /// Most tokens of requests and replies together; answers beyond are reported as unscored
    #[arg(long, value_name = "N")]
    pub judge_max_tokens: Option<u64>,
}

/// A judge with its file of replies.
pub struct Bench<'a> {
    court: Court<'a>,
    reply_tokens: u32,
    stop: Arc<AtomicBool>,
}

impl JudgeArgs {
    /// What can be told before a question is asked: the judge's turn comes after hours.
    pub fn check(&self) -> Result<()> {
        match (&self.judge_url, &self.judge_model) {
            (Some(url), Some(model)) => {
                let mut settings = Settings::new(url, model);
                settings.key = Key::from_variable(&self.judge_key)?;
                OpenAi::new(settings)?;
            }
            (None, Some(folder)) => {
                let path = PathBuf::from(folder);
                if !path.is_dir() {
                    bail!(
                        "--judge-model {folder}: there is no such model folder; --judge-url says at which server it is, if it is \
                         the name of a model"
                    );
                }
                let context = || format!("--judge-model {folder}");
                ovhost_model::ModelConfig::from_folder(&path).with_context(context)?;
                ChatTokenizer::from_folder(&path).with_context(context)?;
            }
            (_, None) => {}
        }
        Ok(())
    }
}

impl<'a> Bench<'a> {
    /// The judge that the flags name; none without them. Replies are kept in `OUT/judge.jsonl`.
    pub fn new(
        args: &JudgeArgs,
        out: &Path,
        device: &dyn Fn() -> Result<Device>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Option<Self>> {
        let judge: Box<dyn Judge> = match (&args.judge_url, &args.judge_model) {
            (Some(url), Some(model)) => {
                let mut settings = Settings::new(url, model);
                settings.key = Key::from_variable(&args.judge_key)?;
                settings.concurrency = args.judge_concurrency.max(1);
                settings.stop = Arc::clone(stop);
                Box::new(OpenAi::new(settings)?)
            }
            (None, Some(folder)) => {
                let path = PathBuf::from(folder);
                Box::new(Local::load(&path, device()?, args.judge_concurrency.max(1))?)
            }
            (_, None) => return Ok(None),
        };
        let budget = Budget { requests: args.judge_max_requests, tokens: args.judge_max_tokens };
        std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
        let court = Court::new(judge, budget).with_cache(&out.join("judge.jsonl"))?;
        Ok(Some(Self { court, reply_tokens: args.judge_reply_tokens.max(1), stop: Arc::clone(stop) }))
    }

    /// Who judges, for the records.
    pub fn identity(&self) -> Value {
        json!({"judge": self.court.identity(), "max_tokens": self.reply_tokens})
    }

    /// Replies, or why there are none.
    pub fn hear(&mut self, asks: &[Ask]) -> Vec<Result<String, String>> {
        let request = |ask: &Ask| Request { max_tokens: self.reply_tokens, ..Request::new(ask.messages.clone()) };
        let requests: Vec<Request> = asks.iter().map(request).collect();
        let style = ProgressStyle::with_template("judge {wide_bar} {pos}/{len} · {per_sec} · ETA {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(requests.len() as u64).with_style(style);
        let heard = self.court.hear(&requests, &self.stop, &mut |p| bar.set_position(p.done as u64));
        bar.finish_and_clear();
        let outcomes = match heard {
            Ok(outcomes) => outcomes,
            Err(error) => return vec![Err(error.to_string()); asks.len()],
        };
        let c = self.court.counters();
        info!(
            "judge: {} asked, {} known, {} failed, {} tried again, {} over the budget, {} left · {} + {} tokens",
            c.asked, c.cached, c.failed, c.retried, c.over_budget, c.left, c.prompt_tokens, c.completion_tokens
        );
        let said = |outcome| match outcome {
            Outcome::Reply(reply) => Ok(reply.text),
            Outcome::Failed(error) => Err(error.to_string()),
            Outcome::Unasked(why) => Err(why.to_string()),
        };
        outcomes.into_iter().map(said).collect()
    }
}

/// A model folder as a judge: greedy, with its own chat template.
struct Local {
    model: LlavaOnevision,
    chat: ChatTokenizer,
    generation: GenerationConfig,
    identity: Value,
    batch: usize,
}

impl Local {
    fn load(folder: &Path, device: Device, batch: usize) -> Result<Self> {
        let context = || format!("--judge-model {}", folder.display());
        let kind = if device.is_cuda() { Kind::BFloat16 } else { Kind::Float };
        let mut generation = GenerationConfig::from_folder(folder).with_context(context)?;
        generation.do_sample = false;
        Ok(Self {
            chat: ChatTokenizer::from_folder(folder).with_context(context)?,
            model: LlavaOnevision::load(folder, &LoadOptions { device, kind }).with_context(context)?,
            generation,
            identity: json!({"model": super::hash_model(folder)?, "precision": format!("{kind:?}")}),
            batch,
        })
    }

    fn prompt(&self, request: &Request) -> Result<Prompt, AskError> {
        let message = |(role, text): &(String, String)| Message {
            role: role.clone(),
            parts: vec![Part::Text(text.clone())],
            train: false,
        };
        let messages: Vec<Message> = request.messages.iter().map(message).collect();
        let rendered = ovhost_plugin::Rendered::Conversation(messages);
        let encoded = self.chat.encode_prompt(&rendered, &[]).map_err(|e| AskError::Other(e.to_string()))?;
        Ok(Prompt { input_ids: encoded.input_ids.into_iter().map(i64::from).collect(), ..Prompt::default() })
    }

    /// Answers requests that have the same bound on their replies.
    fn answer(&self, requests: &[Request]) -> Vec<Result<Reply, AskError>> {
        let prompts: Result<Vec<Prompt>, AskError> = requests.iter().map(|r| self.prompt(r)).collect();
        let tokens = requests.iter().map(|r| r.max_tokens).max().unwrap_or(1);
        let generation = GenerationConfig { max_new_tokens: tokens as usize, ..self.generation.clone() };
        let decode = |ids: &[i64]| {
            let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
            self.chat.decode(&ids, true).map_err(|e| e.to_string())
        };
        let said = prompts.and_then(|prompts| {
            let generator = Generator::new(&self.model, generation).map_err(|e| AskError::Other(e.to_string()))?;
            generator.with_decoder(decode).generate(&prompts, None).map_err(|e| AskError::Other(e.to_string()))
        });
        let said = match said {
            Ok(said) => said,
            Err(error) if requests.len() == 1 => return vec![Err(error)],
            // One request that cannot be asked is not the others' fault.
            Err(_) => return requests.iter().flat_map(|r| self.answer(std::slice::from_ref(r))).collect(),
        };
        said.into_iter()
            .map(|generation| {
                let text = decode(&generation.ids).map_err(AskError::Other)?.trim().to_owned();
                let (prompt_tokens, completion_tokens) = (generation.prompt_tokens as u64, generation.ids.len() as u64);
                if text.is_empty() {
                    let why = NoText::Silent { finish: generation.finish_reason.to_string() };
                    return Err(AskError::NoText { why, prompt_tokens, completion_tokens });
                }
                Ok(Reply { text, prompt_tokens, completion_tokens })
            })
            .collect()
    }
}

impl Judge for Local {
    fn identity(&self) -> Value {
        self.identity.clone()
    }

    fn ask(&self, request: &Request) -> Result<Reply, AskError> {
        let none = || Err(AskError::Other("the model gave no reply".into()));
        self.answer(std::slice::from_ref(request)).pop().unwrap_or_else(none)
    }

    fn run(&self, work: &mut (dyn Work + Send)) {
        loop {
            let mut batch = Vec::new();
            while batch.len() < self.batch
                && let Some(next) = work.next()
            {
                batch.push(next);
            }
            if batch.is_empty() {
                return;
            }
            let (ids, requests): (Vec<usize>, Vec<Request>) = batch.into_iter().unzip();
            for (id, reply) in ids.into_iter().zip(self.answer(&requests)) {
                work.done(id, reply);
            }
        }
    }
}
