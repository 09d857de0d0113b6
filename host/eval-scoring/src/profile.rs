//! Which rules a task follows: a choice of its plugins' configuration.

/// Which rules prompts and metrics follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema))]
pub enum Profile {
    /// The reference's rules with what is known to be wrong mended; each plugin's page says what.
    #[default]
    #[cfg_attr(feature = "schema", serde(rename = "fixed"))]
    Fixed,
    /// The rules of lmms-eval at 75571cfe, mistakes included.
    #[cfg_attr(feature = "schema", serde(rename = "lmms-eval"))]
    LmmsEval,
    /// The rules of lmms-eval at 9b039225, with which LLaVA-OneVision-1.5's table was made.
    #[cfg_attr(feature = "schema", serde(rename = "paper-2025-09"))]
    Paper,
}

#[cfg(all(test, feature = "schema"))]
mod tests {
    use super::Profile;

    #[test]
    fn names_are_those_of_recipes() {
        for (profile, name) in
            [(Profile::Fixed, "fixed"), (Profile::LmmsEval, "lmms-eval"), (Profile::Paper, "paper-2025-09")]
        {
            assert_eq!(serde_json::to_value(profile).unwrap(), name);
            assert_eq!(serde_json::from_value::<Profile>(name.into()).unwrap(), profile);
        }
        assert_eq!(Profile::default(), Profile::Fixed);
    }
}
