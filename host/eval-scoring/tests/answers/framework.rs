//! The run, statistics and judges' replies.

use ovhost_eval_scoring::filters::{self, MultipleChoice, Pattern};
use ovhost_eval_scoring::framework::{self, CacheKey};
use ovhost_eval_scoring::{judge, stats, tags, texts};
use serde_json::{Value as Json, json};

use super::super::{Answer, Vector};
use super::{as_text, float, floats, number, result, text, texts as list, value};

pub fn answer(vector: &Vector, name: &str) -> Answer {
    let (doc, said) = (vector.doc(), vector.response());
    if let Some(filter) = name.strip_prefix("filter:") {
        return filtered(vector, filter);
    }
    let optional = |key: &str| doc.get(key).filter(|value| !value.is_null()).map(number);
    let count = |key: &str| doc[key].as_u64().unwrap_or(0);
    match name {
        "create_iterator" => {
            let offset = doc["offset"].as_i64().unwrap_or(0);
            let mine =
                framework::documents(count("n_docs"), count("rank"), count("world_size"), optional("limit"), offset);
            result(mine.map(|mine| mine.collect::<Vec<_>>().into()))
        }
        "get_sample_size(--limit)" => {
            result(framework::sample_size(count("n_docs"), optional("limit")).map(|size| json!(size)))
        }
        "sanitize_model_name" => {
            value(framework::folder_name(said, doc["full_path"] == true || vector.get("kwargs")["full_path"] == true))
        }
        "simple_parse_args_string" => result(framework::arguments(said).map(Json::Object)),
        "canonicalize_gen_kwargs/is_deterministic" => {
            let settings = doc["gen_kwargs"].as_object();
            let request = doc["request_type"].as_str().unwrap_or("generate_until");
            value(json!({
                "canonical": framework::canonical_settings(settings),
                "deterministic": framework::is_deterministic(request, settings),
            }))
        }
        "compute_cache_key" => {
            let get = |key: &str| doc[key].as_str().unwrap_or_default();
            value(
                CacheKey {
                    request: get("request_type"),
                    task: get("task_name"),
                    document: doc["doc_id"].clone(),
                    index: doc["idx"].as_i64().unwrap_or(0),
                    settings: doc["gen_kwargs"].as_object(),
                    content: get("content_hash"),
                    task_hash: get("task_fingerprint"),
                    model_hash: get("model_fingerprint_hash"),
                    version: get("eval_version"),
                }
                .hash(),
            )
        }
        "parse_reasoning_tags_config" => result(tags::configured(&doc["cli"], &doc["task"])),
        "strip_reasoning_tags" => {
            let pairs: Vec<[String; 2]> = serde_json::from_value(doc["tag_pairs"].clone()).unwrap_or_default();
            value(&*tags::strip_reasoning(said, pairs.iter().map(|[open, close]| (open.as_str(), close.as_str()))))
        }
        "mean/mean_stderr" => {
            let scores = floats(&doc["scores"]);
            let error = stats::mean_stderr(&scores);
            value(json!({ "mean": float(stats::mean(&scores)), "stderr": float(error), "clt": float(error) }))
        }
        "clustered_stderr" => {
            let scores = floats(&doc["scores"]);
            let clusters = list(&doc["cluster_ids"]);
            if scores.len() != clusters.len() && scores.len() > 1 {
                return Answer::Error("as many clusters as scores".into());
            }
            value(float(stats::clustered_stderr(&scores, &clusters)))
        }
        "paired_ttest" => {
            let (current, baseline) = (floats(&doc["current"]), floats(&doc["baseline"]));
            if current.len() != baseline.len() {
                return Answer::Error("as many scores of both".into());
            }
            let test = stats::paired(&current, &baseline);
            value(json!({
                "mean_diff": float(test.mean_diff), "se_diff": float(test.se_diff), "ci_lower": float(test.ci_lower),
                "ci_upper": float(test.ci_upper), "t_stat": float(test.t_stat), "p_value": float(test.p_value), "n": test.n,
            }))
        }
        "power_analysis" => {
            let base = stats::Power::default();
            let power = stats::Power {
                effect_size: optional("effect_size").unwrap_or(base.effect_size),
                std_a: optional("std_a"),
                std_b: optional("std_b"),
                alpha: optional("alpha").unwrap_or(base.alpha),
                power: optional("power").unwrap_or(base.power),
                correlation: optional("correlation").unwrap_or(base.correlation),
            };
            let (a, b) = power.deviations();
            let mut out = json!({
                "min_n": power.samples(), "effect_size": power.effect_size, "std_a": a, "std_b": b, "alpha": power.alpha,
                "power": power.power, "correlation": power.correlation,
            });
            if let Some(n) = optional("current_n") {
                let (achieved, smallest) = power.of(n);
                out["current_n"] = json!(n);
                out["current_power"] = json!(achieved);
                out["min_detectable_effect"] = json!(smallest);
            }
            value(out)
        }
        "aggregate_subtask_metrics" => {
            let weigh = doc.get("weight_by_size").and_then(Json::as_bool).unwrap_or(true);
            value(float(stats::aggregate(&floats(&doc["metrics"]), &floats(&doc["sizes"]), weigh)))
        }
        "pooled_sample_stderr" => value(float(stats::pooled_stderr(&floats(&doc["stderrs"]), &floats(&doc["sizes"])))),
        "parse_binary_response" => match doc["output_format"].as_str().unwrap_or("0/1") {
            "0/1" | "1/0" => value(u8::from(judge::binary(said, true))),
            _ => value(judge::binary(said, false)),
        },
        "parse_score_response" => {
            let range = doc["score_range"].as_array().map(|range| (number(&range[0]), number(&range[1])));
            value(float(judge::score(said, range)))
        }
        "parse_comparative_response" => {
            let (first, second) = judge::comparative(said);
            value(json!([first, second]))
        }
        "parse_json_response" => value(judge::json(said)),
        "build_binary_prompt" => {
            let digits = matches!(doc["output_format"].as_str().unwrap_or("0/1"), "0/1" | "1/0");
            let prompt = judge::binary_request(
                &vector.texts,
                &text(doc, "question"),
                &text(doc, "answer"),
                &text(doc, "prediction"),
                digits,
            );
            result(prompt.map(|prompt| json!({ "sha256": texts::sha256(&prompt), "len": prompt.chars().count() })))
        }
        _ => Answer::NotApplicable("not known".into()),
    }
}

/// A filter of a document's answers; vectors give one answer as text or several as a list, and expect the same shape.
fn filtered(vector: &Vector, filter: &str) -> Answer {
    let (doc, response) = (vector.doc(), vector.get("response"));
    let answers = response.as_array().map_or_else(|| vec![as_text(response)], |_| list(response));
    let each = |one: &dyn Fn(&str) -> Result<Json, String>| -> Answer {
        let all: Result<Vec<Json>, String> = answers.iter().map(|answer| one(answer)).collect();
        result(all.map(|mut all| if response.is_array() { all.into() } else { all.remove(0) }))
    };
    let pattern = || {
        let fallback = doc["fallback"].as_str().unwrap_or("[invalid]");
        let pattern = doc["regex_pattern"].as_str().unwrap_or(r"#### (\-?[0-9\.\,]+)");
        Pattern::new(pattern, doc["group_select"].as_i64().unwrap_or(0), fallback)
    };
    match filter {
        "take_first" => value(filters::first(&answers)),
        "take_first_k" => {
            value(answers.iter().take(doc["k"].as_u64().unwrap_or(1) as usize).cloned().collect::<Vec<_>>())
        }
        "majority_vote" => value(filters::majority(&answers).cloned().into_iter().collect::<Vec<_>>()),
        "remove_whitespace" => each(&|answer| Ok(filters::without_space(answer).into())),
        "lowercase" => each(&|answer| Ok(filters::lowercase(answer).into())),
        "uppercase" => each(&|answer| Ok(filters::uppercase(answer).into())),
        "map" => each(&|answer| Ok(filters::mapped(answer, &doc["mapping_dict"], &doc["default_value"]))),
        "strip_thinking" => {
            let pairs: Vec<[String; 2]> = serde_json::from_value(doc["tag_pairs"].clone()).unwrap_or_default();
            let usual = [("<think>", "</think>"), ("<thinking>", "</thinking>")];
            each(&|answer| {
                Ok(if pairs.is_empty() {
                    tags::strip_reasoning(answer, usual).into()
                } else {
                    tags::strip_reasoning(answer, pairs.iter().map(|[open, close]| (open.as_str(), close.as_str())))
                        .into()
                })
            })
        }
        "regex" => each(&|answer| pattern()?.apply(answer).map(Json::from)),
        "multi_choice_regex" => each(&|answer| {
            let on = |key: &str| doc[key] == true;
            let filter = MultipleChoice::new(
                pattern()?,
                on("ignore_case"),
                on("ignore_punctuation"),
                &list(&doc["regexes_to_ignore"]),
            )?;
            filter.apply(answer, &list(&doc["choices"])).map(Json::from)
        }),
        _ => Answer::NotApplicable("not known".into()),
    }
}
