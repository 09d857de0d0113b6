//! `ovhost eval`: questions of tasks or of a data set to answers and scores.
//!
//! ```text
//!  --tasks ─► task files, data sets ┐
//!  --recipe, --data ────────────────┴► subjects ─► answers of the model | of --answers | saved ones (--rescore) ─► OUT
//! ```

mod after;
mod judge;
mod setup;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use ovhost_data::{ChatTokenizer, ImageProcessor};
use ovhost_eval::results::{Results, TaskResults, Whole};
use ovhost_eval::runner::hex;
use ovhost_eval::score::{Ask, NO_JUDGE};
use ovhost_eval::{Answer, Common, Served, select, session, task};
use ovhost_infer::{GenerationConfig, Generator};
use ovhost_model::{LlavaOnevision, LoadOptions, ModelConfig};
use ovhost_store::output_path;
use ovhost_train::Recipe;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use self::judge::{Bench, JudgeArgs};
use self::setup::Setup;
use super::infer::precision;
use crate::{console, wiring};

/// Arguments of `ovhost eval`.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  ovhost eval --model M --tasks ai2d,chartqa --data-root benchmarks          tasks that the program brings
  ovhost eval --model M --tasks no_judge --data-root benchmarks --limit 100   a group of tasks, the first 100 questions of each
  ovhost eval --model M --tasks ./my_task.toml --data-root .                  a task of your own
  ovhost eval --tasks ai2d --data-root benchmarks --rescore                   score saved answers again, without the model
  ovhost eval --recipe recipe.toml --model runs/demo/model                    the recipe's data, plugins and eval section
  ovhost eval --model M --data data/test --plugins prompts/conversation.wasm,metrics/exact_match.wasm --out scores
  ovhost eval --recipe recipe.toml --model M --blank-images                   what the questions alone give away
  ovhost eval compare scores/base scores/new                                  paired differences with intervals
  ovhost eval report scores                                                   one page with the worst samples

Answers are saved as they come: the same command goes on where it was stopped. OUT/results.json has the values with counts and
standard errors, OUT/samples_TASK.jsonl (OUT/samples.jsonl of a recipe's data) every answer with its scores. Exit code 3 tells that
some samples could not be asked or scored."
)]
pub struct Args {
    #[command(subcommand)]
    after: Option<after::After>,
    /// Model folder in Hugging Face layout
    #[arg(long, help_heading = "What is evaluated")]
    model: Option<PathBuf>,
    /// Tasks, groups of tasks and task files (paths that end in .toml), separated by commas; * stands for any part of a name
    #[arg(long, value_delimiter = ',', help_heading = "What is evaluated", conflicts_with_all = ["recipe", "plugins"])]
    tasks: Vec<String>,
    /// Lists the tasks and groups that the program brings
    #[arg(long, help_heading = "What is evaluated")]
    list_tasks: bool,
    /// Folder with the tasks' data sets, each as ORG/NAME or NAME
    #[arg(long, env = "OVHOST_EVAL_DATA", help_heading = "What is evaluated")]
    data_root: Option<PathBuf>,
    /// A recipe whose plugins and eval section are used
    #[arg(long, help_heading = "What is evaluated")]
    recipe: Option<PathBuf>,
    /// Shards: files, folders, {000000..000009} patterns; the recipe's eval.shards if absent. With --tasks: TASK=FOLDER, the data set of a
    /// task
    #[arg(long, num_args = 1.., help_heading = "What is evaluated")]
    data: Vec<String>,
    /// Plugins beside or instead of the recipe's: metrics are added, a prompt replaces
    #[arg(long, value_delimiter = ',', help_heading = "What is evaluated")]
    plugins: Vec<String>,
    /// Only this many questions of each task, from the first; with a point, as in 0.1, this share of them
    #[arg(long, value_parser = limit, help_heading = "What is evaluated")]
    limit: Option<Limit>,
    /// Rules that prompts and metrics follow, where a task has several: fixed, lmms-eval, paper-2025-09
    #[arg(long, help_heading = "What is evaluated")]
    profile: Option<String>,
    /// Examples before each question, of tasks that have them
    #[arg(long, help_heading = "What is evaluated")]
    num_fewshot: Option<usize>,
    /// NAME=FILE: a file for every plugin that takes one of that name
    #[arg(long, value_parser = named_file, help_heading = "What is evaluated")]
    asset: Vec<(String, PathBuf)>,
    /// Replace every picture by a black one of its size
    #[arg(long, help_heading = "What is evaluated")]
    blank_images: bool,

    /// Score the answers in OUT again, with the plugins as they are now; the model is not asked
    #[arg(long, help_heading = "Answers")]
    rescore: bool,
    /// Score the answers of a file instead of a model's: JSON lines with `task` (if there are several), `doc_id` or `key`, and
    /// `prediction`
    #[arg(long, conflicts_with_all = ["model", "rescore"], help_heading = "Answers")]
    answers: Option<PathBuf>,
    /// Folder of the results
    #[arg(long, default_value = "eval", value_parser = output_path, help_heading = "Answers")]
    out: PathBuf,
    /// Questions answered at once
    #[arg(long, help_heading = "Answers")]
    batch_size: Option<usize>,
    /// Most tokens of an answer
    #[arg(long, help_heading = "Answers")]
    max_new_tokens: Option<usize>,
    /// Smallest area of a picture after resizing, in pixels; the model's own if absent
    #[arg(long, help_heading = "Answers")]
    min_pixels: Option<u64>,
    /// Largest area of a picture after resizing, in pixels; the model's own if absent
    #[arg(long, help_heading = "Answers")]
    max_pixels: Option<u64>,
    /// auto, cpu, cuda, cuda:N
    #[arg(long, default_value = "auto", help_heading = "Answers")]
    device: String,
    /// fp32 or bf16; the default is bf16 on CUDA, fp32 on the CPU
    #[arg(long, help_heading = "Answers")]
    precision: Option<String>,

    #[command(flatten)]
    judge: JudgeArgs,
}

/// How many questions of a task.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Count(u64),
    Share(f64),
}

impl Limit {
    fn of(self, questions: u64) -> u64 {
        match self {
            Limit::Count(n) => n.min(questions),
            Limit::Share(share) => ((questions as f64 * share).ceil() as u64).min(questions),
        }
    }
}

fn limit(text: &str) -> Result<Limit, String> {
    let bad =
        || format!("{text:?} is neither a number of questions, as in 100, nor a share above 0 and up to 1, as in 0.1");
    if text.contains('.') {
        let share: f64 = text.parse().map_err(|_| bad())?;
        return if share > 0.0 && share <= 1.0 { Ok(Limit::Share(share)) } else { Err(bad()) };
    }
    text.parse().ok().filter(|n| *n > 0).map(Limit::Count).ok_or_else(bad)
}

fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=FILE"))?;
    Ok((name.to_owned(), PathBuf::from(file)))
}

/// Exit code of an evaluation in which some samples could not be asked or scored.
const INCOMPLETE: u8 = 3;

/// Runs the command.
pub fn run(mut args: Args) -> Result<ExitCode> {
    if let Some(command) = args.after.take() {
        return after::run(command);
    }
    if args.list_tasks {
        return list();
    }
    args.judge.check()?;
    let started = Instant::now();
    let recipe = args.recipe.as_ref().map(|path| Recipe::read(path, &[])).transpose()?;
    let seed = recipe.as_ref().map_or(1, |r| r.run.seed);
    let mut whole = Whole { profile: args.profile.clone(), ..Whole::default() };
    let threads = recipe.as_ref().map_or(0, |r| r.run.threads);
    // Before any other torch call: CUDA is loaded here.
    let device =
        if args.model.is_some() && !args.rescore { Some(wiring::device(&args.device, threads)?) } else { None };
    let stop = console::stop_flag(console::AFTER_THIS_STEP)?;
    let setup = Setup::new(&args, recipe.as_ref(), seed)?;
    whole.groups = setup.groups.clone();
    if whole.profile.is_none() {
        whole.profile = setup.tasks.iter().find_map(|t| t.task.as_ref()?.profile().map(str::to_owned));
    }
    whole.config = json!({
        "model": "ovhost", "limit": args.limit.map(|l| match l { Limit::Count(n) => json!(n), Limit::Share(s) => json!(s) }),
        "num_fewshot": args.num_fewshot, "random_seed": seed, "blank_images": args.blank_images, "profile": whole.profile,
    });
    let (subjects, answers) = match (&args.model, &args.answers) {
        _ if args.rescore => saved(&args, setup, &mut whole)?,
        (_, Some(file)) => {
            let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            let parsed = setup::Given::parse(&text, file, setup.tasks.len() == 1)?;
            given(&args, setup, &parsed, (file, &text), &mut whole)?
        }
        (Some(model), None) => {
            let device = device.context("no device")?;
            match asked(&args, setup, recipe.as_ref(), model, device, seed, &mut whole, &stop)? {
                Some(found) => found,
                None => {
                    eprintln!("interrupted; the same command goes on");
                    return Ok(console::interrupted());
                }
            }
        }
        (None, None) => bail!(
            "--model names the model folder to evaluate; --rescore scores saved answers, --answers those of a file"
        ),
    };
    let mut bench = Bench::new(&args.judge, &args.out, &|| wiring::device(&args.device, threads), &stop)?;
    whole.config["judge"] = bench.as_ref().map_or(Value::Null, Bench::identity);
    let results = match &mut bench {
        Some(bench) => {
            let mut judge = |_: &[&Answer], asks: &[Ask]| bench.hear(asks);
            session::finish(&args.out, &subjects, &answers, &whole, seed, Some(&mut judge))?
        }
        // Judgements may have come with the answers.
        None => {
            let known = |answer: &Answer| answer.judgement.clone().ok_or_else(|| NO_JUDGE.to_owned());
            let mut judge = |answers: &[&Answer], asks: &[Ask]| asks.iter().map(|a| known(answers[a.row])).collect();
            session::finish(&args.out, &subjects, &answers, &whole, seed, Some(&mut judge))?
        }
    };
    if stop.load(Ordering::SeqCst) {
        eprintln!("interrupted while answers were judged; the same command goes on");
        return Ok(console::interrupted());
    }
    let held = |of: fn(&Answer) -> usize| answers.values().flat_map(|t| t.values()).map(of).sum::<usize>();
    let run = json!({
        "seconds": started.elapsed().as_secs_f64(), "model": args.model, "data_root": args.data_root,
        "device": device.map(|d| format!("{d:?}")), "batch_size": args.batch_size,
        "prompt_tokens": held(|a| a.prompt_tokens), "answer_tokens": held(|a| a.answer_tokens),
    });
    ovhost_eval::results::write_whole(&args.out.join("run.json"), &serde_json::to_vec_pretty(&run)?)?;
    print(&results, &args.out, args.tasks.is_empty());
    let short = args.rescore && subjects.iter().any(|s| missing(s, &answers, args.limit));
    Ok(if results.complete() && !short { ExitCode::SUCCESS } else { ExitCode::from(INCOMPLETE) })
}

/// Whether a task has fewer answers than it should, as a run that was broken off has.
fn missing(subject: &session::Subject, answers: &ovhost_eval::Answers, limit: Option<Limit>) -> bool {
    let wanted = limit.map_or(subject.asked, |l| l.of(subject.original).min(subject.asked));
    let held = answers.get(subject.name()).map_or(0, |a| a.len() as u64);
    if held < wanted {
        eprintln!(
            "{}: {held} of {wanted} questions are answered; the command without --rescore asks the others",
            subject.name()
        );
    }
    held < wanted
}

type Found = (Vec<session::Subject>, ovhost_eval::Answers);

/// Asks the model. None where a signal broke it off.
fn asked(
    args: &Args,
    setup: Setup,
    recipe: Option<&Recipe>,
    folder: &Path,
    device: tch::Device,
    seed: u64,
    whole: &mut Whole,
    stop: &Arc<AtomicBool>,
) -> Result<Option<Found>> {
    let kind = precision(args.precision.as_deref(), device)?;
    let chat = Arc::new(ChatTokenizer::from_folder(folder)?);
    chat.check_vocab(usize::try_from(ModelConfig::from_folder(folder)?.text.vocab_size)?)?;
    let mut images = ImageProcessor::from_folder(folder)?;
    images.min_pixels = args.min_pixels.unwrap_or(images.min_pixels);
    images.max_pixels = args.max_pixels.unwrap_or(images.max_pixels);
    ensure!(
        images.min_pixels <= images.max_pixels,
        "--min-pixels {} is above --max-pixels {}",
        images.min_pixels,
        images.max_pixels
    );
    if let Some(recipe) = recipe {
        images.max_decode_pixels = recipe.data.max_image_pixels;
    }
    let images = Arc::new(images);
    let mut generation = GenerationConfig::from_folder(folder)?;
    generation.max_new_tokens = recipe.and_then(|r| r.eval.max_new_tokens).unwrap_or(generation.max_new_tokens);
    let name = folder.canonicalize().ok().and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()));
    whole.model_name = name.unwrap_or_else(|| folder.display().to_string());
    let common = map(json!({
        "model": hash_model(folder)?, "precision": format!("{kind:?}"), "seed": seed, "blank_images": args.blank_images,
        "min_pixels": images.min_pixels, "max_pixels": images.max_pixels, "model_name": whole.model_name,
    }));
    let (subjects, mut asking) = setup.questions(args, &chat, &images, &generation, seed)?;
    let opened = session::open(&args.out, &common, &subjects)?;
    whole.settings = settings(&common, &subjects);
    let model = LlavaOnevision::load(folder, &LoadOptions { device, kind })?;
    let batch_size = args.batch_size.or(recipe.and_then(|r| r.eval.batch_size)).unwrap_or(32).max(1);
    let decode = |ids: &[i64]| {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        chat.decode(&ids, true).map_err(|e| e.to_string())
    };
    let generator = Generator::new(&model, generation)?
        .with_decoder(decode)
        .with_batch_size(batch_size)
        .with_stop(Arc::clone(stop));
    let common =
        Common { chat: Arc::clone(&chat), images, ahead: 2 * batch_size, stop: Arc::clone(stop), progress: true };
    let mut served = Served { generator: &generator };
    let answers = session::evaluate(&args.out, opened, &mut asking, &common, &mut served)?;
    Ok(answers.map(|answers| (subjects, answers)))
}

/// The answers that the folder holds.
fn saved(args: &Args, setup: Setup, whole: &mut Whole) -> Result<Found> {
    let settings = session::saved_settings(&args.out)?
        .with_context(|| format!("{} holds no evaluation; --out names the folder", args.out.display()))?;
    let (answers, _) = ovhost_eval::AnswerFile::read(&args.out.join(session::ANSWERS))?;
    let (subjects, answers) = setup.saved(&settings, answers, args.limit)?;
    // What the answers were made with, not what this call says.
    whole.config["blank_images"] = settings.get("blank_images").cloned().unwrap_or_default();
    if let Some(name) = settings.get("model_name").and_then(Value::as_str) {
        whole.model_name = name.to_owned();
    }
    let common: Map<String, Value> = map(settings).into_iter().filter(|(key, _)| key != "tasks").collect();
    whole.settings = self::settings(&common, &subjects);
    Ok((subjects, answers))
}

/// The answers of a file.
fn given(
    args: &Args,
    setup: Setup,
    said: &setup::Given,
    (file, text): (&Path, &str),
    whole: &mut Whole,
) -> Result<Found> {
    whole.model_name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let hash = hex(Sha256::digest(text));
    let (subjects, found) = setup.given(args, said)?;
    let common = map(json!({"model": format!("answers {hash}"), "model_name": whole.model_name}));
    let (mut opened, held) = session::open(&args.out, &common, &subjects)?;
    let mut answers = ovhost_eval::Answers::new();
    for answer in found {
        let known = held.get(&answer.task).and_then(|t| t.get(&answer.doc_id));
        // The same file once more adds nothing.
        if known.is_none_or(|k| serde_json::to_value(k).ok() != serde_json::to_value(&answer).ok()) {
            opened.append(&answer)?;
        }
        answers.entry(answer.task.clone()).or_default().insert(answer.doc_id, answer);
    }
    opened.sync()?;
    whole.settings = settings(&common, &subjects);
    Ok((subjects, answers))
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn settings(common: &Map<String, Value>, subjects: &[session::Subject]) -> Value {
    let mut out = common.clone();
    let tasks = subjects.iter().map(|s| (s.name().to_owned(), s.identity.clone())).collect();
    out.insert("tasks".into(), Value::Object(tasks));
    Value::Object(out)
}

/// `--list-tasks`.
fn list() -> Result<ExitCode> {
    for file in select::built_in(None)? {
        match file {
            task::TaskFile::Task(task) => println!("{:28} {}", task.name, task.summary),
            task::TaskFile::Group(group) => {
                println!("{:28} group: {} ({})", group.name, group.summary, group.tasks.join(", "));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(results: &Results, out: &Path, recipe: bool) {
    for (name, task) in &results.tasks {
        let line = |name: &str, score: &ovhost_eval::score::Score| {
            let value = score.value.map_or("n/a".into(), |v| format!("{v:.4}"));
            let error = score.stderr.map(|e| format!(" ± {e:.4}")).unwrap_or_default();
            println!("{name}  {value}{error}  (n = {})", score.count);
        };
        if recipe {
            task.metrics.iter().for_each(|(metric, score)| line(metric, score));
        } else {
            match task.main.as_ref().and_then(|m| Some((m, task.metrics.get(m)?))) {
                Some((main, score)) => line(&format!("{name}  {main}"), score),
                None if task.submission => println!("{name}  no score here: see {}", out.join("submissions").display()),
                None => {}
            }
        }
        task.errors.iter().for_each(|error| println!("{name}  metric failed: {error}"));
    }
    let sum = |of: &dyn Fn(&TaskResults) -> u64| results.tasks.values().map(of).sum::<u64>();
    let (failed, unscored) = (sum(&|t| t.failed), sum(&|t| t.unscored));
    println!(
        "{} samples, {} answered, {failed} failed, {unscored} unscored, {} truncated · {}",
        sum(&|t| t.samples),
        sum(&|t| t.answered),
        sum(&|t| t.truncated),
        out.join("results.json").display()
    );
    if results.tasks.values().any(|t| t.wants_judge) {
        eprintln!(
            "some answers need a judge and are unscored: --judge-model names one, --no-judge counts such answers as wrong; with \
             --rescore the model is not asked again"
        );
    }
}

/// SHA-256 over the model folder's files that decide its answers.
fn hash_model(folder: &Path) -> Result<String> {
    let mut names: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("reading the model folder {}", folder.display()))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_file())
        .collect();
    names.sort();
    let mut hash = Sha256::new();
    for path in names {
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        let mut file = fs::File::open(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
        }
    }
    Ok(hex(hash.finalize()))
}
