//! Names to tasks: those that the program brings, groups of them, and task files by their paths.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::task::{Group, Task, TaskFile};

/// The files that the program brings, by name.
const BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/tasks.rs"));

/// A task to be evaluated.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The task, as its profile has it.
    pub task: Task,
    /// Where it is from: a task file's path, none for one that the program brings.
    pub file: Option<PathBuf>,
    /// Folder that its relative paths start from: the task file's; the current one for a task that the program brings.
    pub base: PathBuf,
}

/// What names stand for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Tasks, in the order of their naming, each once.
    pub tasks: Vec<Chosen>,
    /// Groups that were named, with their tasks.
    pub groups: BTreeMap<String, Vec<String>>,
}

/// The tasks and groups that the program brings, by name.
///
/// # Errors
/// None: its own files are tested.
pub fn built_in(profile: Option<&str>) -> Result<Vec<TaskFile>> {
    BUILT_IN.iter().map(|(name, text)| TaskFile::parse(text, name, profile)).collect()
}

/// Finds tasks: names of tasks and groups that the program brings, `*` standing for any part of a name, and paths of task files
/// (they end in `.toml`).
///
/// # Errors
/// A name that stands for nothing (near ones are named), two tasks of one name, a file that cannot be read.
pub fn select(names: &[String], profile: Option<&str>) -> Result<Selection> {
    let mut out = Selection::default();
    for name in names {
        if name.ends_with(".toml") || name.contains('/') {
            let path = Path::new(name);
            let text = std::fs::read_to_string(path).with_context(|| format!("reading the task file {name}"))?;
            let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match TaskFile::parse(&text, name, profile)? {
                TaskFile::Task(task) => out.add(*task, Some(path))?,
                TaskFile::Group(group) => out.group(&group, Some(base), profile, 0)?,
            }
            continue;
        }
        let found: Vec<&(&str, &str)> = BUILT_IN.iter().filter(|(known, _)| matches(name, known)).collect();
        if found.is_empty() {
            bail!(
                "there is no task {name:?}{}; `ovhost eval --list-tasks` lists them, and a path names a file",
                near(name)
            );
        }
        for (known, text) in found {
            match TaskFile::parse(text, known, profile)? {
                TaskFile::Task(task) => out.add(*task, None)?,
                // A pattern means tasks: its groups would bring tasks that do not match.
                TaskFile::Group(_) if name.contains('*') => {}
                TaskFile::Group(group) => out.group(&group, None, profile, 0)?,
            }
        }
    }
    let files = out.tasks.iter().filter_map(|t| Some((&t.task.submission.as_ref()?.file, &t.task.name)));
    let mut seen: BTreeMap<&String, &String> = BTreeMap::new();
    for (file, task) in files {
        if let Some(other) = seen.insert(file, task) {
            bail!("tasks {other} and {task} both write submissions/{file}; give one of the files another name");
        }
    }
    if let Some(profile) = profile {
        let any = out.tasks.iter().any(|t| t.task.profile().is_some());
        ensure!(any, "--profile {profile}: none of the tasks has profiles");
    }
    Ok(out)
}

impl Selection {
    fn add(&mut self, task: Task, file: Option<&Path>) -> Result<()> {
        let file = file.map(|f| f.canonicalize().unwrap_or_else(|_| f.to_owned()));
        let base = file.as_deref().and_then(Path::parent).unwrap_or(Path::new(".")).to_owned();
        match self.tasks.iter().find(|t| t.task.name == task.name) {
            None => self.tasks.push(Chosen { task, file, base }),
            Some(known) if known.file == file => {}
            Some(_) => bail!("two task files have the name {:?}; give one of them another", task.name),
        }
        Ok(())
    }

    fn group(&mut self, group: &Group, base: Option<&Path>, profile: Option<&str>, depth: u32) -> Result<()> {
        ensure!(depth < 8, "group {:?} names itself, or groups are nested more than eight deep", group.name);
        let mut members = Vec::new();
        for name in &group.tasks {
            // A group in a file names files beside it before tasks that the program brings.
            let beside = base.map(|b| b.join(name)).filter(|p| name.ends_with(".toml") || p.is_file());
            let (text, at) = match (&beside, BUILT_IN.iter().find(|(known, _)| known == name)) {
                (Some(path), _) => {
                    let text = std::fs::read_to_string(path)
                        .with_context(|| format!("group {}: reading the task file {}", group.name, path.display()))?;
                    (text, path.display().to_string())
                }
                (None, Some((known, text))) => ((*text).to_owned(), (*known).to_owned()),
                (None, None) => bail!("group {:?}: there is no task {name:?}{}", group.name, near(name)),
            };
            match TaskFile::parse(&text, &at, profile)? {
                TaskFile::Task(task) => {
                    members.push(task.name.clone());
                    self.add(*task, beside.as_deref())?;
                }
                TaskFile::Group(inner) => {
                    let base = beside.as_deref().and_then(Path::parent);
                    self.group(&inner, base, profile, depth + 1)?;
                    members.extend(self.groups.get(&inner.name).into_iter().flatten().cloned());
                }
            }
        }
        self.groups.insert(group.name.clone(), members);
        Ok(())
    }
}

/// Whether a name matches a pattern in which `*` stands for any text.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(head) else { return false };
    (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| matches(tail, rest)))
}

fn near(name: &str) -> String {
    let distance = |known: &str| strsim::damerau_levenshtein(name, known);
    let best = BUILT_IN.iter().map(|(known, _)| *known).min_by_key(|known| distance(known));
    best.filter(|known| distance(known) <= 3).map(|known| format!("; near it: {known}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::tests::TASK;

    #[test]
    fn names_stand_for_tasks_groups_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("colours.toml");
        std::fs::write(&file, TASK).unwrap();
        let group = dir.path().join("both.toml");
        std::fs::write(&group, "name = \"both\"\nsummary = \"Both.\"\ntasks = [\"colours.toml\"]").unwrap();
        let text = |p: &Path| p.to_str().unwrap().to_owned();
        let found = select(&[text(&group), text(&file)], None).unwrap();
        assert_eq!(found.tasks.len(), 1, "named twice, asked once");
        assert_eq!(found.tasks[0].base, dir.path().canonicalize().unwrap());
        let other = dir.path().join("other.toml");
        std::fs::write(&other, TASK).unwrap();
        let error = select(&[text(&file), text(&other)], None).unwrap_err().to_string();
        assert!(error.contains("two task files") && error.contains("colours"), "{error}");
        assert!(select(&[text(&file)], Some("nonsense")).is_err());
        assert_eq!(found.groups["both"], ["colours"]);
        assert!(select(&["nothing".into()], None).is_err());
        assert!(matches("mathvista*_cot", "mathvista_testmini_cot") && !matches("m*x", "mathvista"));
    }
}
