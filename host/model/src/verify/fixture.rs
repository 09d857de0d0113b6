//! What a fixture says beside its tensors: `expected.json`.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Expected {
    /// Picture files beside `expected.json`; image I of the tensors is entry I.
    #[serde(default)]
    pub(super) images: Vec<String>,
    #[serde(default)]
    sequences: Vec<SequenceText>,
    pub(super) packed: Option<Packed>,
    pub(super) adamw: Option<AdamWSteps>,
}

#[derive(Debug, Clone, Deserialize)]
struct SequenceText {
    #[serde(default)]
    images: Vec<usize>,
    learned_tokens: Option<i64>,
    prompt_length: Option<usize>,
    greedy: Option<Vec<i64>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Packed {
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct AdamWSteps {
    pub(super) lr: f64,
    pub(super) betas: [f64; 2],
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
    pub(super) clip_norm: f64,
    pub(super) steps: Vec<AdamWStep>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct AdamWStep {
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
}

impl Expected {
    /// The `expected.json` beside the tensors; none is fine.
    pub(super) fn beside(tensors: &Path) -> Result<Option<Self>> {
        let path = tensors.with_file_name("expected.json");
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|e| ModelError::Verify(format!("{}: {e}", path.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(ModelError::io(&path, e)),
        }
    }
}

/// One sequence of the fixture.
pub(super) struct Sequence {
    pub(super) ids: Vec<i64>,
    pub(super) labels: Option<Vec<i64>>,
    pub(super) images: Vec<usize>,
    pub(super) learnt: Option<i64>,
    pub(super) prompt_length: usize,
    pub(super) greedy: Option<Vec<i64>>,
}

impl Sequence {
    pub(super) fn new(
        number: usize,
        ids: Vec<i64>,
        labels: Option<Vec<i64>>,
        expected: Option<&Expected>,
        images: usize,
    ) -> Result<Self> {
        let text = expected.and_then(|e| e.sequences.get(number));
        let chosen = text.map(|t| t.images.clone()).unwrap_or_default();
        let wrong = |what: String| ModelError::Verify(format!("expected.json: sequence {number}: {what}"));
        if let Some(bad) = chosen.iter().find(|&&i| i >= images) {
            return Err(wrong(format!(
                "names image {bad}, but there are image.0 to image.{}",
                images.saturating_sub(1)
            )));
        }
        let prompt_length = text.and_then(|t| t.prompt_length).unwrap_or(ids.len());
        if prompt_length == 0 || prompt_length > ids.len() {
            return Err(wrong(format!("prompt_length {prompt_length} of {} tokens", ids.len())));
        }
        Ok(Sequence {
            labels,
            images: chosen,
            learnt: text.and_then(|t| t.learned_tokens),
            prompt_length,
            greedy: text.and_then(|t| t.greedy.clone()),
            ids,
        })
    }
}

/// Numbers N for which a tensor `PREFIX.N.*` exists, sorted.
pub(super) fn indices(file: &Checkpoint, prefix: &str) -> Vec<usize> {
    let number = |name: &str| name.strip_prefix(prefix)?.strip_prefix('.')?.split('.').next()?.parse().ok();
    file.names().filter_map(number).collect::<BTreeSet<usize>>().into_iter().collect()
}
