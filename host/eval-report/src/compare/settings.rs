//! What two evaluations were made with → warnings where they differ in more than the model.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::read::{Evaluation, Results, Writer};

/// The reference scores by the rules that this profile repeats.
const REFERENCE: &str = "lmms-eval";
/// What of `settings` is looked at elsewhere, or is what is compared.
const APART: [&str; 5] = ["model", "plugins", "profile", "limit", "tasks"];
/// What the program was told that changes answers or scores.
const CALL: [&str; 4] = ["gen_kwargs", "num_fewshot", "blank_images", "judge"];
/// Parts of a task's `settings`.
const ASKED: [&str; 2] = ["generation", "data"];
/// Parts of a task file that decide answers and scores; its plugins are looked at as they were loaded.
const PARTS: [&str; 4] = ["data", "generation", "fewshot", "result_filter"];
/// Longest value shown.
const LONGEST: usize = 60;

/// Every difference that makes scores differ though the models would not.
pub(super) fn warnings(a: &Evaluation, b: &Evaluation, tasks: &[&str]) -> Result<Vec<String>> {
    let mut differ = Differ::default();
    for (side, evaluation) in [("A", a), ("B", b)] {
        if evaluation.results.is_none() {
            differ.say(format!("{side} has no results file beside its samples: its settings are not known"));
        }
    }
    if let (Some(x), Some(y)) = (profile(a), profile(b))
        && x != y
    {
        differ.say(format!("profile: A {x}, B {y}: their rules of prompts and scores differ"));
        differ.profiles_differ = true;
    }
    let (Some(one), Some(other)) = (&a.results, &b.results) else { return Ok(differ.lines()) };
    let same_writer = a.writer == b.writer;
    let get = |map: &Map<String, Value>, name: &str| map.get(name).cloned().unwrap_or_default();
    differ.values("limit", &get(&one.config, "limit"), &get(&other.config, "limit"));
    if same_writer {
        for name in CALL {
            differ.values(name, &get(&one.config, name), &get(&other.config, name));
        }
        settings(&mut differ, one, other);
    }
    for task in tasks {
        differ.task = Some((*task).to_owned());
        let of = |map: &Map<String, Value>| get(map, task);
        differ.values("n-shot", &of(&one.n_shot), &of(&other.n_shot));
        differ.values("samples", &of(&one.n_samples), &of(&other.n_samples));
        if same_writer {
            differ.values("version", &of(&one.versions), &of(&other.versions));
            parts(&mut differ, task, one, other);
            plugins(&mut differ, &one.task(task)?.plugins, &other.task(task)?.plugins);
        }
    }
    Ok(differ.lines())
}

fn profile(evaluation: &Evaluation) -> Option<&str> {
    match evaluation.writer {
        Writer::LmmsEval => Some(REFERENCE),
        Writer::Ovhost => evaluation.results.as_ref()?.profile.as_deref(),
    }
}

fn settings(differ: &mut Differ, one: &Results, other: &Results) {
    let bare = |results: &Results| {
        let mut settings = results.settings.clone();
        if let Some(map) = settings.as_object_mut() {
            map.retain(|name, _| !APART.contains(&name.as_str()));
        }
        settings
    };
    differ.values("settings", &bare(one), &bare(other));
}

/// Data and generation: what the questions were really asked with, where it is said; otherwise what the task files say.
fn parts(differ: &mut Differ, task: &str, one: &Results, other: &Results) {
    let asked = |results: &Results| results.settings.get("tasks").and_then(|tasks| tasks.get(task)).cloned();
    let (asked_a, asked_b) = (asked(one).unwrap_or_default(), asked(other).unwrap_or_default());
    let known = |part: &str| asked_a.get(part).is_some() && asked_b.get(part).is_some();
    for part in ASKED.into_iter().filter(|part| known(part)) {
        differ.values(part, &asked_a[part], &asked_b[part]);
    }
    for part in PARTS.into_iter().filter(|part| !known(part)) {
        let of = |results: &Results| results.configs.get(task).and_then(|config| config.get(part)).cloned();
        differ.values(part, &of(one).unwrap_or_default(), &of(other).unwrap_or_default());
    }
}

/// Plugins of a task by kind, name and entry: file, configuration and assets. Who trusts them decides nothing.
fn plugins(differ: &mut Differ, one: &[Value], other: &[Value]) {
    let name = |plugin: &Value| {
        let text = |key: &str| plugin.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let base = if text("plugin").is_empty() { text("name") } else { text("plugin") };
        (format!("{} {base}", text("kind")).trim().to_owned(), text("entry"))
    };
    let find = |list: &[Value], wanted: &(String, String)| list.iter().find(|plugin| name(plugin) == *wanted).cloned();
    let names: BTreeSet<(String, String)> = one.iter().chain(other).map(name).collect();
    for wanted in names {
        let (Some(a), Some(b)) = (find(one, &wanted), find(other, &wanted)) else {
            let side = if find(one, &wanted).is_some() { "A" } else { "B" };
            differ.say(format!("plugin {} {} is in {side} alone", wanted.0, wanted.1));
            continue;
        };
        let profiles_differ = differ.profiles_differ;
        let of = |plugin: &Value, key: &str| {
            let mut value = plugin.get(key).cloned().unwrap_or_default();
            // Said once for all.
            if let Some(map) = value.as_object_mut().filter(|_| profiles_differ) {
                map.shift_remove("profile");
            }
            value
        };
        for key in ["sha256", "version", "config", "assets"] {
            differ.values(&format!("plugin {}: {key}", wanted.0), &of(&a, key), &of(&b, key));
        }
    }
}

/// Collects differences; what several tasks have is said once.
#[derive(Default)]
struct Differ {
    /// Each with the tasks that have it; none of the evaluation as a whole.
    said: Vec<(String, Vec<String>)>,
    /// The task that is looked at.
    task: Option<String>,
    profiles_differ: bool,
}

impl Differ {
    fn say(&mut self, words: String) {
        match self.said.iter_mut().find(|(known, tasks)| *known == words && !tasks.is_empty()) {
            Some((_, tasks)) => tasks.extend(self.task.clone()),
            None => self.said.push((words, self.task.iter().cloned().collect())),
        }
    }

    /// Where two values differ, down to the fields of objects.
    fn values(&mut self, name: &str, a: &Value, b: &Value) {
        match (a, b) {
            _ if same(a, b) => {}
            (Value::Object(x), Value::Object(y)) => {
                let keys: BTreeSet<&String> = x.keys().chain(y.keys()).collect();
                for key in keys {
                    let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                    self.values(&format!("{name}.{key}"), &of(x), &of(y));
                }
            }
            _ => self.say(format!("{name}: A {}, B {}", short(a), short(b))),
        }
    }

    fn lines(self) -> Vec<String> {
        let line = |(words, tasks): (String, Vec<String>)| match &tasks[..] {
            [] => words,
            [_, _, _, _, _, ..] => format!("{} and {} more tasks: {words}", tasks[..3].join(", "), tasks.len() - 3),
            few => format!("{}: {words}", few.join(", ")),
        };
        self.said.into_iter().map(line).collect()
    }
}

/// Equal, numbers by value (1 and 1.0).
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().zip(b.as_f64()).is_some_and(|(x, y)| x == y)
}

fn short(value: &Value) -> String {
    let text = match value {
        Value::Null => return "nothing".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // Of hashes the beginning is enough.
    let hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let most = if hash { 12 } else { LONGEST };
    if text.chars().count() <= most { text } else { format!("{}…", text.chars().take(most).collect::<String>()) }
}
