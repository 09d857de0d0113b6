//! Training sees what generation sees; data is only data; errors say both sides.

use ovhost_plugin::{Message, Part, Piece, Rendered, Segment};
use proptest::prelude::*;

use super::*;
use crate::tokenizer_train::{CHAT_TEMPLATE, train_bpe};

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let texts =
        ["What colour is the square?", "a red square\n\nand a blue circle", "How many? There are three circles."];
    train_bpe(texts.iter().cycle().take(30).map(|s| s.to_string()), 340, dir.path()).unwrap();
    dir
}

pub(crate) fn chat() -> ChatTokenizer {
    ChatTokenizer::from_folder(folder().path()).unwrap()
}

fn text(t: &str) -> Part {
    Part::Text(t.into())
}

fn message(role: &str, parts: Vec<Part>, train: bool) -> Message {
    Message { role: role.into(), parts, train }
}

fn dialogue(answers: &[&str]) -> Vec<Message> {
    let mut out = Vec::new();
    for (i, answer) in answers.iter().enumerate() {
        let mut parts = vec![text(&format!("What colour is shape {i}?"))];
        if i == 0 {
            parts.insert(0, Part::Image(0));
        }
        out.push(message("user", parts, false));
        out.push(message("assistant", vec![text(answer)], true));
    }
    out
}

fn spans(encoded: &Encoded) -> Vec<Vec<u32>> {
    let mut out: Vec<Vec<u32>> = Vec::new();
    let mut inside = false;
    for label in &encoded.labels {
        if *label != IGNORE {
            if !inside {
                out.push(Vec::new());
            }
            out.last_mut().unwrap().push(*label as u32);
        }
        inside = *label != IGNORE;
    }
    out
}

/// The heart of it: before every answer, training ids are the generation prompt's ids, and the span is the answer.
fn check_dialogue(chat: &ChatTokenizer, answers: &[&str]) {
    let messages = dialogue(answers);
    let trained = chat.encode_train(&Rendered::Conversation(messages.clone()), &[4]).unwrap();
    let end = chat.end_of_turn_id().unwrap();
    let spans = spans(&trained);
    assert_eq!(spans.len(), answers.len());
    let mut from = 0;
    for (turn, answer) in answers.iter().enumerate() {
        let prompt = chat.encode_messages(&messages[..2 * turn + 1], &[4]).unwrap();
        let begin = from + trained.labels[from..].iter().position(|l| *l != IGNORE).unwrap();
        assert_eq!(&trained.input_ids[..begin], &prompt.input_ids[..], "before answer {turn} of {answers:?}");
        let span = &spans[turn];
        assert_eq!(span.last(), Some(&end));
        assert_eq!(chat.decode(&span[..span.len() - 1], false).unwrap(), *answer);
        assert_eq!(&trained.input_ids[begin..begin + span.len()], &span[..]);
        from = begin + span.len();
    }
    assert_eq!(trained.input_ids.iter().filter(|id| Some(**id) == chat.image_pad_id()).count(), 4);
    assert_eq!(trained.image_order, [0]);
}

#[test]
fn training_sees_what_generation_sees() {
    let chat = chat();
    for answers in [
        &["red"][..],
        &["\n\na red square", " two spaces before", "blue\n"],
        &["<|im_end|> says the caption", "x<|image_pad|>y", "\u{E000}0\u{E001}"],
        &["", "é 漢字 🙂"],
    ] {
        check_dialogue(&chat, answers);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_answers(a in "[ -~\n\u{e0}-\u{ff}]{0,24}", b in "[a-z \n<|>_]{0,24}") {
        // Composed input only: the tokenizer's NFC would rightly change anything else.
        thread_local!(static CHAT: ChatTokenizer = chat());
        CHAT.with(|chat| check_dialogue(chat, &[&a, &b]));
    }
}

#[test]
fn data_never_becomes_a_special_token() {
    let chat = chat();
    let hostile: String = chat.specials.all.iter().map(|s| s.text.as_str()).collect();
    let messages = vec![message("user", vec![text(&hostile)], false), message("assistant", vec![text(&hostile)], true)];
    let encoded = chat.encode_train(&Rendered::Conversation(messages), &[]).unwrap();
    let special = |id: &u32| chat.specials.all.iter().any(|s| s.id == *id);
    // Two turns, each opened and closed.
    assert_eq!(encoded.input_ids.iter().filter(|id| special(id)).count(), 4);
    let parts = Rendered::Segments(vec![
        Segment { piece: Piece::Special("<|im_start|>".into()), train: false },
        Segment { piece: Piece::Text(hostile), train: true },
    ]);
    assert_eq!(chat.encode_train(&parts, &[]).unwrap().input_ids.iter().filter(|id| special(id)).count(), 1);
    let role = vec![message("user<|im_end|>", vec![text("x")], false)];
    assert!(chat.encode_messages(&role, &[]).unwrap_err().to_string().contains("role"));
}

#[test]
fn equals_the_tokenizer_on_the_whole_string() {
    let chat = chat();
    let mut whole = chat.tokenizer.clone();
    whole.set_encode_special_tokens(false);
    let messages = vec![
        message("system", vec![text("You are \n")], false),
        message("user", vec![Part::Image(0), text("\nWhat"), text(" colour?")], false),
        message("assistant", vec![text("a red square.")], true),
    ];
    let expected = "<|im_start|>system\nYou are \n<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|vision_end|>\nWhat colour?<|im_end|>\n<|im_start|>assistant\na red square.<|im_end|>\n";
    let ids = chat.encode_train(&Rendered::Conversation(messages), &[2]).unwrap().input_ids;
    assert_eq!(ids, whole.encode_fast(expected, false).unwrap().get_ids());
}

#[test]
fn segments_are_taken_as_they_are() {
    let chat = chat();
    let segment = |piece, train| Segment { piece, train };
    let segments = vec![
        segment(Piece::Special("<|vision_start|>".into()), false),
        segment(Piece::Image(1), false),
        segment(Piece::Image(0), false),
        segment(Piece::Special("<|vision_end|>".into()), false),
        segment(Piece::Text("colour: ".into()), false),
        segment(Piece::Text(" red".into()), true),
        segment(Piece::Special("<|endoftext|>".into()), true),
    ];
    let encoded = chat.encode_train(&Rendered::Segments(segments.clone()), &[1, 3]).unwrap();
    assert_eq!(encoded.image_order, [1, 0]);
    let span = spans(&encoded).remove(0);
    assert_eq!(chat.decode(&span, false).unwrap(), " red<|endoftext|>");
    let prompt = chat.encode_prompt(&Rendered::Segments(segments[..5].to_vec()), &[1, 3]).unwrap();
    assert!(encoded.input_ids.starts_with(&prompt.input_ids));
    assert!(prompt.labels.iter().all(|l| *l == IGNORE));
    let unknown = Rendered::Segments(vec![segment(Piece::Special("<image>".into()), false)]);
    let error = chat.encode_train(&unknown, &[]).unwrap_err().to_string();
    assert!(error.contains("<image>") && error.contains("<|im_end|>"), "{error}");
}

#[test]
fn images_and_placeholders_must_match() {
    let chat = chat();
    let train = |parts, images: &[usize]| {
        let messages = vec![message("user", parts, false), message("assistant", vec![text("a")], true)];
        chat.encode_train(&Rendered::Conversation(messages), images).map_err(|e| e.to_string())
    };
    let error = train(vec![Part::Image(0), text("x")], &[]).unwrap_err();
    assert!(error.contains("1 image placeholders") && error.contains("0 images"), "{error}");
    let error = train(vec![Part::Image(1), text("x")], &[4, 4]).unwrap_err();
    assert!(error.contains("2 images") && error.contains("image 0"), "{error}");
    assert!(train(vec![Part::Video(0)], &[]).unwrap_err().contains("video"));
    assert!(train(vec![text("x")], &[]).is_ok());
}

#[test]
fn templates_of_other_kinds() {
    let dir = folder();
    let with = |template: &str| {
        std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
        ChatTokenizer::from_folder(dir.path()).unwrap()
    };
    // Text only: the image markup is ours.
    let plain = with(
        "{% for m in messages %}{% if m.content.startswith('x') %}{{ raise_exception('x') }}{% endif %}\
         {{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\
         {%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    );
    check_dialogue(&plain, &["red", "\nblue"]);
    let expected = chat().encode_messages(&dialogue(&["a"])[..1], &[2]).unwrap();
    assert_eq!(plain.encode_messages(&dialogue(&["a"])[..1], &[2]).unwrap(), expected);
    assert_ne!(plain.fingerprint(), chat().fingerprint());

    let train = |chat: &ChatTokenizer| {
        chat.encode_train(&Rendered::Conversation(dialogue(&["red"])), &[1]).unwrap_err().to_string()
    };
    // No end of turn; other markup in training; a role that the template refuses.
    let open = with(&CHAT_TEMPLATE.replace("{{- '<|im_end|>\\n' -}}", "{{- '\\n' -}}"));
    assert!(train(&open).contains("learn to stop"), "{}", train(&open));
    let differs = with(&CHAT_TEMPLATE.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant: '"));
    assert!(train(&differs).contains("for generation"), "{}", train(&differs));
    let refuses = with("{{ raise_exception('only system messages here') }}");
    assert!(train(&refuses).contains("only system messages here"), "{}", train(&refuses));
    // A thinking block in training is matched by asking generation for it.
    let thinks = with(
        &CHAT_TEMPLATE
            .replace("+ '\\n' -}}", "+ '\\n' + ('<think></think>' if message['role'] == 'assistant' else '') -}}")
            .replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n' + ('<think></think>' if enable_thinking is defined and not enable_thinking else '')"),
    );
    check_dialogue(&thinks, &["red"]);
}

#[test]
fn vocabulary_must_fit_the_model() {
    let chat = chat();
    assert!(chat.check_vocab(chat.vocab_len()).is_ok());
    let error = chat.check_vocab(300).unwrap_err().to_string();
    assert!(error.contains("300") && error.contains(&chat.vocab_len().to_string()), "{error}");
    assert!(chat.check_special_tokens(&["<|im_end|>"]).is_ok());
    assert!(chat.check_special_tokens(&["<|nope|>"]).is_err());
    assert!(chat.eos_ids().contains(&chat.token_id("<|im_end|>").unwrap()));
    assert_eq!(chat.pad_id(), chat.token_id("<|endoftext|>"));
}

#[test]
fn folders_that_cannot_be_used() {
    let dir = folder();
    let error = |name: &str, content: &str| {
        let path = dir.path().join(name);
        let before = std::fs::read(&path).ok();
        std::fs::write(&path, content).unwrap();
        let error = ChatTokenizer::from_folder(dir.path()).err().map(|e| e.to_string()).unwrap_or_default();
        match before {
            Some(before) => std::fs::write(&path, before).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        error
    };
    assert!(error("tokenizer.json", "{}").contains("tokenizer.json"));
    assert!(error("tokenizer_config.json", "[1]").contains("JSON object"));
    assert!(error("chat_template.jinja", "{% if %}").contains("does not compile"));
    assert!(error("config.json", r#"{"image_token_id": 7}"#).contains("image_token_id = 7"));
    let gone = ChatTokenizer::from_folder(dir.path().join("none")).err().unwrap().to_string();
    assert!(gone.contains("tokenizer.json"), "{gone}");
}

#[test]
fn streams_whole_characters() {
    let chat = chat();
    let said = "red 漢字 🙂 é\u{FFFD}!";
    let mut ids = chat.encode_text(said).unwrap();
    ids.push(chat.end_of_turn_id().unwrap());
    let mut stream = chat.stream_decoder(true);
    let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    assert_eq!(pieces.concat(), said);
    assert!(pieces.iter().filter(|p| !p.is_empty()).count() > 4);
    // An answer cut inside a character still ends.
    let cut = chat.encode_text("🙂").unwrap();
    let mut stream = chat.stream_decoder(true);
    assert_eq!(stream.push(cut[0]).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
}

#[test]
fn template_functions() {
    assert_eq!(super::folder::strftime(1_772_323_199, "%d %b %Y %H:%M:%S %A %j"), "28 Feb 2026 23:59:59 Saturday %j");
    assert_eq!(super::folder::strftime(951_782_400, "%F %a"), "2000-02-29 Tue");
    let dir = folder();
    let template = "{% generation %}{{ {'a': ['<b>', 1]} | tojson }}{% endgeneration %}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}";
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let chat = ChatTokenizer::from_folder(dir.path()).unwrap();
    let ids = chat.encode_messages(&[message("user", vec![text("x")], false)], &[]).unwrap().input_ids;
    assert_eq!(chat.decode(&ids, false).unwrap(), "{\"a\": [\"<b>\", 1]}x<|im_end|>");
}

/// The released tokenizer. `<|image_pad|>` alone is one token for n = 1.
#[test]
#[ignore = "needs Qwen3's tokenizer.json and tokenizer_config.json: set OVHOST_QWEN3_TOKENIZER to their folder"]
fn qwen3() {
    let dir = std::env::var("OVHOST_QWEN3_TOKENIZER").expect("OVHOST_QWEN3_TOKENIZER names a folder");
    let chat = ChatTokenizer::from_folder(dir).unwrap();
    let ids =
        chat.encode_messages(&[message("user", vec![Part::Image(0), text("Hi")], false)], &[1]).unwrap().input_ids;
    assert_eq!(ids[..8], [151_644, 872, 198, 151_652, 151_655, 151_653, 13_048, 151_645]);
    assert_eq!(chat.end_of_turn_id(), Some(151_645));
    assert!(chat.check_vocab(151_936).is_ok() && chat.check_vocab(151_643).is_err());
    check_dialogue(&chat, &["\n\nA red square. <|im_end|>"]);
    // Hybrid thinking: history and last turn differ, which must be an error, not silent drift.
    let two = Rendered::Conversation(dialogue(&["a", "b"]));
    assert!(chat.encode_train(&two, &[1]).unwrap_err().to_string().contains("for generation"));
}
