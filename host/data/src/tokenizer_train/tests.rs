//! The trained folder: deterministic, loadable, complete.

use tokenizers::Tokenizer;

use super::*;

fn texts() -> Vec<String> {
    let base =
        ["What colour is the square?", "a red square and a blue circle", "Is there 12 squares?\n\nYes, it's so."];
    base.iter().cycle().take(60).enumerate().map(|(i, s)| format!("{s} {}", i % 7)).collect()
}

#[test]
fn same_texts_same_bytes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let facts = train_bpe(texts().into_iter(), 300, a.path()).unwrap();
    train_bpe(texts().into_iter().rev(), 300, b.path()).unwrap();
    assert_eq!(facts.vocab_size, 300);
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"] {
        assert_eq!(std::fs::read(a.path().join(name)).unwrap(), std::fs::read(b.path().join(name)).unwrap(), "{name}");
    }
}

#[test]
fn round_trips_and_keeps_special_tokens_last() {
    let dir = tempfile::tempdir().unwrap();
    train_bpe(texts().into_iter(), 300, dir.path()).unwrap();
    let tokenizer = Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
    for (i, token) in SPECIAL_TOKENS.iter().enumerate() {
        assert_eq!(tokenizer.token_to_id(token), Some(292 + i as u32));
    }
    for text in ["What colour is the square?", "unseen: Ünïcode 漢字 🙂\t\r\n  end ", "it'S 3.14"] {
        let ids = tokenizer.encode_fast(text, false).unwrap();
        assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text);
    }
    // Learnt, not only bytes.
    assert!(tokenizer.encode_fast("What colour is the square?", false).unwrap().len() < 16);
}

/// The library's trainer counts the same pairs; on text without ambiguous merges the results are equal.
#[test]
fn agrees_with_the_library_trainer() {
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    let (words, _) = count_words(texts().into_iter()).unwrap();
    let alphabet = byte_alphabet();
    let ours = learn_merges(&words, &alphabet, 300);
    let mut trainer = BpeTrainer::builder()
        .vocab_size(300)
        .show_progress(false)
        .initial_alphabet(alphabet.iter().copied().collect())
        .build();
    let all: Vec<String> = words.iter().flat_map(|(w, n)| std::iter::repeat_n(w.clone(), *n as usize)).collect();
    use tokenizers::Trainer;
    trainer.feed(all.iter(), |w| Ok(vec![w.to_string()])).unwrap();
    let mut model = BPE::default();
    trainer.train(&mut model).unwrap();
    let theirs: BTreeMap<u32, String> = model.get_vocab().into_iter().map(|(t, i)| (i, t)).collect();
    assert_eq!(ours.tokens, theirs.into_values().collect::<Vec<_>>());
}

#[test]
fn one_text_by_two_ways_is_one_id() {
    let words: BTreeMap<String, u64> =
        [("abc", 5), ("ab", 9), ("bcx", 9), ("abcabc", 4), ("aab", 1)].map(|(w, n)| (w.to_string(), n)).into();
    let alphabet: Vec<char> = "abcx".chars().collect();
    let learnt = learn_merges(&words, &alphabet, 100);
    let mut unique = learnt.tokens.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), learnt.tokens.len());
    let mut merges = learnt.merges.clone();
    merges.sort();
    merges.dedup();
    assert_eq!(merges.len(), learnt.merges.len());
}

#[test]
fn says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let small = train_bpe(texts().into_iter(), 100, dir.path()).unwrap_err().to_string();
    assert!(small.contains("100") && small.contains("264"), "{small}");
    assert!(matches!(train_bpe(std::iter::empty(), 300, dir.path()), Err(TrainTokenizerError::NoText)));
}
