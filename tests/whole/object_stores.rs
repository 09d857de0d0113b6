//! Data in S3 buckets and on web servers: the same bytes come out as from the local disk, also when the storage fails for a
//! while; and when it fails for good, the run ends instead of leaving samples out.

#[allow(dead_code, reason = "the tests of the store use more of it")]
#[path = "../../host/store/tests/server/mod.rs"]
mod server;

use std::{fs, process::Command, time::Duration};

use crate::{
    data_filter, data_pack,
    lab::{Lab, Ran, command, jsonl},
};
use server::{Fault, Server};

/// A server that has the lab's folder `name` at `/box/name`: a bucket named `box`.
fn serve(lab: &Lab, name: &str) -> Server {
    let server = Server::start(true);
    server.put_folder(&format!("/box/{name}"), &lab.at(name));
    server
}

/// The program with S3 credentials for that server.
fn with_s3(lab: &Lab, server: &Server, args: &[&str]) -> Command {
    let mut command = command(lab.path(), args);
    command.env("AWS_ENDPOINT_URL", &server.url).env("AWS_REGION", "eu-west-1");
    command.env("AWS_ACCESS_KEY_ID", "me").env("AWS_SECRET_ACCESS_KEY", "hunter2");
    command
}

fn run(mut command: Command) -> Ran {
    Ran::of(command.output().unwrap())
}

#[test]
fn filtered_from_a_store_it_writes_the_bytes_of_the_local_disk() {
    let lab = data_filter::lab();
    let server = serve(&lab, "raw");
    let http = format!("{}/box/raw", server.url);
    for filters in ["pure.toml", "streaming.toml"] {
        let filter = |input: &str, out: &str| {
            let out = format!("{out}-{filters}");
            run(with_s3(&lab, &server, &["data", "filter", "--input", input, "--filters", filters, "--out", &out]))
                .ok();
            data_filter::output(&lab.at(&out))
        };
        let expected = filter("raw", "local");
        // The first shards break off, are refused for a while, and have no index.
        for (shard, fault) in [(0, Fault::Break(9000)), (1, Fault::Status(503, "")), (2, Fault::Break(0))] {
            server.fail(&format!("/box/raw/shard-{shard:06}.tar"), &[Fault::None, fault]);
            server.fail(&format!("/box/raw/shard-{shard:06}.tar.idx"), &[Fault::Status(404, "")]);
        }
        assert_eq!(filter(&http, "http"), expected);
        assert_eq!(filter("s3://box/raw/shard-{000000..000011}.tar", "s3"), expected);
    }
    // Killed in the middle and run again.
    let args = ["data", "filter", "--input", "s3://box/raw", "--filters", "pure.toml", "--out", "broken"];
    for wait in [60, 120] {
        let mut child = with_s3(&lab, &server, &args).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    run(with_s3(&lab, &server, &args)).ok();
    assert_eq!(data_filter::output(&lab.at("broken")), data_filter::output(&lab.at("local-pure.toml")));
    // Credentials are nobody's business.
    let ran = run(with_s3(
        &lab,
        &server,
        &["data", "filter", "--input", "s3://box/none", "--out", "x", "--plugins", "x.wasm"],
    ));
    let ran = ran.fails_with(&["s3://box/none holds no .tar file"]);
    assert!(!ran.err.contains("hunter2"));
}

#[test]
fn compressed_shards_are_filtered_like_plain_ones() {
    let lab = data_filter::lab();
    fs::create_dir(lab.at("packed")).unwrap();
    for i in 0..12 {
        let name = format!("shard-{i:06}.tar");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gz, &fs::read(lab.at("raw").join(&name)).unwrap()).unwrap();
        fs::write(lab.at("packed").join(format!("{name}.gz")), gz.finish().unwrap()).unwrap();
    }
    let server = serve(&lab, "packed");
    let filter = |input: &str, out: &str| {
        run(with_s3(&lab, &server, &["data", "filter", "--input", input, "--filters", "pure.toml", "--out", out])).ok();
        let mut files = data_filter::output(&lab.at(out));
        files.retain(|name, _| name.ends_with(".tar") || name.ends_with(".idx") || name.contains("nv-meta"));
        files
    };
    let expected = filter("raw", "a");
    assert_eq!(expected.len(), 12 + 12 + 4);
    assert_eq!(filter("packed", "b"), expected);
    assert_eq!(filter("s3://box/packed", "c"), expected);
    // What reads at random says so.
    lab.run(&["data", "pack", "--input", "packed", "--out", "d"])
        .fails_with(&["shard-000000.tar.gz is compressed", "data filter"]);
    lab.edit_recipe("train = \"data/train\"", "train = \"packed\"");
    lab.run(&["train"]).fails_with(&["shard-000000.tar.gz: it is compressed", "data filter"]);
}

#[test]
fn packed_from_a_store_it_writes_the_bytes_of_the_local_disk() {
    let lab = data_pack::lab();
    let server = serve(&lab, "raw");
    let pack = |input: &str, out: &str| {
        let args = ["data", "pack", "--input", input, "--out", out, "--packs-per-shard", "10", "--workers", "2"];
        run(with_s3(&lab, &server, &args)).ok();
        data_pack::output(&lab.at(out))
    };
    let expected = pack("raw", "local");
    server.fail("/box/raw/part-000.tar", &[Fault::Break(700), Fault::Status(500, ""), Fault::Break(100_000)]);
    assert_eq!(pack("s3://box/raw", "s3"), expected);
    // Packs are training data, wherever they lie.
    server.put_folder("/box/packs", &lab.at("local"));
    let train = |data: &str, run_folder: &str| {
        let (data, folder) = (format!("data.train={data:?}"), format!("run.folder={run_folder:?}"));
        run(with_s3(&lab, &server, &["train", "--set", "train.steps=2", "--set", &data, "--set", &folder])).ok();
        lab.losses(run_folder)
    };
    assert_eq!(train("local", "runs/a"), train("s3://box/packs", "runs/b"));
}

#[test]
fn training_and_evaluation_read_from_stores_what_they_read_from_the_disk() {
    let lab = Lab::new();
    let server = serve(&lab, "data");
    let train = |data: &str, more: &[&str]| {
        let data = format!("data.train={data:?}");
        run(with_s3(&lab, &server, &[&["train", "--set", &data], more].concat()))
    };
    train("data/train", &[]).ok();
    let shard = "/box/data/train/shard-000000.tar";
    server.fail(shard, &[Fault::None, Fault::Break(100), Fault::Status(429, ""), Fault::None, Fault::Break(1000)]);
    train("s3://box/data/train", &["--set", "run.folder=\"runs/s3\""]).ok();
    train(&format!("{}{shard}", server.url), &["--set", "run.folder=\"runs/http\"", "--set", "data.workers=1"]).ok();
    for other in ["runs/s3", "runs/http"] {
        assert_eq!(lab.losses("runs/a"), lab.losses(other));
        assert_eq!(lab.weights("runs/a"), lab.weights(other));
    }
    let record = fs::read_to_string(lab.at("runs/s3/run.json")).unwrap();
    assert!(record.contains("s3://box/data/train") && !record.contains("hunter2"), "{record}");
    let eval = |data: &str, out: &str| {
        let model = "runs/a/model";
        let plugins = "prompts/conversation.wasm,metrics/exact_match.wasm";
        run(with_s3(&lab, &server, &["eval", "--model", model, "--data", data, "--plugins", plugins, "--out", out]))
            .ok();
        jsonl(lab.at(out).join("answers.jsonl"))
    };
    assert_eq!(eval("data/test", "eval-a"), eval("s3://box/data/test", "eval-b"));

    // A store that fails for good ends the run: nothing is counted as a bad sample, and it goes on where it was.
    let lasting: Vec<Fault> = vec![Fault::None; 60].into_iter().chain([Fault::Status(403, "")]).collect();
    server.fail(shard, &lasting);
    let ran = train("s3://box/data/train", &["--set", "run.folder=\"runs/c\"", "--set", "data.max_reject_rate=1.0"]);
    ran.fails_with(&["s3://box/data/train/shard-000000.tar: cannot read a part of it: 403", "AWS_ACCESS_KEY_ID"]);
    assert!(jsonl(lab.at("runs/c/rejects.jsonl")).is_empty());
    train("s3://box/data/train", &["--set", "run.folder=\"runs/c\"", "--set", "data.max_reject_rate=1.0", "--resume"])
        .ok();
    assert_eq!(lab.weights("runs/a"), lab.weights("runs/c"));
}

#[test]
fn results_go_to_the_disk_and_the_error_says_how_on() {
    let lab = Lab::new();
    let filter =
        ["data", "filter", "--input", "data/train", "--plugins", "filters/caption_quality.wasm", "--out", "s3://box/x"];
    let pack = ["data", "pack", "--out", "gs://box/x"];
    let convert = ["data", "convert", "--input", "train.jsonl", "--out", "https://host/x"];
    let eval = ["eval", "--model", "model", "--data", "data/test", "--out", "az://box/x"];
    for args in [&filter[..], &pack, &convert, &eval] {
        lab.run(args).fails_with(&[args.last().unwrap(), "results are written to the local disk", "copy"]);
    }
    lab.run(&["train", "--set", "run.folder=\"s3://box/x\""]).fails_with(&["run.folder", "s3://box/x", "local disk"]);
    for (given, why) in
        [("https://host/x.tar?sig=hunter2", "it has a query"), ("hdfs://host/x.tar", "hdfs:// is not known")]
    {
        let ran = lab.run(&["data", "show", given]).fails_with(&[why]);
        assert!(!ran.err.contains("hunter2"), "{}", ran.err);
    }
}
