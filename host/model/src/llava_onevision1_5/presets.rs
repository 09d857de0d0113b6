//! The published sizes, by name.

use super::config::{ModelConfig, TextConfig, VisionConfig, VisionEps};

/// A published size of the dense model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Qwen2.5-3B decoder: tied head, biases on queries, keys and values, no query and key norms.
    B3,
    /// Qwen3-4B decoder.
    B4,
    /// Qwen3-8B decoder.
    B8,
    /// Qwen3-14B decoder.
    B14,
    /// Qwen3-32B decoder.
    B32,
}

impl Preset {
    /// Every size.
    pub const ALL: [Preset; 5] = [Preset::B3, Preset::B4, Preset::B8, Preset::B14, Preset::B32];

    /// The size's name, such as `4b`.
    pub fn name(self) -> &'static str {
        match self {
            Preset::B3 => "3b",
            Preset::B4 => "4b",
            Preset::B8 => "8b",
            Preset::B14 => "14b",
            Preset::B32 => "32b",
        }
    }

    /// The size of that name; `None` if there is none.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name))
    }

    /// Its configuration, with the Hugging Face epsilons.
    pub fn config(self) -> ModelConfig {
        // layers, hidden, intermediate, query heads, key heads, rope base
        let (layers, hidden, ffn, heads, kv, theta) = match self {
            Preset::B3 => (36, 2048, 11_008, 16, 2, 1e6),
            Preset::B4 => (36, 2560, 9728, 32, 8, 5e6),
            Preset::B8 => (36, 4096, 12_288, 32, 8, 1e6),
            Preset::B14 => (40, 5120, 17_408, 40, 8, 1e6),
            Preset::B32 => (64, 5120, 25_600, 64, 8, 1e6),
        };
        let small = self == Preset::B3;
        let vision = VisionConfig {
            depth: 24,
            hidden_size: 1024,
            intermediate_size: 4096,
            num_heads: 16,
            in_channels: 3,
            patch_size: 14,
            spatial_merge_size: 2,
            initializer_range: 0.02,
            eps: VisionEps::HF,
        };
        let text = TextConfig {
            vocab_size: 151_936,
            hidden_size: hidden,
            intermediate_size: ffn,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv,
            head_dim: 128,
            rms_norm_eps: 1e-6,
            rope_theta: theta,
            max_position_embeddings: if small { 128_000 } else { 262_144 },
            initializer_range: 0.02,
            tie_word_embeddings: small,
            qkv_bias: small,
            output_bias: false,
            qk_norm: !small,
        };
        ModelConfig::new(vision, text, 151_655, 151_656, vec![151_645])
    }
}
