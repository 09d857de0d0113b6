//! A kept failure, once more: the component is loaded as it was, brought to where it was, and called as it was.
//!
//! In: a [`Bundle`]. Out: whether it fails in the same way. Rows, seeds, fuel and memory are the recorded ones and the engine is
//! deterministic, so a defect of the plugin shows again on any machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::bundle::{Bundle, Failure};
use crate::engine::Host;
use crate::error::PluginError;
use crate::load::{Plugin, PluginSpec};
use crate::prompt::Mode;
use crate::scan::Kind;
use crate::{Batch, OnTrap};

/// What came of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It failed in the same function with the same class of failure.
    Reproduced,
    /// It failed otherwise.
    FailedOtherwise,
    /// The call went well.
    Passed,
    /// The call went well, but not all that the failing instance had seen is in the bundle.
    Unclear,
}

/// The outcome of [`Bundle::replay`].
#[derive(Debug, Clone, Serialize)]
pub struct Replay {
    /// In a word.
    pub verdict: Verdict,
    /// Hash of the component that was called.
    pub sha256: String,
    /// As it was recorded.
    pub recorded: Failure,
    /// As it is now, if it failed.
    pub now: Option<Failure>,
    /// The whole error, if it failed.
    pub error: Option<String>,
}

impl Bundle {
    /// Calls the plugin again. `plugin`: another component than the recorded one, whose hash is then not compared. `assets`: files
    /// in place of the recorded ones, which must have the recorded hashes. Errors: it cannot be tried (a file is missing or
    /// differs, the component does not load with this configuration).
    pub fn replay(
        &self,
        host: &Host,
        plugin: Option<&Path>,
        assets: &BTreeMap<String, PathBuf>,
    ) -> Result<Replay, PluginError> {
        let spec = PluginSpec {
            path: plugin.map_or_else(|| self.component.path.clone(), Path::to_owned),
            name: Some(self.name.clone()),
            sha256: plugin.is_none().then(|| self.component.sha256.clone()),
            entry: Some(self.entry.clone()),
            config: self.config.clone(),
            assets: self
                .assets
                .iter()
                .map(|a| (a.name.clone(), assets.get(&a.name).unwrap_or(&a.path).clone()))
                .collect(),
            asset_pins: self.assets.iter().map(|a| (a.name.clone(), a.sha256.clone())).collect(),
            limits: self.limits.clone(),
            seed: self.seed,
            ..PluginSpec::default()
        };
        let (sha256, outcome) = match host.load(&spec) {
            Ok(plugin) => (plugin.info().sha256.clone(), self.call(&plugin)),
            // Failing while it is loaded is what may have been recorded.
            Err(error) if matches!(self.call.function.as_str(), "describe" | "init") && failure(&error).is_some() => {
                (self.component.sha256.clone(), Err(error))
            }
            Err(error) => return Err(error),
        };
        let (now, error) = match outcome {
            Ok(()) => (None, None),
            Err(error) => match failure(&error) {
                Some(now) => (Some(now), Some(error.to_string())),
                // A refusal by the plugin, a missing column: an answer, if another one than was recorded.
                None if matches!(error, PluginError::Refused { .. }) => (None, Some(error.to_string())),
                None => return Err(error),
            },
        };
        let verdict = match &now {
            Some((function, now)) if *function == self.call.function && now.class == self.failure.class => {
                Verdict::Reproduced
            }
            Some(_) => Verdict::FailedOtherwise,
            None if error.is_some() => Verdict::FailedOtherwise,
            None if self.missing.is_some() => Verdict::Unclear,
            None => Verdict::Passed,
        };
        Ok(Replay { verdict, sha256, recorded: self.failure.clone(), now: now.map(|(_, f)| f), error })
    }

    fn unusable(&self, why: String) -> PluginError {
        PluginError::State { plugin: self.name.clone(), why: format!("the crash file cannot be used: {why}") }
    }

    fn bytes(&self, text: &str) -> Result<Vec<u8>, PluginError> {
        STANDARD.decode(text).map_err(|e| self.unusable(e.to_string()))
    }

    fn call(&self, plugin: &Plugin) -> Result<(), PluginError> {
        let call = &self.call;
        let ctx = call.ctx.unwrap_or_default();
        let batch: Batch = call.batch.batch().map_err(|why| self.unusable(why))?;
        let argument = call.argument.as_deref().map(|a| self.bytes(a)).transpose()?.unwrap_or_default();
        let function = call.function.as_str();
        let unknown = || self.unusable(format!("{} plugins have no function {function:?}", self.kind));
        if matches!(function, "describe" | "init" | "start") && self.kind != Kind::Packer {
            // Loading did it; an instance is made besides, which calls `init` again.
            return self.instance(plugin);
        }
        let stream = self.stream.clone().unwrap_or_default();
        let state = stream.state.as_deref().map(|s| self.bytes(s)).transpose()?;
        match self.kind {
            Kind::Filter => {
                let mut filter = plugin.filter()?;
                // A failing `restore` is itself the call.
                if let Some(state) = state.filter(|_| function != "restore") {
                    filter.restore(&state)?;
                }
                for earlier in &stream.before {
                    filter.process(&earlier.ctx, &earlier.batch.batch().map_err(|why| self.unusable(why))?)?;
                }
                match function {
                    "process" => filter.process(&ctx, &batch).map(drop),
                    "save" => filter.save().map(drop),
                    "restore" => filter.restore(&argument),
                    _ => Err(unknown()),
                }
            }
            Kind::Packer => {
                let mut packer = plugin.packer()?;
                let Some(limits) = stream.limits else {
                    return if matches!(function, "describe" | "init") { Ok(()) } else { Err(unknown()) };
                };
                packer.start(&limits)?;
                if let Some(state) = state.filter(|_| function != "restore") {
                    packer.restore(&state)?;
                }
                for earlier in &stream.before {
                    packer.push(&earlier.ctx, &earlier.batch.batch().map_err(|why| self.unusable(why))?)?;
                }
                match function {
                    "start" | "init" | "describe" => Ok(()),
                    "push" => packer.push(&ctx, &batch).map(drop),
                    "flush" => {
                        while packer.flush()?.is_some() {}
                        Ok(())
                    }
                    "save" => packer.save().map(drop),
                    "restore" => packer.restore(&argument),
                    _ => Err(unknown()),
                }
            }
            Kind::Prompt => {
                let mut prompt = plugin.prompt()?;
                match function {
                    "render" => prompt.render(&ctx, call.mode.unwrap_or(Mode::Train), &batch).map(drop),
                    "special-tokens" => prompt.special_tokens().map(drop),
                    "stop-strings" => prompt.stop_strings().map(drop),
                    _ => Err(unknown()),
                }
            }
            Kind::Metric => {
                let mut metric = plugin.metric()?;
                metric.set_on_trap(OnTrap::Stop);
                if let Some(state) = state {
                    metric.merge(&state)?;
                }
                match function {
                    "update" => metric.update(&ctx, &batch).map(drop),
                    "judged" => metric.judged(&ctx, &batch).map(drop),
                    "outputs" => metric.outputs().map(drop),
                    "reset" => metric.reset(),
                    "save" => metric.save().map(drop),
                    "merge" => metric.merge(&argument),
                    "finalize" => metric.finalize().map(drop),
                    _ => Err(unknown()),
                }
            }
        }
    }

    fn instance(&self, plugin: &Plugin) -> Result<(), PluginError> {
        match self.kind {
            Kind::Filter => plugin.filter().map(drop),
            Kind::Packer => plugin.packer().map(drop),
            Kind::Prompt => plugin.prompt().map(drop),
            Kind::Metric => plugin.metric().map(drop),
        }
    }
}

/// A trap or a broken answer, in the terms of a bundle, with the function; none for other errors.
fn failure(error: &PluginError) -> Option<(String, Failure)> {
    match error {
        PluginError::Trap { call, row, key, cause, backtrace, .. } => Some((
            (*call).to_owned(),
            Failure {
                class: cause.class().to_owned(),
                text: cause.to_string(),
                backtrace: backtrace.to_vec(),
                row: *row,
                key: key.clone(),
            },
        )),
        PluginError::Output { call, rule, .. } => Some((
            (*call).to_owned(),
            Failure { class: "contract".into(), text: rule.clone(), backtrace: Vec::new(), row: None, key: None },
        )),
        _ => None,
    }
}
