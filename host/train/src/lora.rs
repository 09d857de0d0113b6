//! `[train.lora]`: which layers get adapters, and where a run with adapters keeps its weights.
//!
//! ```text
//!  model.folder ─► base ─► adapters in the layers that `targets` name ─► training ─┬─► checkpoints/step-N/model: adapters,
//!                   ▲                                                              │    and what else was trained
//!                   └──────────── --resume: base again, then the checkpoint ◄──────┘
//!                                                                                  └─► model/ (merged), adapter/ (PEFT)
//! ```

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ovhost_data::shards::expand_braces;
use ovhost_model::{LlavaOnevision, LoadOptions, LoraOptions, Module};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::recipe::{Recipe, TrainConfig};

/// `[train.lora]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the adapters.
    pub rank: i64,
    /// The adapters' product is scaled by alpha / rank.
    pub alpha: f64,
    /// Scale by alpha / √rank instead, which keeps large ranks learning.
    pub rslora: bool,
    /// Probability with which a value that goes into an adapter is dropped in training.
    pub dropout: f64,
    /// Layers that get adapters, by their names in the checkpoint without `.weight`: whole, or the end of a name. `*` stands
    /// for any letters but the dot, `{a,b}` for either, `{0..11}` for a range. Of a module with adapters nothing else is
    /// trained; the other modules are trained in full unless they are frozen.
    pub targets: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let targets =
            ["language_model.layers.*.self_attn.{q,k,v,o}_proj", "language_model.layers.*.mlp.{gate,up,down}_proj"];
        Self { rank: 16, alpha: 32.0, rslora: false, dropout: 0.0, targets: targets.map(str::to_owned).to_vec() }
    }
}

impl LoraConfig {
    /// Whether the values make sense, whatever the model.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn check(&self) -> Result<()> {
        ensure!(self.rank > 0, "train.lora.rank is {}; it must be at least 1", self.rank);
        ensure!(self.alpha.is_finite() && self.alpha > 0.0, "train.lora.alpha is {}; it must be above 0", self.alpha);
        ensure!(
            (0.0..1.0).contains(&self.dropout),
            "train.lora.dropout is {}; it must be at least 0 and below 1",
            self.dropout
        );
        ensure!(!self.targets.is_empty(), "train.lora.targets is empty; leave it out for every layer of the decoder");
        for pattern in &self.targets {
            expand_braces(pattern).context("train.lora.targets")?;
        }
        Ok(())
    }

    fn options(&self) -> LoraOptions {
        LoraOptions { rank: self.rank, alpha: self.alpha, dropout: self.dropout, rslora: self.rslora }
    }

    /// The names among `known` that the patterns name, in the order of `known`.
    ///
    /// # Errors
    /// A pattern that names none, with the nearest names.
    pub fn select(&self, known: &[String]) -> Result<Vec<String>> {
        let mut chosen = vec![false; known.len()];
        for pattern in &self.targets {
            // Each choice of the braces must name something: a typing error in one of them would go unseen otherwise.
            for single in expand_braces(pattern).context("train.lora.targets")? {
                let mut any = false;
                for (name, chosen) in known.iter().zip(&mut chosen) {
                    if names(&single, name) {
                        (any, *chosen) = (true, true);
                    }
                }
                if !any {
                    bail!("{}", unmatched(pattern, &single, known));
                }
            }
        }
        Ok(known.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(name, _)| name.clone()).collect())
    }
}

/// Whether `pattern` (without braces) is `name` or the end of it, part by part.
fn names(pattern: &str, name: &str) -> bool {
    let mut parts = name.rsplit('.');
    pattern.rsplit('.').all(|pattern| parts.next().is_some_and(|part| wild(pattern, part)))
}

/// Whether `pattern` with its `*` stands for `text`.
fn wild(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    // The rest may begin anywhere behind the head.
    (0..=text.len()).filter(|&at| text.is_char_boundary(at)).any(|at| wild(rest, &text[at..]))
}

fn unmatched(pattern: &str, single: &str, known: &[String]) -> String {
    // Layers differ in their number only: one of each kind is enough to tell the names.
    let general = |name: &str| {
        let parts =
            name.split('.').map(|p| if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) { "*" } else { p });
        parts.collect::<Vec<_>>().join(".")
    };
    let mut kinds: Vec<String> = known.iter().map(|name| general(name.trim_start_matches("model."))).collect();
    kinds.sort();
    kinds.dedup();
    let wanted = general(single.trim_start_matches("model."));
    // As much of a name's end as the pattern has.
    let like = |name: &str| {
        let parts = wanted.split('.').count();
        let end: Vec<&str> = name.rsplitn(parts + 1, '.').take(parts).collect();
        strsim::jaro_winkler(&end.into_iter().rev().collect::<Vec<_>>().join("."), &wanted)
    };
    kinds.sort_by(|a, b| like(b).total_cmp(&like(a)));
    kinds.truncate(4);
    let of = if single == pattern { String::new() } else { format!(" (of {pattern:?})") };
    format!(
        "train.lora.targets: {single:?}{of} names no linear layer of this model; near names are {}",
        kinds.join(", ")
    )
}

/// Loads the model of a run: `source` is the recipe's model folder, `checkpoint` the checkpoint to go on from.
///
/// # Errors
/// Weights that are missing, damaged or not those of the run; targets that name nothing.
pub(crate) fn load_model(
    recipe: &Recipe,
    source: &Path,
    checkpoint: Option<&Path>,
    options: &LoadOptions,
) -> Result<LlavaOnevision> {
    let saved = checkpoint.map(|path| path.join("model"));
    if let Some(saved) = &saved {
        let adapted = saved.join("adapter_config.json").is_file();
        ensure!(
            adapted == recipe.train.lora.is_some(),
            "{} was written {} adapters, and the recipe has {} train.lora: put it back, or start a new run",
            saved.display(),
            if adapted { "with" } else { "without" },
            if adapted { "no" } else { "a" }
        );
    }
    let load = |folder: &Path| {
        LlavaOnevision::load(folder, options).with_context(|| format!("loading the model from {}", folder.display()))
    };
    let Some(config) = &recipe.train.lora else { return load(saved.as_deref().unwrap_or(source)) };
    let mut model = load(source)?;
    let targets = config.select(&model.adaptable())?;
    model.adapt(&targets, config.options(), recipe.run.seed.cast_signed())?;
    let adapters = model.adapters();
    for module in [Module::Vision, Module::Merger, Module::Language] {
        let name = format!("{module:?}").to_lowercase();
        ensure!(
            recipe.train.module(module).train || !adapters.iter().any(|p| p.module == module),
            "train.{name}.train is false, but train.lora.targets names layers of it; leave one of them out (a module with \
             adapters has its own weights frozen anyway)"
        );
    }
    if let Some(saved) = saved {
        model.load_trained(&saved).with_context(|| format!("loading {}", saved.display()))?;
    }
    info!(
        "adapters of rank {} in {} layers, {:.2} M values",
        config.rank,
        targets.len(),
        adapters.iter().map(|p| p.tensor.numel()).sum::<usize>() as f64 / 1e6
    );
    Ok(model)
}

/// Writes a checkpoint's folder `model`: a model folder, or with adapters what was trained.
///
/// # Errors
/// A folder that cannot be written.
pub(crate) fn save_model(model: &LlavaOnevision, dir: &Path, source: &Path) -> Result<()> {
    if model.adapters().is_empty() {
        return Ok(model.save_folder(dir, source)?);
    }
    Ok(model.save_trained(dir, source)?)
}

/// Writes the adapters of a finished run, if it has any.
///
/// # Errors
/// A folder that cannot be written.
pub(crate) fn export(model: &LlavaOnevision, dir: &Path, source: &Path, train: &TrainConfig) -> Result<()> {
    let adapters = model.adapters();
    if adapters.is_empty() {
        return Ok(());
    }
    model.save_adapters(dir, source)?;
    let full: Vec<Module> =
        train.trained().into_iter().filter(|module| !adapters.iter().any(|p| p.module == *module)).collect();
    if !full.is_empty() {
        warn!("{} holds the adapters alone; {full:?} were trained in full and are in model/", dir.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<String> {
        let language = (0..2).flat_map(|i| {
            [
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "self_attn.o_proj",
                "mlp.gate_proj",
                "mlp.up_proj",
            ]
            .into_iter()
            .chain(["mlp.down_proj"])
            .map(move |name| format!("model.language_model.layers.{i}.{name}"))
        });
        ["model.visual.blocks.0.attn.qkv", "model.visual.merger.mlp.0"]
            .map(str::to_owned)
            .into_iter()
            .chain(language)
            .collect()
    }

    fn select(targets: &[&str]) -> Result<Vec<String>> {
        let targets = targets.iter().map(|&t| t.to_owned()).collect();
        LoraConfig { targets, ..LoraConfig::default() }.select(&known())
    }

    #[test]
    fn patterns_choose_layers_by_their_names() {
        assert_eq!(LoraConfig::default().select(&known()).unwrap(), known()[2..]);
        let q = select(&["q_proj"]).unwrap();
        assert_eq!(q, [2, 9].map(|i| known()[i].clone()));
        assert_eq!(select(&["model.language_model.layers.*.self_attn.q_*"]).unwrap(), q);
        assert_eq!(select(&["layers.{0..1}.self_attn.q_proj", "q_proj"]).unwrap(), q, "named twice is chosen once");
        assert_eq!(select(&["visual.merger.mlp.0", "attn.qkv"]).unwrap(), known()[..2]);
        assert_eq!(select(&["layers.1.mlp.*"]).unwrap(), known()[13..]);
        assert!(select(&["*"]).is_ok_and(|all| all.len() == known().len()));
    }

    #[test]
    fn a_pattern_that_names_nothing_is_told_with_near_names() {
        let error = select(&["language_model.layers.*.self_attn.{q,z}_proj"]).unwrap_err().to_string();
        assert!(error.contains("self_attn.z_proj") && error.contains("{q,z}"), "{error}");
        assert!(error.contains("language_model.layers.*.self_attn.q_proj"), "{error}");
        // A part is not matched in its middle, and a star stops at the dot.
        for wrong in ["roj", "layers.*.q_proj", "proj"] {
            assert!(select(&[wrong]).is_err(), "{wrong}");
        }
        let error = LoraConfig { targets: vec!["{a".into()], ..LoraConfig::default() }.check().unwrap_err();
        assert!(format!("{error:#}").contains("train.lora.targets"), "{error:#}");
    }
}
