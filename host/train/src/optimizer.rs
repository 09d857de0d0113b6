//! AdamW over the model's parameters: groups by module and decay, fp32 masters under bf16, global clipping.
//!
//! ```text
//!  param.grad ─► (fp32 accumulator under bf16) ─► clip by global norm ─► fused AdamW on masters ─► param
//! ```

use anyhow::{Context, Result, ensure};
use ovhost_model::{Module, Param};
use tch::{Kind, Tensor};

use crate::moments::{Lists, Moments};
use crate::recipe::TrainConfig;

/// State of one trained parameter.
struct Slot {
    name: String,
    /// The model's own tensor.
    param: Tensor,
    /// fp32 copy that is updated; the parameter itself where that is fp32.
    master: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    /// Number of updates, as the fused kernel wants it: one fp32 scalar per parameter.
    step: Tensor,
    /// fp32 sum of gradients over micro-batches; only where the parameter is not fp32.
    sum: Option<Tensor>,
}

/// Parameters with one learning rate and one weight decay.
struct Group {
    lr: f64,
    weight_decay: f64,
    slots: Vec<Slot>,
}

/// AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), bias-corrected.
pub struct AdamW {
    groups: Vec<Group>,
    betas: [f64; 2],
    eps: f64,
    clip: f64,
    adapted: Vec<Module>,
    moments: Moments,
    /// Updates made so far: what the rounding of bf16 moments is drawn from.
    updates: u64,
}

impl AdamW {
    /// Marks the trained parameters as such, freezes the others, and makes their state. Of a module that has adapters only they
    /// are trained.
    ///
    /// # Errors
    /// Torch errors only.
    pub fn new(params: Vec<Param>, config: &TrainConfig) -> Result<Self> {
        let mut groups: Vec<Group> = Vec::new();
        let mut adapted: Vec<Module> = params.iter().filter(|p| p.adapter).map(|p| p.module).collect();
        adapted.dedup();
        for Param { name, tensor, module, adapter } in params {
            let own = config.module(module);
            let train = own.train && (adapter || !adapted.contains(&module));
            let tensor = tensor.set_requires_grad(train);
            if !train {
                continue;
            }
            let lr = own.lr.unwrap_or(config.lr);
            // 1-D tensors (norms, biases, class embedding) have no scale to shrink; class_pos_emb is [1, d].
            let matrix = tensor.size().iter().filter(|&&d| d > 1).count() > 1;
            let weight_decay = if matrix { config.weight_decay } else { 0.0 };
            let fp32 = tensor.kind() == Kind::Float;
            let master = if fp32 { tensor.shallow_clone() } else { tensor.detach().to_kind(Kind::Float) };
            let state = || master.detach().zeros_like();
            let moment = || state().to_kind(config.moments.kind());
            let slot = Slot {
                exp_avg: moment(),
                exp_avg_sq: moment(),
                step: Tensor::zeros([], (Kind::Float, tensor.device())),
                sum: (!fp32).then(state),
                name,
                param: tensor,
                master,
            };
            match groups.iter_mut().find(|g| g.lr == lr && g.weight_decay == weight_decay) {
                Some(group) => group.slots.push(slot),
                None => groups.push(Group { lr, weight_decay, slots: vec![slot] }),
            }
        }
        Ok(AdamW {
            groups,
            betas: config.betas,
            eps: config.eps,
            clip: config.clip_grad_norm,
            adapted,
            moments: config.moments,
            updates: 0,
        })
    }

    /// The modules that are trained by adapters.
    pub fn adapted(&self) -> &[Module] {
        &self.adapted
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.groups.iter().flat_map(|g| &g.slots)
    }

    /// What is updated, by name: fp32 masters, or the parameters themselves where those are fp32.
    pub fn masters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.slots().map(|slot| (slot.name.as_str(), &slot.master))
    }

    /// Copies the masters to the parameters that are not fp32.
    ///
    /// # Errors
    /// Torch errors only.
    pub fn write_params(&mut self) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for slot in self.slots().filter(|slot| slot.sum.is_some()) {
            slot.param.detach().f_copy_(&slot.master)?;
        }
        Ok(())
    }

    /// Number of trained values.
    pub fn trained_values(&self) -> usize {
        self.slots().map(|s| s.param.numel()).sum()
    }

    /// To be called after each micro-batch's backward pass: under bf16, moves its gradients to the fp32 sums.
    pub fn collect(&mut self) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for slot in self.groups.iter_mut().flat_map(|g| &mut g.slots) {
            let Some(sum) = &mut slot.sum else { continue };
            let mut grad = slot.param.grad();
            if grad.defined() {
                let _ = sum.f_add_(&grad.to_kind(Kind::Float))?;
                let _ = grad.f_zero_()?;
            }
        }
        Ok(())
    }

    /// The gradients by group, in the order of its slots.
    fn gradients(&self) -> Vec<Vec<Tensor>> {
        // A parameter that no sample of this update used has no gradient; it still decays and its moments still fade,
        // as with a gradient of zero, so that the update does not depend on how samples were grouped.
        let grad = |s: &Slot| match &s.sum {
            Some(sum) => sum.shallow_clone(),
            None => {
                let grad = s.param.grad();
                if grad.defined() { grad } else { s.master.detach().zeros_like() }
            }
        };
        self.groups.iter().map(|g| g.slots.iter().map(grad).collect()).collect()
    }

    /// Leaves the update out: the gradients are cleared, nothing else changes.
    ///
    /// # Errors
    /// Torch errors only.
    pub fn discard(&mut self) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for slot in self.groups.iter_mut().flat_map(|g| &mut g.slots) {
            if let Some(sum) = &mut slot.sum {
                let _ = sum.f_zero_()?;
            }
            slot.param.zero_grad();
        }
        Ok(())
    }

    /// Says which step the next update is, counted from 0: what the rounding of bf16 moments is drawn from. Without it the
    /// updates count themselves.
    pub fn begin(&mut self, step: u64) {
        self.updates = step;
    }

    /// Clips, updates and clears the gradients. `factor` scales every group's rate. Returns the gradient norm before
    /// clipping; where it is not finite, nothing was updated or cleared: clipping an infinite gradient would turn every
    /// weight into NaN (0 · ∞). Waits for the device.
    ///
    /// # Errors
    /// Torch errors only.
    pub fn update(&mut self, factor: f64) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let grads = self.gradients();
        let norm = norm(&grads)?;
        let value = norm.f_double_value(&[])?;
        if value.is_finite() {
            self.apply(&grads, &norm, factor, None)?;
        }
        Ok(value)
    }

    /// As [`AdamW::update`], without waiting for the device: where the norm or `loss` is not finite, the device leaves the update
    /// out; the gradients are cleared either way. Returns the norm, and 1 where the update was left out or else 0 (fp32 scalars).
    ///
    /// # Errors
    /// Torch errors only.
    pub fn update_late(&mut self, factor: f64, loss: &Tensor) -> Result<(Tensor, Tensor)> {
        let _guard = tch::no_grad_guard();
        let grads = self.gradients();
        let norm = norm(&grads)?;
        let finite = norm.f_isfinite()?.f_logical_and(&loss.f_isfinite()?)?;
        let left_out = finite.f_logical_not()?.f_to_kind(Kind::Float)?;
        self.apply(&grads, &norm, factor, Some(&left_out))?;
        Ok((norm, left_out))
    }

    fn apply(&mut self, grads: &[Vec<Tensor>], norm: &Tensor, factor: f64, left_out: Option<&Tensor>) -> Result<()> {
        if self.clip > 0.0 {
            let all: Vec<&Tensor> = grads.iter().flatten().collect();
            ovhost_torch::foreach_clip_(&all, norm, self.clip).context("clipping the gradients")?;
        }
        let mut first = 0;
        for (group, grads) in self.groups.iter_mut().zip(grads) {
            let masters: Vec<Tensor> = group.slots.iter().map(|s| s.master.detach()).collect();
            let list = |f: fn(&Slot) -> &Tensor| group.slots.iter().map(f).collect::<Vec<_>>();
            let lists = Lists {
                masters: &masters.iter().collect::<Vec<_>>(),
                grads: &grads.iter().collect::<Vec<_>>(),
                exp_avgs: &list(|s| &s.exp_avg),
                exp_avg_sqs: &list(|s| &s.exp_avg_sq),
                steps: &list(|s| &s.step),
            };
            let options = ovhost_torch::AdamWOptions {
                lr: group.lr * factor,
                beta1: self.betas[0],
                beta2: self.betas[1],
                weight_decay: group.weight_decay,
                eps: self.eps,
            };
            lists.update(options, left_out, self.moments, self.updates, first).context("AdamW")?;
            first += group.slots.len() as u64;
            for slot in &mut group.slots {
                if let Some(sum) = &mut slot.sum {
                    slot.param.detach().f_copy_(&slot.master)?;
                    let _ = sum.f_zero_()?;
                }
                slot.param.zero_grad();
            }
        }
        self.updates += 1;
        Ok(())
    }

    /// The state to save: `exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME` and, under bf16, `master.NAME`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        for slot in self.slots() {
            for (kind, tensor) in slot.tensors() {
                out.push((format!("{kind}.{}", slot.name), tensor.detach()));
            }
        }
        out
    }

    /// Restores what [`AdamW::state`] gave.
    ///
    /// # Errors
    /// Names a tensor that is missing, left over or of another shape.
    pub fn load_state(&mut self, mut saved: std::collections::HashMap<String, Tensor>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for slot in self.slots() {
            for (kind, tensor) in slot.tensors() {
                let key = format!("{kind}.{}", slot.name);
                let from = saved.remove(&key).with_context(|| format!("the optimiser state lacks {key}"))?;
                ensure!(
                    from.size() == tensor.size(),
                    "optimiser state {key} has shape {:?}, the model needs {:?}",
                    from.size(),
                    tensor.size()
                );
                tensor.detach().f_copy_(&from)?;
            }
        }
        if let Some(extra) = saved.keys().next() {
            anyhow::bail!("the optimiser state has {extra}, which this model does not train");
        }
        let step = self.slots().next().map_or(Ok(0.0), |slot| slot.step.f_double_value(&[]))?;
        self.updates = step as u64;
        Ok(())
    }
}

fn norm(grads: &[Vec<Tensor>]) -> Result<Tensor> {
    let all: Vec<&Tensor> = grads.iter().flatten().collect();
    ovhost_torch::foreach_norm(&all).context("norm of the gradients")
}

impl Slot {
    fn tensors(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        let master = self.sum.is_some().then_some(("master", &self.master));
        [("exp_avg", &self.exp_avg), ("exp_avg_sq", &self.exp_avg_sq), ("step", &self.step)].into_iter().chain(master)
    }
}
