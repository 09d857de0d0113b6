//! Checkpoints written beside the training: the state is copied to the host's memory, and a thread writes the copy.
//!
//! ```text
//!  step N ─► copy of trained weights and optimiser state ─► training goes on
//!                                  └─► thread: checkpoint::write ─► whole, or the error of a later step
//! ```
//! One write at a time: the next waits for it. The copy is host memory as large as the trained weights and the optimiser's
//! state, and is kept for the next. With `checkpoint.asynchronous = false` nothing is copied and the run waits for the disk,
//! as it does for a model with adapters, whose checkpoints are small.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use ovhost_model::{LlavaOnevision, Snapshot, host_copy};
use tch::Tensor;
use tracing::error;

use crate::checkpoint::{self, State};
use crate::lora;
use crate::recipe::CheckpointConfig;

/// What a checkpoint is written from.
struct Copied {
    model: Snapshot,
    optimizer: Vec<(String, Tensor)>,
}

impl Copied {
    /// Copies, into the memory of `spare` where that fits.
    fn of(model: &LlavaOnevision, optimizer: Vec<(String, Tensor)>, spare: Option<Copied>) -> Result<Self> {
        let (model_spare, mut old) = spare.map_or((None, Vec::new()), |s| (Some(s.model), s.optimizer));
        old.reverse();
        let model = model.snapshot(model_spare)?;
        let copy = |(name, tensor): (String, Tensor)| {
            let spare = old.pop().filter(|(other, _)| *other == name).map(|(_, tensor)| tensor);
            Ok((name, host_copy(&tensor, spare)?))
        };
        Ok(Copied { model, optimizer: optimizer.into_iter().map(copy).collect::<Result<_>>()? })
    }
}

type Written = Result<Copied>;

/// Writes the checkpoints of a run.
pub struct Saver {
    folder: PathBuf,
    source: PathBuf,
    config: CheckpointConfig,
    writing: Option<(u64, JoinHandle<Written>)>,
    spare: Option<Copied>,
}

impl Saver {
    /// Writes into `folder`, with the tokenizer and processor files of the model folder `source`.
    pub fn new(folder: PathBuf, source: PathBuf, config: CheckpointConfig) -> Self {
        Self { folder, source, config, writing: None, spare: None }
    }

    /// Begins to write the checkpoint of `state`, or writes it where that is not to be done beside the training. Returns its
    /// path, at which it will be once [`Self::wait`] has returned.
    ///
    /// # Errors
    /// This one cannot be copied or written, or the one before could not.
    pub fn save(&mut self, model: &LlavaOnevision, optimizer: Vec<(String, Tensor)>, state: State) -> Result<PathBuf> {
        self.wait()?;
        let step = state.step;
        let home = self.folder.join(checkpoint::name(step));
        let (folder, source, keep) = (self.folder.clone(), self.source.clone(), self.config.keep);
        if !self.config.asynchronous || !model.adapters().is_empty() {
            let model = |dir: &Path| lora::save_model(model, dir, &source);
            checkpoint::write(&folder, state, &optimizer, keep, model).with_context(|| failed(step))?;
            return Ok(home);
        }
        let copied = Copied::of(model, optimizer, self.spare.take())
            .with_context(|| format!("copying the state of step {step} for its checkpoint"))?;
        let write = move || {
            let model = |dir: &Path| Ok(copied.model.save_folder(dir, &source)?);
            checkpoint::write(&folder, state, &copied.optimizer, keep, model)?;
            Ok(copied)
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(write);
        self.writing = Some((step, thread.context("starting the thread that writes the checkpoint")?));
        Ok(home)
    }

    /// The error of a write that has ended, without waiting for one that has not.
    ///
    /// # Errors
    /// The checkpoint could not be written.
    pub fn check(&mut self) -> Result<()> {
        match &self.writing {
            Some((_, thread)) if thread.is_finished() => self.wait(),
            _ => Ok(()),
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// The checkpoint could not be written.
    pub fn wait(&mut self) -> Result<()> {
        let Some((step, thread)) = self.writing.take() else { return Ok(()) };
        let written = thread.join().map_err(|_| anyhow!("the thread that writes it has panicked"));
        self.spare = Some(written.and_then(|written| written).with_context(|| failed(step))?);
        Ok(())
    }
}

fn failed(step: u64) -> String {
    format!("saving the checkpoint of step {step}; those before it are as they were")
}

impl Drop for Saver {
    /// A run that ends by an error still finishes its last checkpoint.
    fn drop(&mut self) {
        if let Err(failure) = self.wait() {
            error!("{failure:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_model::Preset;
    use tch::{Device, Kind};

    fn model() -> LlavaOnevision {
        let mut config = Preset::B4.config();
        let (v, t) = (&mut config.vision, &mut config.text);
        (v.depth, v.hidden_size, v.intermediate_size, v.num_heads) = (1, 16, 32, 2);
        (t.vocab_size, t.hidden_size, t.intermediate_size, t.num_hidden_layers) = (50, 16, 32, 1);
        (t.num_attention_heads, t.num_key_value_heads, t.head_dim) = (2, 1, 8);
        (config.image_token_id, config.video_token_id) = (48, 49);
        LlavaOnevision::random(config, 1, Device::Cpu, Kind::Float).unwrap()
    }

    fn saver(folder: &Path, asynchronous: bool) -> Saver {
        let config = CheckpointConfig { asynchronous, ..CheckpointConfig::default() };
        Saver::new(folder.join("checkpoints"), folder.join("source"), config)
    }

    fn bytes(folder: &Path, step: u64) -> [Vec<u8>; 2] {
        let home = folder.join("checkpoints").join(checkpoint::name(step));
        ["model/model.safetensors", "optimizer.safetensors"].map(|file| std::fs::read(home.join(file)).unwrap())
    }

    #[test]
    fn what_is_written_is_the_state_when_it_was_asked_for() {
        let model = model();
        let params = model.parameters();
        // One is frozen, the others are trained.
        params.iter().skip(1).for_each(|p| drop(p.tensor.set_requires_grad(true)));
        let moment = Tensor::ones([3], (Kind::Float, Device::Cpu));
        let state = || vec![("exp_avg.w".to_owned(), moment.shallow_clone())];
        let folders = [true, false].map(|asynchronous| (asynchronous, tempfile::tempdir().unwrap()));
        let mut savers = folders.each_ref().map(|(asynchronous, dir)| {
            std::fs::create_dir(dir.path().join("source")).unwrap();
            saver(dir.path(), *asynchronous)
        });
        for step in 1..=3 {
            // In place, as the optimiser does, right after the call.
            let [beside, waiting] = &mut savers;
            waiting.save(&model, state(), State::new(step)).unwrap();
            beside.save(&model, state(), State::new(step)).unwrap();
            tch::no_grad(|| params.iter().skip(1).for_each(|p| drop(p.tensor.shallow_clone().g_add_scalar_(1.0))));
            let _ = moment.shallow_clone().g_add_scalar_(1.0);
        }
        savers[0].wait().unwrap();
        for step in 2..=3 {
            assert_eq!(bytes(folders[0].1.path(), step), bytes(folders[1].1.path(), step), "step {step}");
        }
        assert_ne!(bytes(folders[0].1.path(), 2), bytes(folders[0].1.path(), 3));
    }

    #[test]
    fn a_failed_write_is_told_once() {
        let (model, dir) = (model(), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("checkpoints"), b"no folder").unwrap();
        let mut saver = saver(dir.path(), true);
        saver.save(&model, Vec::new(), State::new(7)).unwrap();
        let mut told = Vec::new();
        while saver.writing.is_some() {
            told.extend(saver.check().err());
        }
        assert_eq!(told.len(), 1);
        let text = format!("{:#}", told[0]);
        assert!(text.contains("step 7") && text.contains(".tmp-step-7"), "{text}");
        saver.check().unwrap();
        // And by the next that would be written.
        saver.save(&model, Vec::new(), State::new(8)).unwrap();
        assert!(saver.save(&model, Vec::new(), State::new(9)).is_err());
    }
}
