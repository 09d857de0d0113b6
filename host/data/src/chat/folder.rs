//! Reads a tokenizer folder: files in, a [`ChatTokenizer`] out. Also the clock that templates may ask for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::plan::{PartKind, Plan, Shape};
use super::template::ChatTemplate;
use super::words::Words;
use super::{ChatError, ChatTokenizer, IMAGE_PAD, Special, Specials, VISION_END, VISION_START};

fn file_error(path: &Path, problem: impl Into<String>) -> ChatError {
    ChatError::File { path: path.display().to_string(), problem: problem.into() }
}

/// A JSON object file; `None` where there is none.
fn json(path: &Path) -> Result<Option<Map<String, Value>>, ChatError> {
    match std::fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => Ok(Some(map)),
            Ok(_) => Err(file_error(path, "it holds no JSON object")),
            Err(e) => Err(file_error(path, format!("it is not valid JSON: {e}"))),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file_error(path, format!("cannot be read: {e}"))),
    }
}

pub(super) fn load(dir: &Path) -> Result<ChatTokenizer, ChatError> {
    let path = dir.join("tokenizer.json");
    let bytes = std::fs::read(&path).map_err(|e| {
        file_error(
            &path,
            format!("cannot be read ({e}); a model or tokenizer folder holds tokenizer.json, as transformers' save_pretrained writes it"),
        )
    })?;
    let mut tokenizer =
        Tokenizer::from_bytes(&bytes).map_err(|e| file_error(&path, format!("it is not a tokenizer file: {e}")))?;
    // Lengths are checked against the capacity; nothing may be cut or padded behind our back.
    tokenizer.with_truncation(None).map_err(|e| file_error(&path, e.to_string()))?;
    tokenizer.with_padding(None);
    tokenizer.set_encode_special_tokens(true);

    let config = json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
    let model = json(&dir.join("config.json"))?.unwrap_or_default();
    let generation = json(&dir.join("generation_config.json"))?.unwrap_or_default();
    let mut specials = specials(&tokenizer, &config, &model, &generation, &path)?;
    check_pieces(&tokenizer, &specials, &path)?;

    let mut template = match template_source(dir, &config)? {
        Some((source, origin)) => {
            Some(ChatTemplate::new(&source, &origin.display().to_string(), template_vars(&config), &specials)?)
                .map(|t| (t, source))
        }
        None => None,
    };
    if let Some((template, _)) = &mut template {
        specials.end_of_turn = settle(template, &specials);
        if let Some(id) = specials.end_of_turn.filter(|id| !specials.eos.contains(id)) {
            specials.eos.push(id);
        }
    }
    let mut hash = Sha256::new();
    hash.update(&bytes);
    if let Some((template, source)) = &template {
        hash.update(source.as_bytes());
        hash.update(serde_json::to_vec(&template.vars).unwrap_or_default());
    }
    let fingerprint = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    let template = template.map(|(t, _)| t);
    let words = Words::of(&tokenizer);
    Ok(ChatTokenizer { tokenizer, template, specials, fingerprint, plans: RwLock::new(HashMap::new()), words })
}

/// Finds the variables under which training and generation agree, and the end-of-turn token. Hybrid reasoning templates
/// open an empty thinking block in training; `enable_thinking = false` makes generation do the same.
fn settle(template: &mut ChatTemplate, specials: &Specials) -> Option<u32> {
    let text: &[PartKind] = &[PartKind::Text];
    let probe = Shape::probe(&[("user", text, false), ("assistant", text, true)], false);
    if let Ok(plan) = Plan::build(template, specials, &probe) {
        return plan.end_of_turn();
    }
    template.vars.insert("enable_thinking".into(), Value::Bool(false));
    if let Ok(plan) = Plan::build(template, specials, &probe) {
        return plan.end_of_turn();
    }
    // Not fatal: a text-only or generation-only use may still work, and each sample's error says what is wrong.
    template.vars.remove("enable_thinking");
    None
}

fn specials(
    tokenizer: &Tokenizer,
    config: &Map<String, Value>,
    model: &Map<String, Value>,
    generation: &Map<String, Value>,
    path: &Path,
) -> Result<Specials, ChatError> {
    let mut all: Vec<Special> = tokenizer
        .get_added_tokens_decoder()
        .into_iter()
        .filter(|(_, token)| token.special && !token.content.is_empty())
        .map(|(id, token)| Special { text: token.content, id, lstrip: token.lstrip, rstrip: token.rstrip })
        .collect();
    all.sort_by(|a, b| b.text.len().cmp(&a.text.len()).then(a.id.cmp(&b.id)));
    // The model's own ids win over the usual names.
    let by_config = |key: &str, name: &str| -> Result<Option<u32>, ChatError> {
        let named = all.iter().find(|s| s.text == name).map(|s| s.id);
        let Some(id) = model.get(key).and_then(Value::as_u64) else { return Ok(named) };
        match all.iter().find(|s| u64::from(s.id) == id) {
            Some(special) => Ok(Some(special.id)),
            None => Err(file_error(
                path,
                format!(
                    "config.json says {key} = {id}, which is not a special token of this tokenizer ({name} is {named:?}); \
                     use the tokenizer that belongs to the model"
                ),
            )),
        }
    };
    let image_pad = by_config("image_token_id", IMAGE_PAD)?;
    let vision_start = by_config("vision_start_token_id", VISION_START)?;
    let vision_end = by_config("vision_end_token_id", VISION_END)?;

    let named = |key: &str| token_text(config.get(key)).and_then(|text| tokenizer.token_to_id(&text));
    let listed = |map: &Map<String, Value>| match map.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
        Some(value) => value.as_u64().into_iter().collect::<Vec<_>>(),
        None => Vec::new(),
    };
    let text_config = model.get("text_config").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut eos: Vec<u32> = Vec::new();
    for ids in [listed(generation), listed(model), listed(&text_config)] {
        // The first file that says anything decides, as in transformers.
        if !ids.is_empty() {
            eos.extend(ids.into_iter().filter_map(|id| u32::try_from(id).ok()));
            break;
        }
    }
    if let Some(id) = named("eos_token").filter(|id| !eos.contains(id)) {
        eos.push(id);
    }
    Ok(Specials { all, image_pad, vision_start, vision_end, eos, pad: named("pad_token"), end_of_turn: None })
}

/// `"text"` or `{"content": "text", …}`.
fn token_text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Object(map) => map.get("content").and_then(Value::as_str).map(str::to_string),
        _ => None,
    }
}

/// Named special tokens are variables of the template, as `transformers` passes them.
fn template_vars(config: &Map<String, Value>) -> Map<String, Value> {
    let names = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
    names.iter().filter_map(|name| Some((name.to_string(), Value::String(token_text(config.get(*name))?)))).collect()
}

/// The template's text and the file it came from, in transformers' order.
fn template_source(dir: &Path, config: &Map<String, Value>) -> Result<Option<(String, PathBuf)>, ChatError> {
    let path = dir.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(Some((text, path))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(file_error(&path, format!("cannot be read: {e}"))),
    }
    let path = dir.join("chat_template.json");
    if let Some(Value::String(text)) = json(&path)?.and_then(|mut map| map.remove("chat_template")) {
        return Ok(Some((text, path)));
    }
    let path = dir.join("tokenizer_config.json");
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some((text.clone(), path))),
        Some(Value::Array(list)) => {
            let named = |name: &str| list.iter().find(|t| t.get("name").and_then(Value::as_str) == Some(name));
            let text = named("default").and_then(|t| t.get("template")).and_then(Value::as_str);
            match text {
                Some(text) => Ok(Some((text.to_string(), path))),
                None => Err(file_error(&path, "its chat_template list has no entry named \"default\"; name one so")),
            }
        }
        Some(_) => Err(file_error(&path, "chat_template must be a string or a list of {name, template}")),
    }
}

/// Cutting at special tokens must not change the pieces: a tokenizer that puts a space before each piece would.
fn check_pieces(tokenizer: &Tokenizer, specials: &Specials, path: &Path) -> Result<(), ChatError> {
    let Some(special) = specials.all.iter().find(|s| !s.lstrip && !s.rstrip) else { return Ok(()) };
    let mut whole = tokenizer.clone();
    whole.set_encode_special_tokens(false);
    let ids = |tokenizer: &Tokenizer, text: &str| {
        let encoding = tokenizer.encode_fast(text, false);
        encoding.map(|e| e.get_ids().to_vec()).map_err(|e| file_error(path, format!("the tokenizer failed: {e}")))
    };
    let (before, after) = ("user\nWhat is it?", "\nA red Square\n");
    let expected = ids(&whole, &format!("{before}{}{after}", special.text))?;
    let pieces = [ids(tokenizer, before)?, vec![special.id], ids(tokenizer, after)?].concat();
    if pieces == expected {
        return Ok(());
    }
    Err(file_error(
        path,
        "its tokens depend on where a piece of text stands (a space is put before the first word, as in SentencePiece \
         tokenizers); ovhost needs a byte-level tokenizer such as Qwen's",
    ))
}

/// Seconds since 1970 that templates see: `SOURCE_DATE_EPOCH` where set, so that a dated template can be reproduced.
pub(super) fn now() -> i64 {
    let set = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|s| s.trim().parse().ok());
    set.unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0))
    })
}

/// Python's `strftime` for the codes that chat templates use, in UTC.
pub(super) fn strftime(seconds: i64, format: &str) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, clock) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a proleptic Gregorian date, counted from 1 March of year 0 so that leap days come last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    let month_name = MONTHS[(month - 1) as usize];
    let day_name = DAYS[days.rem_euclid(7) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &format!("{:02}", year.rem_euclid(100)),
            Some('m') => out += &format!("{month:02}"),
            Some('d') => out += &format!("{day:02}"),
            Some('H') => out += &format!("{hour:02}"),
            Some('I') => out += &format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('M') => out += &format!("{minute:02}"),
            Some('S') => out += &format!("{second:02}"),
            Some('F') => out += &format!("{year}-{month:02}-{day:02}"),
            Some('T') => out += &format!("{hour:02}:{minute:02}:{second:02}"),
            Some('B') => out += month_name,
            Some('b') => out += &month_name[..3],
            Some('A') => out += day_name,
            Some('a') => out += &day_name[..3],
            Some('%') => out.push('%'),
            // Python leaves unknown codes alone on this platform.
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}
