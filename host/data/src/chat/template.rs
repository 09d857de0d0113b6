//! The Jinja chat template, rendered the way Hugging Face renders it, over sentinels in place of data.
//!
//! In: a [`Shape`]. Out: the rendered text as alternating markup and sentinels. A sentinel is
//! `U+E000 <decimal ordinal> U+E001`; data text is put in after rendering, so whatever it holds is harmless.

use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde_json::{Map, json};

use super::plan::{PartKind, Shape};
use super::{ChatError, IMAGE_PAD, Specials, VISION_END, VISION_START};

const OPEN: char = '\u{E000}';
const CLOSE: char = '\u{E001}';
const NAME: &str = "chat";

/// A compiled chat template.
pub(super) struct ChatTemplate {
    env: Environment<'static>,
    /// File that it came from, for messages.
    pub origin: String,
    /// Whether it takes content as a list of parts and renders images itself.
    pub lists: bool,
    /// Further variables of the context (`eos_token`, `enable_thinking`).
    pub vars: Map<String, serde_json::Value>,
    image_markup: String,
}

/// A stretch of rendered text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stretch {
    Markup(String),
    /// Ordinal of the text part in the conversation.
    Data(usize),
}

impl ChatTemplate {
    /// Compiles `source` and finds out how it takes images. `vars` are the folder's special tokens by name.
    pub fn new(
        source: &str,
        origin: &str,
        vars: Map<String, serde_json::Value>,
        specials: &Specials,
    ) -> Result<Self, ChatError> {
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        let now = super::folder::now();
        env.add_function("strftime_now", move |format: String| super::folder::strftime(now, &format));
        env.add_filter("tojson", tojson);
        env.add_template_owned(NAME, without_generation_tags(source)).map_err(|e| ChatError::Template {
            origin: origin.into(),
            problem: format!("it does not compile: {e:#}"),
        })?;
        let name = |id: Option<u32>, fallback: &str| {
            let found = id.and_then(|id| specials.all.iter().find(|s| s.id == id));
            found.map_or_else(|| fallback.to_string(), |s| s.text.clone())
        };
        let pad = name(specials.image_pad, IMAGE_PAD);
        let image_markup =
            [name(specials.vision_start, VISION_START), pad.clone(), name(specials.vision_end, VISION_END)].concat();
        let mut template = Self { env, origin: origin.into(), lists: true, vars, image_markup };
        // A template made for text prints or refuses a list; only one that writes the pad itself takes lists.
        let probe = Shape::probe(&[("user", &[PartKind::Image, PartKind::Text], false)], false);
        let takes_lists = template
            .render(&probe)
            .is_ok_and(|text| text.contains(&pad) && split(&text).is_ok_and(|s| s.contains(&Stretch::Data(0))));
        template.lists = takes_lists;
        Ok(template)
    }

    /// The rendered text of a shape, sentinels in it.
    fn render(&self, shape: &Shape) -> Result<String, ChatError> {
        let mut ordinal = 0;
        let mut messages = Vec::with_capacity(shape.turns.len());
        for turn in &shape.turns {
            let mut list = Vec::with_capacity(turn.parts.len());
            let mut string = String::new();
            for part in &turn.parts {
                match part {
                    PartKind::Text => {
                        let sentinel = format!("{OPEN}{ordinal}{CLOSE}");
                        ordinal += 1;
                        string.push_str(&sentinel);
                        list.push(json!({"type": "text", "text": sentinel}));
                    }
                    PartKind::Image => {
                        string.push_str(&self.image_markup);
                        list.push(json!({"type": "image"}));
                    }
                }
            }
            // Text alone goes in as a string: every template takes that, and both forms give the same text.
            let content = if self.lists && turn.parts.contains(&PartKind::Image) { json!(list) } else { json!(string) };
            messages.push(json!({"role": turn.role, "content": content}));
        }
        let mut context = self.vars.clone();
        context.insert("messages".into(), json!(messages));
        context.insert("add_generation_prompt".into(), json!(shape.generate));
        for absent in ["tools", "documents"] {
            context.entry(absent).or_insert(serde_json::Value::Null);
        }
        let template = self.env.get_template(NAME).map_err(|e| self.problem(format!("{e:#}")))?;
        template.render(Value::from_serialize(&context)).map_err(|e| {
            let roles: Vec<&str> = shape.turns.iter().map(|t| t.role.as_str()).collect();
            let detail = e.detail().map_or_else(|| format!("{e:#}"), str::to_string);
            self.problem(format!("it cannot render a conversation of roles [{}]: {detail}", roles.join(", ")))
        })
    }

    /// Renders a shape and splits the result. Every text part must appear exactly once.
    pub fn stretches(&self, shape: &Shape) -> Result<Vec<Stretch>, ChatError> {
        let text = self.render(shape)?;
        let stretches = split(&text).map_err(|e| self.problem(e))?;
        let mut seen = vec![0usize; shape.texts()];
        for stretch in &stretches {
            if let Stretch::Data(i) = stretch {
                match seen.get_mut(*i) {
                    Some(count) => *count += 1,
                    None => return Err(self.problem("it writes private-use characters of its own".to_string())),
                }
            }
        }
        if let Some(part) = seen.iter().position(|n| *n != 1) {
            let (message, role) = shape.owner_of_text(part);
            return Err(self.problem(format!(
                "it writes the text of message {message} (role {role}) {} times instead of once; use roles that it knows",
                seen[part]
            )));
        }
        Ok(stretches)
    }

    pub fn problem(&self, problem: impl Into<String>) -> ChatError {
        ChatError::Template { origin: self.origin.clone(), problem: problem.into() }
    }
}

/// Cuts rendered text at the sentinels.
fn split(text: &str) -> Result<Vec<Stretch>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(OPEN) {
        if open > 0 {
            out.push(Stretch::Markup(rest[..open].to_string()));
        }
        let body = &rest[open + OPEN.len_utf8()..];
        let close = body.find(CLOSE).ok_or("it cut a message's text apart")?;
        out.push(Stretch::Data(body[..close].parse().map_err(|_| "it altered a message's text")?));
        rest = &body[close + CLOSE.len_utf8()..];
    }
    if !rest.is_empty() {
        out.push(Stretch::Markup(rest.to_string()));
    }
    Ok(out)
}

/// `{% generation %}` blocks only mark assistant text for another trainer; an `if` keeps their white-space control.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start..start + length + 2];
        out.push_str(&rest[..start]);
        let inner = tag.trim_start_matches("{%").trim_end_matches("%}");
        match inner.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace()) {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}

/// `json.dumps(x, ensure_ascii=False)` as Hugging Face overrides Jinja's filter: nothing is escaped for HTML.
fn tojson(value: Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let bad = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    match indent {
        Some(n) => {
            let spaces = " ".repeat(n);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            serde::Serialize::serialize(&value, &mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
        None => serde::Serialize::serialize(&value, &mut serde_json::Serializer::with_formatter(&mut out, PythonJson)),
    }
    .map_err(bad)?;
    Ok(Value::from(String::from_utf8_lossy(&out).into_owned()))
}

/// Python's default separators: `", "` and `": "`.
struct PythonJson;

impl serde_json::ser::Formatter for PythonJson {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}
