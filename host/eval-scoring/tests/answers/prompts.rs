//! Prompts.

use ovhost_eval_scoring::prompts::{self, Part, mathvista, mmmu, vstar};
use ovhost_eval_scoring::tasks::charxiv;
use serde_json::{Value as Json, json};

use super::super::{Answer, Vector};
use super::{result, text};

pub fn answer(vector: &Vector, task: &str, name: &str) -> Answer {
    let (doc, settings) = (vector.doc(), vector.get("kwargs"));
    let said = |key: &str| settings.get(key).and_then(Json::as_str);
    let (before, after) = (said("pre_prompt").unwrap_or_default(), said("post_prompt").unwrap_or_default());
    let prompt = match task {
        _ if task.starts_with("mmmu") => return mmmu_prompt(vector, task, name),
        "chartqa" | "docvqa_val" | "docvqa_test" | "docvqa" => prompts::question(doc, before, after),
        "mme" | "mmstar" => prompts::bare_question(doc, before, after),
        "ai2d" | "ai2d_no_mask" => prompts::ai2d(doc, before, after),
        "scienceqa" | "scienceqa_img" => prompts::scienceqa(doc, before, after),
        "vstar_bench" => vstar::question(doc, before, after),
        _ if task.starts_with("mmbench") => {
            prompts::mmbench(doc, &format!("\n{}", said("post_prompt").map_or(prompts::LETTER, |s| s.trim_start())))
        }
        "mmerealworld" | "mme_realworld" => prompts::mmerealworld(doc, name.contains("cn")),
        "mmerealworld_cn" | "mme_realworld_cn" => prompts::mmerealworld(doc, true),
        _ if task.starts_with("mathvista") => {
            let form = said("shot_type").or_else(|| name.split(['[', ']']).nth(1)).unwrap_or_default();
            mathvista::Shot::named(form)
                .ok_or_else(|| format!("form `{form}`"))
                .and_then(|shot| mathvista::question(doc, shot))
        }
        "charxiv" if name.contains("reasoning") => {
            let kind = doc["reasoning_q_source"].as_u64().unwrap_or(0);
            charxiv::reasoning_question(&vector.texts, kind, &text(doc, "reasoning_q"), &text(doc, "reasoning_a"))
        }
        _ => return Answer::NotApplicable("not known".into()),
    };
    result(prompt.map(Json::from))
}

fn mmmu_prompt(vector: &Vector, task: &str, name: &str) -> Answer {
    let (doc, settings) = (vector.doc(), vector.get("kwargs"));
    let said = |key: &str| settings.get(key).and_then(Json::as_str).map(str::to_owned);
    let style = if said("format").as_deref() == Some("qwen3_vl") {
        let base = mmmu::Style::qwen();
        mmmu::Style {
            choice: said("post_prompt").unwrap_or_default(),
            open: said("open_ended_prompt").unwrap_or_default(),
            qwen: said("pre_prompt").or(base.qwen),
        }
    } else {
        let base = if task.contains("pro") { mmmu::Style::pro() } else { mmmu::Style::mmmu() };
        mmmu::Style {
            choice: said("multiple_choice_prompt").or_else(|| said("post_prompt")).unwrap_or(base.choice),
            open: said("open_ended_prompt").unwrap_or(base.open),
            qwen: None,
        }
    };
    if name.contains("doc_to_messages") {
        let content = mmmu::interleaved(doc, &style).map(|parts| {
            let parts = parts.into_iter().map(|part| match part {
                Part::Text(text) => json!({ "type": "text", "text": text }),
                Part::Picture(field) => {
                    json!({ "type": "image", "url": doc.get(&field).cloned().unwrap_or_else(|| field.into()) })
                }
            });
            json!([{ "role": "user", "content": parts.collect::<Vec<_>>() }])
        });
        return result(content);
    }
    result(mmmu::plain(doc, &style).map(Json::from))
}
