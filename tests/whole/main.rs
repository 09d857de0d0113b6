//! Whole-program tests: they run the built `ovhost` on small data and models that they make themselves.

mod averages;
mod bad_data;
mod bad_plugins;
mod bad_recipe;
mod blend;
mod corrupt_data;
mod crashes;
mod data_convert;
mod data_filter;
mod data_look;
mod data_pack;
mod dry_run;
mod eval_foreign;
mod eval_tasks;
#[path = "../../host/data/tests/corrupt/forge.rs"]
mod forge;
mod guards;
mod infer_eval;
mod interop;
mod lab;
mod live_eval;
mod lora;
mod object_stores;
mod resume;
mod stages;
mod train;
mod transformers;
mod trust;
