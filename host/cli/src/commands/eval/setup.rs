//! From flags to what is evaluated: tasks with their data sets and plugins, or a recipe's data with its plugins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use ovhost_data::image::DEFAULT_MAX_DECODE_PIXELS;
use ovhost_data::pipeline::{PluginStages, SampleSource, ShardSource};
use ovhost_data::shards::{expand, stored_size};
use ovhost_data::{ChatTokenizer, EvalReader, ImageProcessor, Record};
use ovhost_eval::runner::References;
use ovhost_eval::runner::hex;
use ovhost_eval::session::Subject;
use ovhost_eval::task::{Task, Use};
use ovhost_eval::{Answer, Answers, Asking, TaskSource, runner, select};
use ovhost_infer::GenerationConfig;
use ovhost_plugin::{Host, Kind, OnTrap, Plugin, TrustPolicy};
use ovhost_train::Recipe;
use ovhost_train::recipe::{AssetUse, PluginUse};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Args, Limit};
use crate::training::recipe_dir;
use crate::wiring::{self, Plugins};

/// One thing that is evaluated, before its data are opened.
pub struct Wanted {
    /// The task; none for a recipe's data.
    pub task: Option<Task>,
    plugins: Plugins,
}

/// All that is evaluated.
pub struct Setup {
    /// In the order of their naming.
    pub tasks: Vec<Wanted>,
    /// Groups that were named, with their tasks.
    pub groups: BTreeMap<String, Vec<String>>,
    /// A recipe's shards.
    shards: Vec<PathBuf>,
}

impl Setup {
    /// Finds tasks and loads plugins.
    pub fn new(args: &Args, recipe: Option<&Recipe>, seed: u64) -> Result<Self> {
        let host = wiring::host()?;
        if !args.tasks.is_empty() {
            let selection = select(&args.tasks, args.profile.as_deref())?;
            ensure!(!selection.tasks.is_empty(), "--tasks names groups without tasks only");
            let mut tasks = Vec::new();
            for chosen in selection.tasks {
                let load = |used: &Use, kind: Kind, key: &str| {
                    plugin(&host, used, kind, &chosen.base, args, seed)
                        .with_context(|| format!("task {}, {key} ({})", chosen.task.name, used.plugin))
                };
                let mut plugins =
                    Plugins { prompt: Some(load(&chosen.task.prompt, Kind::Prompt, "prompt")?), ..Plugins::default() };
                for used in &chosen.task.metric {
                    plugins.metrics.push(load(used, Kind::Metric, "metric")?);
                }
                tasks.push(Wanted { task: Some(chosen.task), plugins });
            }
            return Ok(Self { tasks, groups: selection.groups, shards: Vec::new() });
        }
        ensure!(
            args.profile.is_none(),
            "--profile is for --tasks; a recipe's plugins have their configuration in the recipe"
        );
        let dir = args.recipe.as_deref().map_or_else(|| PathBuf::from("."), recipe_dir);
        let (shards, base) = match (recipe, args.data.is_empty()) {
            (_, false) => (args.data.clone(), Path::new("")),
            (Some(recipe), true) if !recipe.eval.shards.is_empty() => (recipe.eval.shards.clone(), dir.as_path()),
            _ => bail!(
                "no data: name tasks with --tasks, shards with --data, or a --recipe whose [eval] section has them"
            ),
        };
        let kinds = [Kind::Prompt, Kind::Metric];
        let (set, crashes) = (recipe.map(|r| &r.plugins), args.out.join("crashes"));
        let plugins = wiring::plugins(&host, set, &args.plugins, &dir, seed, &crashes, &kinds)?;
        ensure!(
            !plugins.metrics.is_empty(),
            "no metric plugin: name one with --plugins, as in metrics/exact_match.wasm"
        );
        ensure!(plugins.prompt.is_some(), "no prompt plugin: name one with --plugins, as in prompts/conversation.wasm");
        let shards = expand(&shards, base)?;
        Ok(Self { tasks: vec![Wanted { task: None, plugins }], groups: BTreeMap::new(), shards })
    }

    fn source(
        &self,
        task: Option<&Task>,
        args: &Args,
        max_pixels: u64,
    ) -> Result<(Arc<dyn SampleSource>, u64, Vec<PathBuf>)> {
        let Some(task) = task else {
            let source: Arc<dyn SampleSource> = Arc::new(ShardSource::open(&self.shards, max_pixels)?);
            let count = source.shards().iter().map(|(_, n)| n).sum();
            return Ok((source, count, self.shards.clone()));
        };
        for given in &args.data {
            let name = given.split_once('=').map_or("", |(name, _)| name);
            let known = self.tasks.iter().filter_map(|t| Some(&t.task.as_ref()?.name)).any(|n| n == name);
            ensure!(known, "--data {given}: with --tasks it is TASK=FOLDER, and no task {name:?} is evaluated");
        }
        let named = args.data.iter().find_map(|d| d.strip_prefix(&task.name)?.strip_prefix('='));
        let root = match (named, &args.data_root) {
            // The folder is the data set itself: nothing below it is looked for.
            (Some(folder), _) => Some(PathBuf::from(folder)),
            (None, Some(root)) => Some(root.clone()),
            (None, None) => None,
        };
        let root = root.with_context(|| {
            format!(
                "where is the data set of task {}? --data-root names the folder with the tasks' data sets",
                task.name
            )
        })?;
        let source = TaskSource::open(&task.data, &root, named.is_some(), max_pixels)
            .with_context(|| format!("task {}", task.name))?;
        let (count, files) = (source.len(), source.files().to_vec());
        Ok((source.shared(), count, files))
    }

    /// The records that are shown, with their answers, before every question of a task: the first of the split that it names.
    fn examples(
        &self,
        wanted: &Wanted,
        args: &Args,
        max_pixels: u64,
        asked: &[PathBuf],
    ) -> Result<Vec<(Record, String)>> {
        let Some(task) = &wanted.task else {
            ensure!(args.num_fewshot.unwrap_or(0) == 0, "--num-fewshot is for --tasks that have examples");
            return Ok(Vec::new());
        };
        let Some(fewshot) = &task.fewshot else {
            ensure!(
                args.num_fewshot.unwrap_or(0) == 0,
                "--num-fewshot: task {} has no examples ([fewshot])",
                task.name
            );
            return Ok(Vec::new());
        };
        let count = args.num_fewshot.unwrap_or(fewshot.count) as u64;
        if count == 0 {
            return Ok(Vec::new());
        }
        ensure!(
            task.data.split.as_ref() != Some(&fewshot.split),
            "task {}: fewshot.split is {:?}, the split that is asked; examples must be from another",
            task.name,
            fewshot.split
        );
        let mut of_examples = task.clone();
        of_examples.data.split = Some(fewshot.split.clone());
        of_examples.data.files.clear();
        let (source, have, files) = self.source(Some(&of_examples), args, max_pixels)?;
        if let Some(both) = files.iter().find(|f| asked.contains(f)) {
            bail!("task {}: {} holds the questions and the examples before them", task.name, both.display());
        }
        ensure!(
            have >= count,
            "task {}: {count} examples are wanted, its split {} has {have}",
            task.name,
            fewshot.split
        );
        (0..count)
            .map(|at| {
                let record = source.record(0, at).map_err(|reject| anyhow::anyhow!("example {}", reject.words()))?;
                let answer = match record.fields.get(&fewshot.answer) {
                    Some(Value::String(text)) => text.clone(),
                    Some(Value::Null) | None => {
                        bail!("task {}: example {} has no {:?}", task.name, record.key, fewshot.answer)
                    }
                    Some(other) => other.to_string(),
                };
                Ok((record, answer))
            })
            .collect()
    }

    /// Everything to ask a model.
    pub fn questions(
        self,
        args: &Args,
        chat: &Arc<ChatTokenizer>,
        images: &Arc<ImageProcessor>,
        generation: &GenerationConfig,
        seed: u64,
    ) -> Result<(Vec<Subject>, Vec<Asking>)> {
        let (mut subjects, mut asking) = (Vec::new(), Vec::new());
        for wanted in &self.tasks {
            let (source, original, files) = self.source(wanted.task.as_ref(), args, images.max_decode_pixels)?;
            let prompt = wanted.plugins.prompt.clone().context("no prompt plugin")?;
            let identity = wanted.prompt_record();
            let stages = PluginStages::new(Vec::new(), prompt, None)?.with_on_trap(OnTrap::Reject);
            let examples = self.examples(wanted, args, images.max_decode_pixels, &files)?;
            let reader = EvalReader::new(Some(source), &stages, Arc::clone(chat), Arc::clone(images), seed)?
                .with_examples(&examples)?;
            let mut config = match &wanted.task {
                Some(task) => task.generation.over(generation),
                None => generation.clone(),
            };
            config.max_new_tokens = args.max_new_tokens.unwrap_or(config.max_new_tokens);
            config.stop_strings.extend(reader.stop_strings().iter().cloned());
            config.check()?;
            let total = args.limit.map_or(original, |l| l.of(original));
            let subject = wanted.subject(
                original,
                total,
                examples.len(),
                json!({
                    "data": file_sizes(&files)?, "prompt": identity, "generation": config, "questions": original,
                    "num_fewshot": examples.len(), "examples": hash_of(&examples), "task": wanted.questions_of(),
                }),
            );
            asking.push(Asking {
                name: subject.name().to_owned(),
                reader,
                total,
                references: wanted.references(),
                config: Arc::new(config),
                blank_images: args.blank_images,
            });
            subjects.push(subject);
        }
        Ok((subjects, asking))
    }

    /// Everything to score saved answers.
    pub fn saved(
        self,
        settings: &Value,
        mut answers: Answers,
        limit: Option<Limit>,
    ) -> Result<(Vec<Subject>, Answers)> {
        let mut subjects = Vec::new();
        for wanted in &self.tasks {
            let subject = wanted.subject(0, 0, 0, Value::Null);
            let name = subject.name().to_owned();
            let identity = settings.get("tasks").and_then(|t| t.get(&name)).cloned().unwrap_or_default();
            ensure!(
                answers.contains_key(&name),
                "the folder has no answers of {name}; it has those of {}",
                answers.keys().cloned().collect::<Vec<_>>().join(", ")
            );
            let made = identity.get("prompt").cloned().unwrap_or_default();
            if !ovhost_plugin::same_plugins(&made, &wanted.prompt_record()) && !made.is_null() {
                tracing::warn!(
                    "{name}: the answers were asked for with another prompt (plugin, configuration or profile) than the task names now"
                );
            }
            let original = identity.get("questions").and_then(Value::as_u64).unwrap_or(0);
            let shots = identity.get("num_fewshot").and_then(Value::as_u64).unwrap_or(0) as usize;
            let asked = settings.get("asked").and_then(|a| a.get(&name)).and_then(Value::as_u64).unwrap_or(original);
            if let (Some(limit), Some(held)) = (limit, answers.get_mut(&name)) {
                held.retain(|doc_id, _| *doc_id < limit.of(original));
            }
            subjects.push(Subject { original, asked, shots, identity, ..subject });
        }
        Ok((subjects, answers))
    }

    /// The answers of a file, with the records that they belong to.
    pub fn given(self, args: &Args, said: &Given) -> Result<(Vec<Subject>, Vec<Answer>)> {
        let (mut subjects, mut answers) = (Vec::new(), Vec::new());
        for wanted in &self.tasks {
            let (source, original, files) = self.source(wanted.task.as_ref(), args, DEFAULT_MAX_DECODE_PIXELS)?;
            let total = args.limit.map_or(original, |l| l.of(original));
            let identity = json!({"data": file_sizes(&files)?, "questions": original, "task": wanted.questions_of()});
            let subject = wanted.subject(original, total, 0, identity);
            let references = wanted.references();
            let name = subject.name().to_owned();
            answers.extend(runner::given(&name, &*source, total, &references, &|id, key| {
                let said = said.of(&name, id, key)?;
                Some((said.prediction.clone(), said.judgement.clone()))
            })?);
            subjects.push(subject);
        }
        Ok((subjects, answers))
    }
}

/// What decides how examples look.
fn hash_of(examples: &[(Record, String)]) -> Value {
    if examples.is_empty() {
        return Value::Null;
    }
    let mut hash = Sha256::new();
    for (record, answer) in examples {
        hash.update(ovhost_data::columns::record_json(record));
        record.media.iter().for_each(|media| hash.update(&media.bytes));
        hash.update(answer);
    }
    hex(hash.finalize()).into()
}

impl Wanted {
    /// How the task makes questions of its data.
    fn questions_of(&self) -> Value {
        self.task.as_ref().map_or(Value::Null, |t| json!({"data": t.data, "fewshot": t.fewshot}))
    }

    fn references(&self) -> References {
        self.task.as_ref().map(|t| References::of(&t.data)).unwrap_or_default()
    }

    fn prompt_record(&self) -> Value {
        Plugins { prompt: self.plugins.prompt.clone(), ..Plugins::default() }.provenance()
    }

    fn subject(&self, original: u64, asked: u64, shots: usize, identity: Value) -> Subject {
        Subject {
            task: self.task.clone(),
            original,
            asked,
            shots,
            metrics: self.plugins.metrics.clone(),
            plugins: self.plugins.provenance(),
            identity,
        }
    }
}

/// Loads a task's plugin, with the files of `--asset` that it takes.
fn plugin(host: &Host, used: &Use, kind: Kind, base: &Path, args: &Args, seed: u64) -> Result<Plugin> {
    let asset = |path: &PathBuf| AssetUse { path: path.clone(), sha256: None };
    let mut use_ = PluginUse {
        entry: used.entry.clone(),
        sha256: used.sha256.clone(),
        config: used.config.clone(),
        assets: used.assets.iter().map(|(name, path)| (name.clone(), asset(path))).collect(),
        ..PluginUse::bare(used.plugin.clone())
    };
    let trust = Arc::new(TrustPolicy::default());
    let crashes = args.out.join("crashes");
    let seen = host.inspect_spec(&wiring::request(&use_, base, seed, &trust, &crashes)?)?;
    ensure!(seen.kind == kind, "it is a {} plugin, a {kind} plugin is needed here", seen.kind);
    let entries = &seen.description.entries;
    let entry = entries.iter().find(|e| used.entry.as_ref().map_or(entries.len() == 1, |name| *name == e.name));
    if let Some(entry) = entry {
        for (name, path) in args.asset.iter().filter(|(name, _)| entry.assets.contains(name)) {
            let path = std::path::absolute(path).with_context(|| format!("--asset {name}={}", path.display()))?;
            use_.assets.insert(name.clone(), asset(&path));
        }
        if args.judge.no_judge && entry.config_schema.pointer("/properties/judge").is_some() {
            use_.config.insert("judge".into(), false.into());
        }
    }
    Ok(host.load(&wiring::request(&use_, base, seed, &trust, &crashes)?)?)
}

/// Files up to this size are known by their contents, bytes.
const SMALL: u64 = 64 << 20;

/// Name, size and, of small ones, the contents of every file: a cheap identity that notices exchanged data.
fn file_sizes(paths: &[PathBuf]) -> Result<Value> {
    let of = |path: &PathBuf| -> Result<Value> {
        let size = stored_size(path)?;
        // Small files are the ones that are written by hand, and their contents are quickly read.
        if size <= SMALL && path.is_file() {
            let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            return Ok(json!([
                path.file_name().unwrap_or_default().to_string_lossy(),
                size,
                hex(Sha256::digest(bytes))
            ]));
        }
        Ok(json!([path.file_name().unwrap_or_default().to_string_lossy(), size]))
    };
    Ok(Value::Array(paths.iter().map(of).collect::<Result<_>>()?))
}

/// Answers of a file.
pub struct Given {
    by_id: BTreeMap<(String, u64), Said>,
    by_key: BTreeMap<(String, String), Said>,
}

/// What a line says.
struct Said {
    prediction: String,
    judgement: Option<String>,
}

#[derive(Deserialize)]
struct GivenLine {
    task: Option<String>,
    doc_id: Option<u64>,
    key: Option<String>,
    /// As a samples file of an evaluation calls it, too.
    #[serde(alias = "filtered_resps")]
    prediction: String,
    /// What a judge said of it.
    judgement: Option<String>,
    /// Why there is no answer, as a samples file of an evaluation has it.
    error: Option<String>,
}

impl Given {
    /// Reads JSON lines. `only`: lines need not name the one task.
    pub fn parse(text: &str, file: &Path, only: bool) -> Result<Self> {
        let mut out = Given { by_id: BTreeMap::new(), by_key: BTreeMap::new() };
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let at = || format!("{} line {}", file.display(), number + 1);
            let line: GivenLine = serde_json::from_str(line).with_context(at)?;
            if line.error.is_some() {
                continue;
            }
            ensure!(only || line.task.is_some(), "{}: no `task`, and several tasks are evaluated", at());
            let task = line.task.unwrap_or_default();
            let said = Said { prediction: line.prediction, judgement: line.judgement };
            let twice = match (line.doc_id, line.key) {
                (Some(id), _) => out.by_id.insert((task, id), said).is_some(),
                (None, Some(key)) => out.by_key.insert((task, key), said).is_some(),
                (None, None) => bail!("{}: neither `doc_id` nor `key`", at()),
            };
            ensure!(!twice, "{}: a second answer to the same question", at());
        }
        Ok(out)
    }

    fn of(&self, task: &str, id: u64, key: &str) -> Option<&Said> {
        [task, ""].iter().find_map(|task| {
            let by_id = self.by_id.get(&((*task).to_owned(), id));
            by_id.or_else(|| self.by_key.get(&((*task).to_owned(), key.to_owned())))
        })
    }
}
