//! Saved answers to benchmarks, made up: records with the benchmarks' fields and answers as models give them, the same from the same
//! seed. Sizes are the benchmarks' own, twice over, as of two checkpoints; MME-RealWorld makes the sum round.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Value, json};

use crate::filter::WORDS;

/// One checkpoint's answers to one task.
pub struct Answers {
    /// The task's name in lmms-eval. MMMU's open questions are a task of their own here.
    pub task: &'static str,
    /// The entry of the metric plugin.
    pub entry: &'static str,
    /// A JSON object a line: `task`, `record`, `prediction`.
    pub lines: String,
    /// How many.
    pub rows: usize,
}

type Make = fn(&mut ChaCha8Rng, usize) -> Vec<(Value, String)>;

/// Task, entry, rows of one checkpoint, what makes them.
const TASKS: [(&str, &str, usize, Make); 13] = [
    ("mmmu_val", "mmmu", 847, mmmu),
    ("mmmu_val (open)", "mmmu", 53, mmmu_open),
    ("mmmu_pro_standard", "mmmu_pro", 1_730, mmmu_pro),
    ("mmbench_en_dev_static", "mmbench", 4_329, mmbench),
    ("mmerealworld", "mmerealworld", 22_798, mmerealworld),
    ("ai2d", "ai2d", 3_088, ai2d),
    ("vstar_bench", "vstar", 191, vstar),
    ("chartqa", "chartqa", 2_500, chartqa),
    ("docvqa_val", "docvqa", 5_349, docvqa),
    ("mathvista_testmini_format", "mathvista", 1_000, mathvista),
    ("mmstar", "mmstar", 1_500, mmstar),
    ("scienceqa", "scienceqa", 4_241, scienceqa),
    ("mme", "mme", 2_374, mme),
];

/// 100,000 answers.
pub fn make() -> Vec<Answers> {
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let mut all = Vec::new();
    for _checkpoint in 0..2 {
        for (task, entry, rows, make) in TASKS {
            let mut lines = String::new();
            for (record, prediction) in make(&mut random, rows) {
                lines += &json!({ "task": task, "record": record, "prediction": prediction }).to_string();
                lines.push('\n');
            }
            all.push(Answers { task, entry, lines, rows });
        }
    }
    all
}

fn words(random: &mut ChaCha8Rng, from: usize, to: usize) -> String {
    let count = random.random_range(from..=to);
    (0..count).map(|_| *pick(random, &WORDS)).collect::<Vec<_>>().join(" ")
}

fn pick<'a, T>(random: &mut ChaCha8Rng, of: &'a [T]) -> &'a T {
    of.choose(random).expect("lists here are not empty")
}

fn options(random: &mut ChaCha8Rng, count: usize) -> Vec<String> {
    // Numbered, so that no two are alike.
    (0..count).map(|i| format!("{} {}", words(random, 1, 4), i + 1)).collect()
}

fn letter(index: usize) -> char {
    char::from(b'A' + index as u8)
}

/// An answer to a question with letters, right two times of three. `long`: the share in percent of answers that reason first.
fn chosen(random: &mut ChaCha8Rng, gold: usize, options: &[String], long: u32) -> String {
    let index = if random.random_range(0..3) < 2 { gold } else { random.random_range(0..options.len()) };
    let (letter, text) = (letter(index), &options[index]);
    if random.random_range(0..100) < long {
        let thought = words(random, 30, 120);
        return match random.random_range(0..3) {
            0 => {
                format!("To answer this, look at the picture: {thought}. Therefore, the correct answer is ({letter}).")
            }
            1 => format!("<think>{thought}, so it is {letter}.</think>\n\n{letter}"),
            _ => format!("The picture shows {thought}.\n\nSo the answer is {letter}. {text}"),
        };
    }
    match random.random_range(0..100) {
        0..60 => letter.to_string(),
        60..75 => format!("{letter}."),
        75..87 => format!("{letter}. {text}"),
        87..91 => format!("({letter})"),
        91..95 => format!("The answer is {letter}."),
        95..99 => text.clone(),
        _ => "cannot be told".into(),
    }
}

const SUBJECTS: [(&str, &str); 6] = [
    ("Art_Theory", "Art Theory"),
    ("Accounting", "Accounting"),
    ("Physics", "Physics"),
    ("Pharmacy", "Pharmacy"),
    ("History", "History"),
    ("Computer_Science", "Computer Science"),
];

/// A list as Python writes it, which is how MMMU holds its options.
fn python_list(options: &[String]) -> String {
    format!("[{}]", options.iter().map(|o| format!("'{o}'")).collect::<Vec<_>>().join(", "))
}

fn mmmu(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    (0..rows)
        .map(|i| {
            let (subject, field) = *pick(random, &SUBJECTS);
            let (gold, options) = (random.random_range(0..4), options(random, 4));
            let record = json!({
                "id": format!("validation_{subject}_{}", i + 1), "question": format!("<image 1> {}?", words(random, 10, 60)),
                "options": python_list(&options), "explanation": "", "img_type": "['Diagrams']",
                "answer": letter(gold).to_string(), "topic_difficulty": "Medium", "question_type": "multiple-choice",
                "subfield": field,
            });
            (record, chosen(random, gold, &options, 25))
        })
        .collect()
}

fn mmmu_open(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    (0..rows)
        .map(|i| {
            let gold = random.random_range(1..400);
            let said = gold + i32::from(random.random_range(0..3) == 0);
            let prediction = match i % 3 {
                0 => said.to_string(),
                1 => format!("{}. So the result is {said}.", words(random, 20, 60)),
                _ => format!("The answer is {said}.5e0"),
            };
            let record = json!({
                "id": format!("validation_Electronics_{}", i + 1), "question": format!("<image 1> {}?", words(random, 10, 60)),
                "options": "[]", "explanation": "", "img_type": "['Diagrams']", "answer": gold.to_string(),
                "topic_difficulty": "Hard", "question_type": "open", "subfield": "Analog electronics",
            });
            (record, prediction)
        })
        .collect()
}

fn mmmu_pro(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    (0..rows)
        .map(|i| {
            let (subject, _) = *pick(random, &SUBJECTS);
            let (gold, options) = (random.random_range(0..10), options(random, 10));
            let record = json!({
                "id": format!("test_{subject}_{}", i + 1), "question": format!("<image 1> {}?", words(random, 10, 60)),
                "options": python_list(&options), "explanation": "", "img_type": "['Plots and Charts']",
                "answer": letter(gold).to_string(), "topic_difficulty": "Hard", "subject": subject,
            });
            (record, chosen(random, gold, &options, 25))
        })
        .collect()
}

/// Questions with their copies, in which the options go round.
fn mmbench(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    const KINDS: [(&str, &str); 4] = [
        ("image_topic", "coarse_perception"),
        ("ocr", "finegrained_perception (instance-level)"),
        ("social_relation", "relation_reasoning"),
        ("future_prediction", "logic_reasoning"),
    ];
    let mut all = Vec::new();
    for question in 1.. {
        let (category, group) = *pick(random, &KINDS);
        let (text, hint) = (words(random, 6, 20), if question % 4 == 0 { words(random, 10, 30) } else { "nan".into() });
        let count = *pick(random, &[2, 4, 4, 4, 4, 4]);
        let (gold, mut options) = (random.random_range(0..count), options(random, count));
        for copy in 0..count {
            if all.len() == rows {
                return all;
            }
            let gold = (gold + count - copy) % count;
            let option = |i: usize| options.get(i).map_or("nan", String::as_str);
            let record = json!({
                "index": question + 1_000_000 * copy, "question": format!("{text}?"), "hint": hint, "A": option(0), "B": option(1),
                "C": option(2), "D": option(3), "answer": letter(gold).to_string(), "category": category, "source": "made",
                "L2-category": group, "comment": "nan", "split": "dev",
            });
            all.push((record, chosen(random, gold, &options, 10)));
            options.rotate_left(1);
        }
    }
    all
}

fn mmerealworld(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    const KINDS: [(&str, &str); 5] = [
        ("Perception/Monitoring", "vehicle/counting"),
        ("Perception/OCR with Complex Context", "license"),
        ("Perception/Remote Sensing", "position"),
        ("Reasoning/Autonomous_Driving", "intention/ego"),
        ("Reasoning/Diagram and Table", "table/attribute"),
    ];
    (0..rows)
        .map(|i| {
            let (category, second) = *pick(random, &KINDS);
            let (gold, mut options) = (random.random_range(0..4), options(random, 4));
            options.push("This image doesn't feature the content.".into());
            let listed: Vec<String> = options.iter().enumerate().map(|(i, o)| format!("({}) {o}", letter(i))).collect();
            let record = json!({
                "index": i, "question": format!("{}?", words(random, 8, 30)), "multi-choice options": listed,
                "answer": letter(gold).to_string(), "category": category, "l2-category": second,
            });
            (record, chosen(random, gold, &options, 0))
        })
        .collect()
}

fn ai2d(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    (0..rows)
        .map(|_| {
            let (gold, options) = (random.random_range(0..4), options(random, 4));
            let record = json!({
                "question": format!("{}?", words(random, 5, 20)), "options": options, "answer": gold.to_string(),
            });
            let said = chosen(random, gold, &options, 0);
            (record, said)
        })
        .collect()
}

fn vstar(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    (0..rows)
        .map(|i| {
            let (gold, options) = (random.random_range(0..4), options(random, 4));
            let listed: String = options.iter().enumerate().map(|(i, o)| format!("({}) {o} ", letter(i))).collect();
            let category = *pick(random, &["direct_attributes", "relative_position"]);
            let record = json!({
                "text": format!("{}? {listed}", words(random, 5, 15)), "label": letter(gold).to_string(), "category": category,
                "question_id": i.to_string(),
            });
            (record, chosen(random, gold, &options, 0))
        })
        .collect()
}

fn chartqa(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    (0..rows)
        .map(|i| {
            let gold = match random.random_range(0..4) {
                0 => words(random, 1, 2),
                1 => format!("{}%", random.random_range(1..100)),
                2 => random.random_range(1900..2030).to_string(),
                _ => format!("{:.2}", random.random_range(0.1..900.0)),
            };
            let said = match (gold.parse::<f64>(), random.random_range(0..4)) {
                (Ok(number), 0) => format!("{:.1}", number * random.random_range(0.9..1.1)),
                (_, 1) => words(random, 1, 2),
                _ => gold.clone(),
            };
            let kind = if i % 2 == 0 { "human_test" } else { "augmented_test" };
            let record = json!({ "type": kind, "question": format!("{}?", words(random, 6, 25)), "answer": gold });
            (record, said)
        })
        .collect()
}

fn docvqa(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    (0..rows)
        .map(|i| {
            let gold = words(random, 1, 5);
            let answers: Vec<String> = match random.random_range(0..3) {
                0 => vec![gold.clone(), gold.to_uppercase(), format!("{gold}.")],
                1 => vec![gold.clone(), gold.to_uppercase()],
                _ => vec![gold.clone()],
            };
            let said = match random.random_range(0..5) {
                0 => format!("{gold}s"),
                1 => words(random, 1, 6),
                _ => gold,
            };
            let record = json!({
                "questionId": format!("{}", 40_000 + i), "question": format!("{}?", words(random, 5, 15)),
                "question_types": ["form", "handwritten"], "docId": i / 4, "ucsf_document_id": format!("ffbf{:04}", i / 4),
                "ucsf_document_page_no": "3", "answers": answers, "data_split": "val",
            });
            (record, said)
        })
        .collect()
}

/// Answers that nobody asks a judge about: choices in their own words and plain numbers.
fn mathvista(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    (0..rows)
        .map(|i| {
            let (choices, gold, said, kind, answer_type, precision) = match i % 3 {
                0 => {
                    let choices = options(random, 4);
                    let (gold, said) = (pick(random, &choices).clone(), pick(random, &choices).clone());
                    (json!(choices), gold, said, "multi_choice", "text", Value::Null)
                }
                1 => {
                    let gold = random.random_range(0..500);
                    let said = gold + i32::from(random.random_range(0..3) == 0);
                    (Value::Null, gold.to_string(), said.to_string(), "free_form", "integer", Value::Null)
                }
                _ => {
                    let gold = f64::from(random.random_range(1..900)) / 10.0;
                    let said = gold + if random.random_range(0..3) == 0 { 1.0 } else { 0.01 };
                    (Value::Null, format!("{gold:?}"), format!("{said:.2}"), "free_form", "float", json!(1))
                }
            };
            let question = words(random, 10, 40);
            let record = json!({
                "pid": (i + 1).to_string(), "question": format!("{question}?"), "choices": choices, "unit": Value::Null,
                "precision": precision, "answer": gold, "question_type": kind, "answer_type": answer_type,
                "metadata": {
                    "category": "math-targeted-vqa", "context": "geometry diagram", "grade": "high school", "img_height": 300,
                    "img_width": 400, "language": "english", "skills": ["geometry reasoning", "algebraic reasoning"],
                    "source": "made", "split": "testmini", "task": "geometry problem solving",
                },
                "query": format!("Hint: Please answer the question and provide the final value at the end.\nQuestion: {question}?"),
            });
            (record, said)
        })
        .collect()
}

fn mmstar(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    const KINDS: [(&str, &str); 6] = [
        ("coarse perception", "image scene and topic"),
        ("fine-grained perception", "localization"),
        ("instance reasoning", "cross-instance relation reasoning"),
        ("logical reasoning", "diagram reasoning"),
        ("science & technology", "electronics & energy & mechanical eng."),
        ("math", "geometry"),
    ];
    (0..rows)
        .map(|i| {
            let (category, second) = *pick(random, &KINDS);
            let (gold, options) = (random.random_range(0..4), options(random, 4));
            let listed: Vec<String> = options.iter().enumerate().map(|(i, o)| format!("{}: {o}", letter(i))).collect();
            let record = json!({
                "index": i, "question": format!("{}?\nOptions: {}", words(random, 6, 25), listed.join(", ")),
                "answer": letter(gold).to_string(), "category": category, "l2_category": second,
                "meta_info": { "source": "made", "split": "val", "image_path": format!("images/{i}.jpg") },
            });
            (record, chosen(random, gold, &options, 15))
        })
        .collect()
}

fn scienceqa(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    (0..rows)
        .map(|i| {
            let count = random.random_range(2..=5);
            let (gold, choices) = (random.random_range(0..count), options(random, count));
            let hint = if i % 2 == 0 { words(random, 10, 60) } else { String::new() };
            let record = json!({
                "question": format!("{}?", words(random, 6, 25)), "choices": choices, "answer": gold, "hint": hint,
                "task": "closed choice", "grade": "grade5", "subject": "natural science", "topic": "physics",
                "category": "Magnets", "skill": "Identify magnets that attract or repel", "lecture": words(random, 40, 140),
                "solution": words(random, 20, 80),
            });
            (record, chosen(random, gold, &choices, 0))
        })
        .collect()
}

/// Two questions an image.
fn mme(random: &mut ChaCha8Rng, rows: usize) -> Vec<(Value, String)> {
    const KINDS: [&str; 5] = ["existence", "posters", "OCR", "commonsense_reasoning", "code_reasoning"];
    (0..rows)
        .map(|i| {
            let category = KINDS[i / 2 % KINDS.len()];
            let gold = if i % 2 == 0 { "Yes" } else { "No" };
            let said = if random.random_range(0..4) < 3 { gold } else { *pick(random, &["Yes", "No"]) };
            let said = match random.random_range(0..10) {
                0 => format!("{said}, {}.", words(random, 4, 10)),
                1 => format!("{said}."),
                2 => said.to_lowercase(),
                _ => said.to_owned(),
            };
            let record = json!({
                "question_id": format!("{category}/{:04}.png", i / 2), "answer": gold, "category": category,
                "question": format!("{}? Please answer yes or no.", words(random, 6, 20)),
            });
            (record, said)
        })
        .collect()
}
