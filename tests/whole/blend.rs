//! Training on mixes: from the recipe, from metadatasets, of prepared folders; resumed exactly.

use std::fs;

use ovhost_data::shards::IndexedShard;

use crate::lab::Lab;

/// The recipe's data become `text`.
fn data(lab: &Lab, text: &str) {
    lab.edit_recipe("train = \"data/train\"\n", "epochs = 1\n");
    let path = lab.at("recipe.toml");
    let recipe = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{recipe}\n{text}")).unwrap();
}

const ONE_EPOCH: [&str; 3] = ["train", "--set", "train.steps=100"];

#[test]
fn repetitions_of_the_recipe_make_an_epoch() {
    let lab = Lab::new();
    data(&lab, "[[data.blend]]\npath = \"data/train\"\n[[data.blend]]\npath = [\"data/test\"]\nrepetitions = 2.5\n");
    let ran = lab.run(&ONE_EPOCH).ok();
    assert!(ran.err.contains("78 samples read: 78 delivered"), "48 + 2.5 · 12: {}", ran.err);
    assert!(lab.run(&["recipe", "keys"]).ok().out.contains("data.blend"));
}

#[test]
fn a_metadataset_is_read_as_it_says() {
    let lab = Lab::new();
    lab.edit_recipe("train = \"data/train\"", "train = \"mix/mix.yaml\"\nepochs = 1");
    fs::create_dir(lab.at("mix")).unwrap();
    let head = "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  train:\n";
    let write = |body: &str| fs::write(lab.at("mix/mix.yaml"), format!("{head}{body}")).unwrap();
    // Half of the one, and the other without a sample that its metadata leaves out.
    let split = lab.at("data/test/.nv-meta/split.yaml");
    let text = fs::read_to_string(&split).unwrap();
    let key = IndexedShard::open(&lab.at("data/test/shard-000000.tar")).unwrap().read(3).unwrap().key;
    let exclude = format!("\"exclude\": [\"shard-000000.tar/{key}\"]");
    fs::write(&split, text.replace("\"exclude\": []", &exclude)).unwrap();
    write(
        "    blend_epochized:\n    - {path: ../data/train, subset: {range: [0%, 50%]}}\n    - {path: ../data/test, repetitions: 2}\n",
    );
    let ran = lab.run(&ONE_EPOCH).ok();
    assert!(ran.err.contains("46 samples read: 46 delivered"), "24 + 2 · 11: {}", ran.err);
    write("    join: [{path: ../data/train}]\n");
    lab.run(&["train", "--set", "run.folder=b"]).fails_with(&["mix.yaml", "joins are not supported"]);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let lab = Lab::new();
    let blend = |more: &str| format!("data.blend=[{{path=\"data/train\", weight=1}}, {{path=\"data/test\"{more}}}]");
    let run = |settings: &[&str]| {
        let settings: Vec<&str> = settings.iter().flat_map(|s| ["--set", s]).collect();
        lab.run(&[&["train"], settings.as_slice()].concat())
    };
    run(&[&blend("")]).fails_with(&["both data.train and [[data.blend]]"]);
    run(&["data.train=[]", &blend("")]).fails_with(&["data.blend[1]", "has no weight"]);
    run(&["data.train=[]", &blend(", weight=-1")]).fails_with(&["weight of data.blend[1]", "above 0"]);
    run(&["data.train=[]", &blend(", weight=1, repetitions=1")]).fails_with(&["one of the two"]);
    run(&["data.train=[]", &blend(", wieght=1")]).fails_with(&["wieght", "did you mean `weight`"]);
    run(&["data.train=[\"data/train\", \"data/train\"]"]).fails_with(&["twice"]);
    run(&["data.split_part=val"]).fails_with(&["part val has no shards", "train"]);
    // Packs and single samples.
    lab.run(&["data", "pack", "--recipe", "recipe.toml", "--input", "data/test", "--out", "packed"]).ok();
    run(&["data.train=[\"data/train\", \"packed\"]"]).fails_with(&["holds packs", "single samples"]);
    // Steps that read shards in order take one source.
    lab.edit_recipe("train = \"data/train\"\n", "");
    let path = lab.at("recipe.toml");
    let recipe = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{recipe}\n[[data.blend]]\npath = \"data/train\"\n[[data.blend]]\npath = \"data/test\"\n"))
        .unwrap();
    lab.run(&["data", "pack", "--recipe", "recipe.toml", "--out", "p"])
        .fails_with(&["mix of several sources", "--input"]);
    // Metadata of another time.
    let info = lab.at("data/train/.nv-meta/.info.json");
    fs::write(&info, fs::read_to_string(&info).unwrap().replace(": 48", ": 47")).unwrap();
    lab.run(&["train"]).fails_with(&["has 48 samples", "says 47", "ovhost data index"]);
}

#[test]
fn a_weighted_mix_resumes_bit_for_bit() {
    let lab = Lab::new();
    data(
        &lab,
        "[[data.blend]]\npath = \"data/train\"\nweight = 0.7\n[[data.blend]]\npath = \"data/test\"\nweight = 0.3\n",
    );
    let endless = |folder: &str, more: &[&str]| {
        let folder = format!("run.folder={folder}");
        lab.run(
            &[&["train", "--set", "data.epochs=9", "--set", "train.decay=constant", "--set", &folder], more].concat(),
        )
        .ok()
    };
    endless("whole", &[]);
    endless("cut", &["--set", "train.steps=4"]);
    endless("cut", &["--resume", "--allow-recipe-change"]);
    assert_eq!(lab.losses("cut").len(), 8);
    assert_eq!(lab.losses("cut"), lab.losses("whole"));
    assert!(lab.weights("cut") == lab.weights("whole"));
}

#[test]
fn an_index_that_does_not_fit_is_not_believed() {
    let lab = Lab::new();
    let (index, tar) = (lab.shard().with_extension("tar.idx"), lab.shard());
    let whole = fs::read(&index).unwrap();
    let run = |folder: &str| {
        let folder = format!("run.folder={folder}");
        lab.run(&["train", "--set", "data.epochs=1", "--set", "train.steps=100", "--set", &folder]).ok().err
    };
    assert!(run("a").contains("48 samples read: 48 delivered"));
    // Of a longer shard, of a shorter one, cut, of nothing.
    for (i, bytes) in [whole[8..].to_vec(), whole[..80].to_vec(), whole[..77].to_vec(), vec![]].into_iter().enumerate()
    {
        fs::write(&index, bytes).unwrap();
        let err = run(&format!("b{i}"));
        assert!(err.contains("48 samples read: 48 delivered"), "{i}: {err}");
    }
    // Without one, and made again by the command.
    fs::remove_file(&index).unwrap();
    assert!(run("c").contains("48 samples read: 48 delivered"));
    let out = lab.run(&["data", "index", "data/train"]).ok().out;
    assert!(out.contains("1 shards, 48 samples") && out.contains("1 indices written"), "{out}");
    assert_eq!(fs::read(&index).unwrap(), whole);
    assert!(lab.run(&["data", "index", "data/train"]).ok().out.contains("0 indices written, 1 were right"));
    // A shard that changed under its index.
    fs::write(&tar, &fs::read(&tar).unwrap()[..4096]).unwrap();
    lab.run(&["data", "index", "data/train"]).fails_with(&["is damaged at byte"]);
    lab.run(&["train", "--set", "run.folder=d"]).fails_with(&["is damaged at byte"]);
}
