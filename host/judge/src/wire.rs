//! Chat completions as they go over the wire: bodies of requests out, bodies of responses in.

use serde_json::{Map, Value, json};

use crate::error::NoText;
use crate::{AskError, Reply, Request};

/// Longest text of a server that an error repeats.
const SAID_CHARS: usize = 300;

/// The body of a request. `parameters` are merged over it: a null takes a key away.
pub(crate) fn body(model: &str, seed: i64, parameters: &Map<String, Value>, request: &Request, tokens: u32) -> Value {
    let messages: Vec<Value> =
        request.messages.iter().map(|(role, content)| json!({ "role": role, "content": content })).collect();
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), messages.into());
    body.insert("temperature".into(), 0.into());
    body.insert("seed".into(), seed.into());
    body.insert("max_tokens".into(), tokens.into());
    if request.json {
        body.insert("response_format".into(), json!({ "type": "json_object" }));
    }
    for (key, value) in parameters {
        match value {
            Value::Null => drop(body.shift_remove(key)),
            value => drop(body.insert(key.clone(), value.clone())),
        }
    }
    body.into()
}

/// What a successful response holds.
#[derive(Debug, PartialEq)]
pub(crate) struct Completion {
    /// The reply, or why it has no text; cut: with `tokens` 0, which the caller knows.
    pub text: Result<String, NoText>,
    /// Whether the length ended it.
    pub cut: bool,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// An error that came with status 200, as some gateways answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Hidden {
    pub status: u16,
    pub message: String,
}

/// Reads the body of a successful response.
pub(crate) fn completion(url: &str, body: &str) -> Result<Result<Completion, Hidden>, AskError> {
    let wrong = |why: String| AskError::Malformed { url: url.into(), why, seen: brief(body) };
    let value: Value = serde_json::from_str(body).map_err(|e| wrong(format!("not JSON: {e}")))?;
    let choice = value.pointer("/choices/0");
    if let Some(error) =
        [Some(&value), choice].into_iter().flatten().find_map(|v| v.get("error").filter(|e| !e.is_null()))
    {
        let status = error.get("code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok()).unwrap_or(200);
        return Ok(Err(Hidden { status, message: message(body) }));
    }
    let choice = choice.ok_or_else(|| wrong("it has no choices".into()))?;
    let said = choice.get("message").ok_or_else(|| wrong("its choice has no message".into()))?;
    let content = match said.get("content") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().filter_map(|p| p.get("text")?.as_str()).collect(),
        Some(other) => return Err(wrong(format!("its content is {other}, no text"))),
    };
    let finish = choice.get("finish_reason").and_then(Value::as_str).unwrap_or_default();
    let refusal = said.get("refusal").and_then(Value::as_str).filter(|r| !r.is_empty());
    let text = match (content.trim().is_empty(), refusal, finish) {
        (_, Some(refusal), _) => Err(NoText::Refused(brief(refusal))),
        (_, _, "content_filter") => Err(NoText::Filtered),
        (true, _, "length") => Err(NoText::Cut { tokens: 0 }),
        (true, _, finish) => Err(NoText::Silent { finish: finish.into() }),
        (false, _, _) => Ok(content),
    };
    let count = |key: &str| value.pointer(&format!("/usage/{key}")).and_then(Value::as_u64).unwrap_or(0);
    let (prompt_tokens, completion_tokens) = (count("prompt_tokens"), count("completion_tokens"));
    Ok(Ok(Completion { text, cut: finish == "length", prompt_tokens, completion_tokens }))
}

impl Completion {
    /// The reply of at most `tokens` tokens, with the tokens of the tries before it.
    pub fn reply(self, tokens: u32, prompt_before: u64, completion_before: u64) -> Result<Reply, AskError> {
        let prompt_tokens = self.prompt_tokens + prompt_before;
        let completion_tokens = self.completion_tokens + completion_before;
        match self.text {
            Ok(text) => Ok(Reply { text, prompt_tokens, completion_tokens }),
            Err(why) => {
                let why = if matches!(why, NoText::Cut { .. }) { NoText::Cut { tokens } } else { why };
                Err(AskError::NoText { why, prompt_tokens, completion_tokens })
            }
        }
    }
}

/// What a server says of an error: its JSON's message, else the beginning of its text.
pub(crate) fn message(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let of = |v: &Value| v.as_str().filter(|m| !m.is_empty()).map(str::to_owned);
    let places = ["/error/message", "/choices/0/error/message", "/error", "/message", "/detail", "/0/error/message"];
    let said = places.iter().find_map(|place| value.pointer(place).and_then(of));
    brief(&said.unwrap_or_else(|| body.to_owned()))
}

/// Whether more waiting cannot help although the status says so: the account is out of money.
pub(crate) fn out_of_quota(body: &str) -> bool {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    ["/error/code", "/error/type"]
        .iter()
        .any(|at| value.pointer(at).and_then(Value::as_str) == Some("insufficient_quota"))
}

/// The beginning of a text, on one line.
pub(crate) fn brief(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().filter(|c| !c.is_control()).take(SAID_CHARS).collect();
    if short.len() < line.len() { short + " …" } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Completion {
        completion("u", &body.to_string()).unwrap().unwrap()
    }

    #[test]
    fn parameters_are_merged_and_null_takes_away() {
        let request = Request { messages: vec![("user".into(), "hi".into())], max_tokens: 9, json: true };
        let plain = body("m", 42, &Map::new(), &request, 9);
        let messages = json!([{"role": "user", "content": "hi"}]);
        let format = json!({"type": "json_object"});
        let whole = json!({"model": "m", "messages": messages, "temperature": 0, "seed": 42, "max_tokens": 9, "response_format": format});
        assert_eq!(plain, whole);
        let Value::Object(parameters) = json!({"seed": null, "max_tokens": null, "max_completion_tokens": 70}) else {
            panic!()
        };
        let changed = body("m", 42, &parameters, &request, 9);
        let whole = json!({"model": "m", "messages": messages, "temperature": 0, "response_format": format, "max_completion_tokens": 70});
        assert_eq!(changed, whole);
    }

    #[test]
    fn replies_without_text_say_why() {
        let of = |message: Value, finish: &str| {
            read(json!({"choices": [{"message": message, "finish_reason": finish}]})).text.unwrap_err()
        };
        assert_eq!(of(json!({"content": null, "refusal": "I can't"}), "stop"), NoText::Refused("I can't".into()));
        assert_eq!(of(json!({"content": "1", "refusal": "I can't"}), "stop"), NoText::Refused("I can't".into()));
        assert_eq!(of(json!({"content": ""}), "content_filter"), NoText::Filtered);
        assert_eq!(of(json!({"content": " \n"}), "length"), NoText::Cut { tokens: 0 });
        assert_eq!(of(json!({}), "stop"), NoText::Silent { finish: "stop".into() });
    }

    #[test]
    fn what_is_no_completion_is_named_with_its_beginning() {
        for (text, why) in [
            ("<html>sign in</html>", "not JSON"),
            ("{\"choices\": []}", "no choices"),
            ("{\"choices\": [{}]}", "no message"),
            ("{\"choices\": [{\"message\": {\"content\": 4}}]}", "content is 4"),
            ("{\"choices\": [{\"message\": {\"cont", "not JSON"),
            ("", "not JSON"),
        ] {
            let error = completion("http://u", text).unwrap_err().to_string();
            assert!(
                error.contains(why) && error.contains("http://u") && error.contains("check the address"),
                "{error}"
            );
        }
        let parts =
            read(json!({"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}]}));
        assert_eq!(parts.text.unwrap(), "ab");
    }

    #[test]
    fn errors_with_status_200_are_errors() {
        let hidden = completion("u", r#"{"error": {"code": 429, "message": "slow down"}}"#).unwrap().unwrap_err();
        assert_eq!(hidden, Hidden { status: 429, message: "slow down".into() });
        let hidden = completion("u", r#"{"choices": [{"error": {"message": "broke"}}]}"#).unwrap().unwrap_err();
        assert_eq!(hidden, Hidden { status: 200, message: "broke".into() });
    }

    #[test]
    fn messages_of_servers() {
        assert_eq!(message(r#"{"error": {"message": "no such model"}}"#), "no such model");
        assert_eq!(message(r#"{"object": "error", "message": "too long"}"#), "too long");
        assert_eq!(message(r#"{"detail": "Not Found"}"#), "Not Found");
        assert_eq!(message("<h1>Bad\n Gateway</h1>"), "<h1>Bad Gateway</h1>");
        assert!(message(&"x ".repeat(1000)).chars().count() <= SAID_CHARS + 2);
    }
}
