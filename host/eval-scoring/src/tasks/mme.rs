//! MME: yes or no, two questions an image.

use std::collections::BTreeMap;

use crate::python::text;

/// The categories of perception; the others are cognition.
pub const PERCEPTION: [&str; 10] =
    ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"];
/// The categories of cognition.
pub const COGNITION: [&str; 4] =
    ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"];

fn plain(answer: &str) -> String {
    text::strip(&text::lower(answer)).replace('.', "")
}

/// "yes", "no" or "other": by what the first four characters hold.
pub fn parse(answer: &str) -> &'static str {
    let answer = plain(answer);
    let start: String = answer.chars().take(4).collect();
    match answer.as_str() {
        "yes" | "y" => "yes",
        "no" | "n" => "no",
        one if text::len(one) == 1 => "other",
        _ if start.contains("yes") => "yes",
        _ if start.contains("no") => "no",
        _ => "other",
    }
}

/// The mended reading: the only one of the words yes and no that is there.
pub fn parse_words(answer: &str) -> &'static str {
    let lowered = text::lower(answer);
    let mut words = lowered.split(|c: char| !c.is_alphanumeric());
    let (yes, no) = words.by_ref().fold((false, false), |(yes, no), word| (yes | (word == "yes"), no | (word == "no")));
    match (yes, no, plain(answer).as_str()) {
        (true, false, _) | (_, _, "y") => "yes",
        (false, true, _) | (_, _, "n") => "no",
        _ => "other",
    }
}

/// The metric that a category belongs to.
pub fn metric(category: &str) -> &'static str {
    if PERCEPTION.contains(&category) { "mme_perception_score" } else { "mme_cognition_score" }
}

/// Whether the answer is the gold one; `None` if the gold one is neither yes nor no.
pub fn score(gold: &str, parsed: &str) -> Option<f64> {
    let gold = plain(gold);
    matches!(gold.as_str(), "yes" | "no").then(|| if gold == parsed { 1.0 } else { 0.0 })
}

/// Scores of categories in the order in which they first come, 0 to 200: the mean over images of the share of right answers
/// and of the share of images with both right, each of 100. Rows are category, image, score.
///
/// # Errors
/// With `strict`, an image that does not have two answers. Without, such an image counts with what it has, and has never
/// both right.
pub fn categories<'a>(
    rows: impl IntoIterator<Item = (&'a str, &'a str, f64)>,
    strict: bool,
) -> Result<Vec<(&'a str, f64)>, String> {
    let mut images: Vec<(&str, BTreeMap<&str, Vec<f64>>)> = Vec::new();
    for (category, image, score) in rows {
        let at = images.iter().position(|(name, _)| *name == category).unwrap_or(images.len());
        if at == images.len() {
            images.push((category, BTreeMap::new()));
        }
        images[at].1.entry(image).or_default().push(score);
    }
    let mut scores = Vec::new();
    for (category, images) in images {
        let mut sum = 0.0;
        for (image, answers) in &images {
            if strict && answers.len() != 2 {
                return Err(format!(
                    "image `{image}` of `{category}` has {} answers; the score is of two",
                    answers.len()
                ));
            }
            let right: f64 = answers.iter().sum();
            let both = answers.len() == 2 && right == 2.0;
            sum += right / answers.len() as f64 * 100.0 + if both { 100.0 } else { 0.0 };
        }
        scores.push((category, sum / images.len() as f64));
    }
    Ok(scores)
}
