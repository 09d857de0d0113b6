//! What a recipe may say, and what it comes to.

use std::borrow::Cow;

pub use ovhost_eval_scoring::profile::Profile;
use ovhost_eval_scoring::tags;
use ovhost_eval_scoring::texts::Texts;
use ovhost_sdk::prelude::*;

/// Configuration of every entry.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Which rules read and compare answers.
    pub profile: Profile,
    /// Pairs of tags whose contents are no part of an answer. The profile `paper-2025-09` strips none.
    pub reasoning_tags: Vec<[String; 2]>,
    /// Whether a judge is asked where the answer cannot be read without one. Without a judge such answers are unread, and
    /// wrong. Tasks that are all judged (CharXiv) cannot do without.
    pub judge: bool,
}

impl Default for Config {
    fn default() -> Self {
        let pair = |(open, close): (&str, &str)| [open.to_owned(), close.to_owned()];
        Self { profile: Profile::Fixed, reasoning_tags: tags::DEFAULT_PAIRS.map(pair).into(), judge: true }
    }
}

/// The configuration with its texts.
#[derive(Debug)]
pub struct Setup {
    /// As configured.
    pub config: Config,
    /// The asset `texts`; empty without it.
    pub texts: Texts,
}

/// The asset of others' texts.
pub const TEXTS: &str = "texts";

impl Setup {
    /// Checks the configuration; `judged` is a task whose every answer is judged.
    ///
    /// # Errors
    /// A tag that is empty, texts that are none, or too little for a judge.
    pub fn new(config: Config, assets: &Assets, judged: bool) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        for (i, pair) in config.reasoning_tags.iter().enumerate() {
            findings.require(pair.iter().all(|tag| !tag.is_empty()), &format!("/reasoning_tags/{i}"), || {
                "a tag is empty; a pair is an opening and a closing tag, as in [\"<think>\", \"</think>\"]".into()
            });
        }
        findings.require(config.judge || !judged, "/judge", || "every answer of this task is judged".into());
        let texts = match assets.bytes(TEXTS) {
            None => Texts::default(),
            Some(_) => Texts::parse(assets.text(TEXTS)?).unwrap_or_else(|message| {
                findings.require(false, "", || format!("the asset `{TEXTS}`: {message}"));
                Texts::default()
            }),
        };
        if config.profile != Profile::Fixed {
            if let Err(message) = texts.check() {
                findings.require(false, "", || format!("the asset `{TEXTS}`: {message}"));
            }
            findings.require(!judged || !texts.is_empty(), "/profile", || {
                format!(
                    "this profile asks the judge in the reference's words, which come as the asset `{TEXTS}`; bring it (README.md \
                     says how), or use the profile \"fixed\", which has words of its own"
                )
            });
        }
        findings.finish()?;
        Ok(Self { config, texts })
    }

    /// Whether mistakes are mended.
    pub fn mended(&self) -> bool {
        self.config.profile == Profile::Fixed
    }

    /// An answer without what was thought aloud, its ends stripped.
    pub fn without_tags<'a>(&self, answer: &'a str) -> Cow<'a, str> {
        let pairs = self.config.reasoning_tags.iter().map(|[open, close]| (open.as_str(), close.as_str()));
        match self.config.profile {
            Profile::Paper => ovhost_eval_scoring::python::text::strip(answer).into(),
            Profile::Fixed | Profile::LmmsEval => tags::strip_reasoning(answer, pairs),
        }
    }
}
