//! `bench`: the numbers are there, and those that are counted are the same every time.

use super::*;

const QUICK: [&str; 5] = ["--seconds", "0.002", "--rounds", "3", "--json"];

fn bench(lab: &Lab, args: &[&str]) -> Value {
    lab.run(&[&["bench"], args, &QUICK].concat()).ok().json()
}

#[test]
fn every_kind_is_measured_on_made_up_rows() {
    let lab = Lab::new();
    for plugin in ["filters/caption_quality", "prompts/conversation", "metrics/exact_match", "packers/padding_free"] {
        let report = bench(&lab, &[plugin, "--batches", "1,64", "--limit", "256"]);
        let costs = report["batches"].as_array().unwrap();
        assert_eq!(costs.len(), 2);
        for cost in costs {
            assert!(
                cost["ns_per_row"].as_f64().unwrap() > 0.0 && cost["peak_memory_bytes"].as_u64().unwrap() > 0,
                "{cost}"
            );
        }
        let fuel = |i: usize| costs[i]["fuel_per_row"].as_f64().unwrap();
        assert!(fuel(0) > fuel(1), "{plugin}: calls have a cost of their own, {} and {} fuel", fuel(0), fuel(1));
    }
}

#[test]
fn workers_are_measured_together() {
    let lab = Lab::new();
    let report = bench(&lab, &["filters/caption_quality", "--batches", "64", "--limit", "256", "--threads", "3"]);
    let threads: Vec<_> =
        report["threads"].as_array().unwrap().iter().map(|c| c["threads"].as_u64().unwrap()).collect();
    assert_eq!(threads, [1, 2, 3]);
    lab.run(&[
        "bench",
        "filters/caption_quality",
        "--batches",
        "64",
        "--limit",
        "256",
        "--threads",
        "2",
        "--seconds",
        "0.002",
    ])
    .ok()
    .says(&["time/row", "workers, each with calls of 64 rows", "times one"]);
}

#[test]
fn packers_say_how_full_bins_are() {
    let lab = Lab::new();
    lab.write("lengths.txt", "6\n5\n{\"length\": 4}\n\n1\n9\n1\n");
    let args = ["packers/sequential", "--lengths", "lengths.txt", "--capacity", "10", "--batches", "1,4"];
    for cost in bench(&lab, &args)["batches"].as_array().unwrap() {
        assert_eq!((&cost["bins"], &cost["given_up"], &cost["room_left"]), (&3.into(), &0.into(), &4.into()), "{cost}");
        assert!((cost["fill"].as_f64().unwrap() - 26.0 / 30.0).abs() < 1e-12, "{cost}");
    }
    // As `run` does it: what no bin holds is counted and left out.
    lab.run(&[
        "bench",
        "packers/sequential",
        "--lengths",
        "lengths.txt",
        "--capacity",
        "8",
        "--batches",
        "4",
        "--seconds",
        "0.002",
    ])
    .ok()
    .says(&["5 rows, lengths of lengths.txt · bins of 8 tokens, 1 longer left out\n"]);
    lab.write("long.txt", "9\n");
    lab.run(&["bench", "packers/sequential", "--lengths", "long.txt", "--capacity", "8"])
        .fails(&["all 1 samples are longer than a bin of 8 tokens", "raise --capacity"]);
    for capacity in ["1000", "7", "1"] {
        let args = ["packers/sequential", "--capacity", capacity, "--batches", "64", "--limit", "256"];
        assert_eq!(bench(&lab, &args)["too_long"], 0, "made-up samples fit into bins of {capacity}");
    }
    lab.write("bad.txt", "6\nx\n");
    lab.run(&["bench", "packers/sequential", "--lengths", "bad.txt"]).fails(&["bad.txt line 2", "\"x\" is no length"]);
}

#[test]
fn rows_of_a_file_and_flags_that_do_not_fit() {
    let lab = Lab::new();
    lab.write("rows.jsonl", "{\"text\": \"one row\"}\n{\"text\": \"and another\"}\n").write("none.jsonl", "\n");
    let report = bench(&lab, &["filters/caption_quality", "--rows", "rows.jsonl", "--batches", "2"]);
    assert_eq!((&report["rows"], report["origin"].as_str()), (&2.into(), Some("of rows.jsonl")));
    lab.run(&["bench", "filters/caption_quality", "--rows", "none.jsonl"]).fails(&["none.jsonl has no rows"]);
    lab.run(&["bench", "filters/caption_quality", "--capacity", "8"]).fails(&["for packers; this is a filter plugin"]);
    lab.run(&["bench", "filters/caption_quality", "--seconds", "0"])
        .fails(&["--seconds 0 is out of range; allowed: 0.001 to 60"]);
    let frequent = lab.run(&["bench", &guest("counting"), "--entry", "frequent"]);
    assert_eq!(frequent.code, 1, "it cannot be configured without its asset");
    lab.run(&["bench", "filters/concept_balance", "--entry", "substring_count"]).fails(&["--asset NAME=FILE"]);
    lab.run(&["bench", "filters/concept_balance"]).fails(&["choose one with --entry NAME"]);
}

/// Rows differ: a file whose first rows are cheap costs what all of its rows do, however long the bench may take.
#[test]
fn fuel_is_that_of_all_rows_whatever_the_time() {
    let lab = Lab::new();
    let row = |words: usize| format!("{{\"text\": \"{}\"}}\n", "word ".repeat(words));
    lab.write("rows.jsonl", &[row(1).repeat(400), row(400).repeat(100)].concat());
    let fuel = |seconds: &str, batch: &str| {
        let args =
            ["bench", "filters/repetition", "--rows", "rows.jsonl", "--batches", batch, "--rounds", "2", "--json"];
        let report = lab.run(&[&args[..], &["--seconds", seconds]].concat()).ok().json();
        report["batches"][0]["fuel_per_row"].as_f64().unwrap()
    };
    for batch in ["1", "256"] {
        let (short, long) = (fuel("0.001", batch), fuel("0.3", batch));
        assert_eq!(short, long, "calls of {batch}");
    }
}
