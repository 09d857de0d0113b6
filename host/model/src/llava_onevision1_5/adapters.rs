//! Adapters of this model: put in, trained, written and read.
//!
//! ```text
//!  adapt ─► adapters() ─► trained ─► save_folder    a model folder, adapters merged into the weights
//!                                 ├─ save_adapters  adapter_config.json, adapter_model.safetensors: the layout of PEFT
//!                                 └─ save_trained   those, and trained.safetensors: what a run needs beside the base
//! ```

use std::path::Path;

use serde_json::json;
use tch::Tensor;

use super::model::LlavaOnevision;
use crate::builder::{Param, seeded};
use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};
use crate::layers::Linear;
use crate::lora::{Adapters, Dropout, LoraOptions};
use crate::save;

/// What PEFT puts before a layer's name.
const PEFT: &str = "base_model.model.";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const TRAINED: &str = "trained.safetensors";
/// Of `trained.safetensors`: norm of every parameter of the base.
const NORMS: &str = "base.norms";

impl LlavaOnevision {
    fn linears(&mut self) -> impl Iterator<Item = &mut Linear> {
        let tower = self.vision.linears().chain(self.merger.linears());
        tower.chain(self.language.linears())
    }

    /// Names of the layers that can have an adapter (their weight's, without `.weight`), in the order of the network: every
    /// linear layer but the head.
    pub fn adaptable(&mut self) -> Vec<String> {
        self.linears().map(|linear| linear.place.name.clone()).collect()
    }

    /// Puts an adapter into each of these layers; the model's results stay what they are until it is trained. The same seed
    /// gives the same adapters on every device.
    ///
    /// # Errors
    /// A model that has adapters, a name that is not one of [`LlavaOnevision::adaptable`], a rank below 1, or what libtorch
    /// throws.
    pub fn adapt(&mut self, targets: &[String], options: LoraOptions, seed: i64) -> Result<()> {
        if self.adapters.is_some() {
            return Err(ModelError::Input("the model has adapters already".into()));
        }
        if options.rank < 1 || !(0.0..1.0).contains(&options.dropout) {
            return Err(ModelError::Input(format!(
                "rank {} and dropout {}: a rank is at least 1, dropout from 0 to below 1",
                options.rank, options.dropout
            )));
        }
        let known = self.adaptable();
        if let Some(unknown) = targets.iter().find(|name| !known.contains(name)) {
            return Err(ModelError::Input(format!("{unknown} is no linear layer that can have an adapter")));
        }
        let _guard = tch::no_grad_guard();
        let norms = self.parameters().into_iter().map(|p| ovhost_torch::foreach_norm(&[&p.tensor]));
        let norms = norms.collect::<std::result::Result<Vec<_>, _>>()?;
        let mut adapters = Adapters::new(options, Tensor::f_stack(&norms, 0)?);
        seeded(seed, || -> Result<()> {
            for linear in self.linears().filter(|linear| targets.contains(&linear.place.name)) {
                linear.adapter = Some(adapters.draw(&linear.place.name, linear.place.module, &linear.weight)?);
            }
            Ok(())
        })?;
        self.adapters = Some(adapters);
        Ok(())
    }

    /// The adapters' parameters, named as their layer with `.lora_A.weight` (`[rank, in]`) and `.lora_B.weight`
    /// (`[out, rank]`); none without adapters. They are not among [`LlavaOnevision::parameters`].
    pub fn adapters(&self) -> Vec<Param> {
        self.adapters.iter().flat_map(|adapters| &adapters.params).map(Param::share).collect()
    }

    /// Lets the adapters drop values until the result is dropped; nothing without adapters. Which ones follows from the numbers
    /// `from`. To be held over a micro-batch's forward and backward pass.
    pub fn dropout(&self, from: &[u64]) -> Option<Dropout> {
        self.adapters.as_ref().map(|adapters| adapters.dropout(from))
    }

    fn adapted(&self) -> Result<&Adapters> {
        self.adapters.as_ref().ok_or_else(|| ModelError::Input("the model has no adapters".into()))
    }

    /// Writes the adapters in the layout of PEFT. `base` is the folder of the model that they belong to.
    ///
    /// # Errors
    /// A model without adapters, or a folder that cannot be written.
    pub fn save_adapters(&self, dir: &Path, base: &Path) -> Result<()> {
        let adapters = self.adapted()?;
        let LoraOptions { rank, alpha, dropout, rslora } = adapters.options;
        std::fs::create_dir_all(dir).map_err(|e| ModelError::io(dir, e))?;
        let tensors: Vec<_> =
            adapters.params.iter().map(|p| (format!("{PEFT}{}", p.name), p.tensor.shallow_clone())).collect();
        save::write_one(&dir.join(WEIGHTS), &tensors)?;
        let config = json!({
            "peft_type": "LORA",
            "task_type": null,
            "base_model_name_or_path": base.to_string_lossy(),
            "inference_mode": true,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "use_rslora": rslora,
            "use_dora": false,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "modules_to_save": null,
            "target_modules": adapters.targets,
        });
        save::write_file(&dir.join(CONFIG), format!("{config:#}\n").as_bytes())?;
        save::sync_dir(dir)
    }

    /// Writes what training has changed of a model with adapters: the adapters, and in `trained.safetensors` every other
    /// parameter that wants a gradient or came from such a file.
    ///
    /// # Errors
    /// As [`LlavaOnevision::save_adapters`].
    pub fn save_trained(&self, dir: &Path, base: &Path) -> Result<()> {
        let adapters = self.adapted()?;
        self.save_adapters(dir, base)?;
        let mut tensors = vec![(NORMS.to_owned(), adapters.norms.shallow_clone())];
        let kept = |p: &Param| p.tensor.requires_grad() || adapters.read.contains(&p.name);
        tensors.extend(self.parameters().into_iter().filter(kept).map(|p| (p.name, p.tensor)));
        save::write_one(&dir.join(TRAINED), &tensors)?;
        save::sync_dir(dir)
    }

    /// Reads what [`LlavaOnevision::save_trained`] wrote into a model that was just loaded from the same base and adapted alike.
    ///
    /// # Errors
    /// Another base, other adapters, or files that are missing or damaged.
    pub fn load_trained(&mut self, dir: &Path) -> Result<()> {
        let adapters = self.adapted()?;
        let mut file = Checkpoint::open_file(&dir.join(TRAINED))?;
        let norms = file.take(NORMS, &adapters.norms.size())?;
        let near = norms.f_allclose(&adapters.norms.f_to_device(tch::Device::Cpu)?, 1e-5, 0.0, false)?;
        if !near {
            return Err(ModelError::Weights(format!(
                "{}: the run began from other weights than those of model.folder now; put the folder back as it was",
                dir.display()
            )));
        }
        let mut read = Vec::new();
        let _guard = tch::no_grad_guard();
        for mut param in self.parameters() {
            if file.contains(&param.name) {
                let tensor = file.take(&param.name, &param.tensor.size())?;
                param.tensor.f_copy_(&tensor)?;
                read.push(param.name);
            }
        }
        file.all_taken(|_| false)?;
        let mut file = Checkpoint::open_file(&dir.join(WEIGHTS))?;
        for mut param in self.adapters() {
            let tensor = file.take(&format!("{PEFT}{}", param.name), &param.tensor.size())?;
            param.tensor.f_copy_(&tensor)?;
        }
        file.all_taken(|_| false)?;
        if let Some(adapters) = &mut self.adapters {
            adapters.read = read;
        }
        Ok(())
    }
}
