//! One record: whether its fields are of types that can be used, say something, and have a place for each picture.

use ovhost_data::columns::{ASSISTANT_ROLES, answers};
use ovhost_data::record::{Record, kind_of};
use serde_json::{Map, Value};

use super::report::Kind;

/// Where a picture stands in a text.
const PLACE: &str = "<image>";

/// The first thing that is wrong with a record, as far as it can be told without a prompt.
pub fn check(record: &Record) -> Result<(), (Kind, String)> {
    types(&record.fields).map_err(|reason| (Kind::JsonType, reason))?;
    if answers(&record.fields).iter().all(|a| a.trim().is_empty()) {
        let fields: Vec<&str> = record.fields.keys().map(String::as_str).take(8).collect();
        let reason = match record.fields.is_empty() {
            true => "it has no fields".to_owned(),
            false => format!("it has no answer, caption or text in its fields {}", fields.join(", ")),
        };
        return Err((Kind::MissingText, reason));
    }
    let (places, pictures) = (places(&record.fields), record.media.len());
    // Without any place the pictures come first.
    if places > 0 && places != pictures {
        return Err((Kind::Placeholder, format!("{PLACE} is there {places} times, and it has {pictures} pictures")));
    }
    Ok(())
}

/// Fields that mean something here must be of the types that they are read as.
fn types(fields: &Map<String, Value>) -> Result<(), String> {
    let wrong = |name: &str, value: &Value, want: &str| Err(format!("{name} is {}; it must be {want}", kind_of(value)));
    let present = |name: &str| fields.get(name).filter(|v| !v.is_null());
    for (list, role, content) in [("conversations", "from", "value"), ("messages", "role", "content")] {
        let Some(value) = present(list) else { continue };
        let Some(turns) = value.as_array() else { return wrong(list, value, "a list of turns") };
        for (i, turn) in turns.iter().enumerate() {
            let Some(turn) = turn.as_object() else { return wrong(&format!("{list}[{i}]"), turn, "an object") };
            let null = Value::Null;
            let of = |name: &str| turn.get(name).unwrap_or(&null);
            if !of(role).is_string() {
                return wrong(&format!("{list}[{i}].{role}"), of(role), "a string");
            }
            if !of(content).is_string() && !of(content).is_array() {
                return wrong(&format!("{list}[{i}].{content}"), of(content), "a string or a list of parts");
            }
        }
    }
    if let Some(value) = present("qa") {
        let Some(pairs) = value.as_array() else { return wrong("qa", value, "a list of pairs") };
        if let Some((i, pair)) = pairs.iter().enumerate().find(|(_, p)| !p.is_object()) {
            return wrong(&format!("qa[{i}]"), pair, "an object with question and answer");
        }
    }
    for name in ["question", "caption", "text"] {
        if let Some(value) = present(name).filter(|v| !v.is_string()) {
            return wrong(name, value, "a string");
        }
    }
    if let Some(value) = present("answer").filter(|v| v.is_object() || v.is_array()) {
        return wrong("answer", value, "a string or a number");
    }
    for name in ["answers", "captions"] {
        if let Some(value) = present(name).filter(|v| !v.is_array() && !v.is_string()) {
            return wrong(name, value, "a list");
        }
    }
    for name in ["image", "images"] {
        if let Some(value) = present(name).filter(|v| !v.is_array() && !v.is_string()) {
            return wrong(name, value, "a name or a list of names");
        }
    }
    Ok(())
}

/// Places of pictures in what is asked: in an answer `<image>` is only text.
fn places(fields: &Map<String, Value>) -> usize {
    let count = |text: &Value| text.as_str().map_or(0, |t| t.matches(PLACE).count());
    for (list, role, content) in [("conversations", "from", "value"), ("messages", "role", "content")] {
        let Some(turns) = fields.get(list).and_then(Value::as_array) else { continue };
        let part =
            |part: &Value| usize::from(["image", "image_url", "input_image"].iter().any(|t| part["type"] == **t));
        let one = |turn: &Value| match &turn[content] {
            Value::Array(parts) => parts.iter().map(part).sum(),
            _ if turn[role].as_str().is_some_and(|r| ASSISTANT_ROLES.contains(&r)) => 0,
            text => count(text),
        };
        return turns.iter().map(one).sum();
    }
    if let Some(pairs) = fields.get("qa").and_then(Value::as_array) {
        return pairs.iter().map(|pair| count(&pair["question"])).sum();
    }
    fields.get("question").map_or(0, count)
}

#[cfg(test)]
mod tests {
    use ovhost_data::record::Media;
    use serde_json::json;

    use super::*;

    fn found(fields: Value, pictures: usize) -> Option<(Kind, String)> {
        let Value::Object(fields) = fields else { panic!() };
        let media = Media { name: "png".into(), bytes: vec![].into(), size: 0, width: 1, height: 1 };
        let record = Record { fields, media: vec![media; pictures], ..Record::default() };
        check(&record).err()
    }

    #[test]
    fn what_the_prompts_take_is_clean_and_the_rest_has_its_kind() {
        let turn = |who: &str, text: &str| json!({"from": who, "value": text});
        let talk = |ask: &str, say: &str| json!({"conversations": [turn("human", ask), turn("gpt", say)]});
        let parts = json!([{"type": "image"}, {"type": "text", "text": "what is <image>?"}]);
        let clean = [
            (talk("<image>\nwhat?", "a cat"), 1),
            (talk("what?", "a cat"), 2),
            (talk("what?", "a tag: <image>"), 0),
            (json!({"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "x"}]}), 1),
            (json!({"qa": [{"question": "<image> a?", "answer": 3}, {"question": "b?", "answer": "c"}]}), 1),
            (json!({"question": "q", "answers": ["a", "a"]}), 1),
            (json!({"caption": "<image> is a word here"}), 1),
            (json!({"caption": "c", "messages": null}), 0),
        ];
        for (fields, pictures) in clean {
            assert_eq!(found(fields.clone(), pictures), None, "{fields}");
        }
        let faulty = [
            (talk("<image><image>", "x"), 1, Kind::Placeholder),
            (talk("<image>", "x"), 0, Kind::Placeholder),
            (talk("q", " "), 1, Kind::MissingText),
            (json!({"id": 3}), 1, Kind::MissingText),
            (json!({}), 1, Kind::MissingText),
            (json!({"conversations": "x"}), 0, Kind::JsonType),
            (json!({"conversations": ["x"]}), 0, Kind::JsonType),
            (json!({"messages": [{"role": 3, "content": "x"}]}), 0, Kind::JsonType),
            (json!({"messages": [{"role": "user"}]}), 0, Kind::JsonType),
            (json!({"qa": [3]}), 0, Kind::JsonType),
            (json!({"caption": ["a"]}), 0, Kind::JsonType),
            (json!({"question": "q", "answer": {"a": 1}}), 0, Kind::JsonType),
            (json!({"caption": "c", "images": 3}), 0, Kind::JsonType),
        ];
        for (fields, pictures, kind) in faulty {
            assert_eq!(found(fields.clone(), pictures).map(|(k, _)| k), Some(kind), "{fields}");
        }
    }
}
