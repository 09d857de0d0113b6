//! Whom a recipe trusts: pins, signatures, packages, pulled plugins. Each refusal says what to do next.

use std::fs;

use serde_json::Value;

use crate::lab::{Lab, command, plugins};

/// A lab whose recipe has these keys at the top of `[plugins]`, and trains one step.
fn lab(keys: &str) -> Lab {
    let lab = Lab::new();
    let first = "[[plugins.filter]]\nplugin = \"filters/image_geometry.wasm\"";
    lab.edit_recipe(first, &format!("[plugins]\n{keys}\n\n{first}"));
    lab.edit_recipe("steps = 8", "steps = 1");
    lab.edit_recipe("warmup_steps = 2", "warmup_steps = 0");
    lab
}

/// The record of the run's plugins, by kind.
fn records(lab: &Lab) -> Vec<(String, Value)> {
    let run: Value = serde_json::from_slice(&fs::read(lab.at("runs/a/run.json")).unwrap()).unwrap();
    let plugins = run["plugins"].as_array().unwrap();
    plugins.iter().map(|p| (p["kind"].as_str().unwrap().to_owned(), p["trust"].clone())).collect()
}

#[test]
fn pinned_wants_a_hash_of_everything() {
    let lab = lab("trust = \"pinned\"");
    lab.run(&["train"]).fails_with(&["image_geometry", "no sha256", "trust = \"pinned\"", "ovhost plugin lock"]);
    let before = fs::read_to_string(lab.at("recipe.toml")).unwrap();
    let check = lab.run(&["plugin", "lock", "--check"]);
    assert_eq!(check.code, 1, "{}", check.err);
    assert!(check.out.contains("plugins.filter[0]") && check.out.contains("had none"), "{}", check.out);
    assert_eq!(fs::read_to_string(lab.at("recipe.toml")).unwrap(), before, "--check changes nothing");

    lab.run(&["plugin", "lock"]).ok();
    let locked = fs::read_to_string(lab.at("recipe.toml")).unwrap();
    let without: Vec<&str> = locked.lines().filter(|l| !l.starts_with("sha256 = ")).collect();
    assert_eq!(without, before.lines().collect::<Vec<_>>(), "only hashes were added");
    lab.run(&["plugin", "lock", "--check"]).ok();
    lab.run(&["train"]).ok();
    assert!(records(&lab).iter().all(|(_, trust)| trust["pinned"] == true), "{:?}", records(&lab));

    // What --plugins brings is held to it too.
    let other = "packers/sequential.wasm";
    let said = lab.run(&["train", "--set", "run.folder=runs/b", "--plugins", other]);
    said.fails_with(&["sequential", "no sha256", "NAME@sha256:"]);
    let inspected = lab.run(&["plugin", "inspect", other, "--json"]).ok().out;
    let hash = serde_json::from_str::<Value>(&inspected).unwrap()["sha256"].as_str().unwrap().to_owned();
    let pinned = format!("{other}@sha256:{hash}");
    lab.run(&["train", "--set", "run.folder=runs/b", "--plugins", &pinned]).ok();
    let wrong = format!("{other}@sha256:{}", "0".repeat(64));
    lab.run(&["train", "--set", "run.folder=runs/c", "--plugins", &wrong]).fails_with(&["sequential", &hash]);
    let ours = format!("packers/padding_free.wasm@sha256:{hash}");
    lab.run(&["train", "--plugins", &ours]).fails_with(&["--plugins", "the recipe pins packers/padding_free.wasm"]);
}

#[test]
fn a_changed_file_is_noticed_and_accepted_by_locking_again() {
    let lab = lab("trust = \"pinned\"");
    fs::copy(plugins().join("packers/sequential.wasm"), lab.at("own.wasm")).unwrap();
    lab.edit_recipe("plugin = \"packers/padding_free.wasm\"\nconfig = { window = 8 }", "plugin = \"own.wasm\" # ours");
    lab.run(&["plugin", "lock"]).ok();
    fs::copy(plugins().join("packers/padding_free.wasm"), lab.at("own.wasm")).unwrap();
    lab.run(&["train"]).fails_with(&["own.wasm", "pinned sha256", "file's sha256"]);
    let check = lab.run(&["plugin", "lock", "--check"]);
    assert_eq!(check.code, 1);
    assert!(check.out.contains("plugins.packer  own.wasm"), "{}", check.out);
    lab.run(&["plugin", "lock"]).ok();
    lab.run(&["train"]).ok();
    assert!(fs::read_to_string(lab.at("recipe.toml")).unwrap().contains("plugin = \"own.wasm\" # ours"));
}

#[test]
fn pins_may_come_between_a_run_and_its_resumption() {
    let lab = Lab::new();
    lab.run(&["train", "--set", "train.steps=2"]).ok();
    lab.run(&["plugin", "lock"]).ok();
    lab.edit_recipe("[[plugins.filter]]", "[plugins]\ntrust = \"pinned\"\n\n[[plugins.filter]]");
    lab.run(&["train", "--resume", "--allow-recipe-change", "--set", "train.steps=4"]).ok();
}

#[test]
fn signed_wants_a_known_key() {
    let lab = lab("trust = \"signed\"\ntrusted_keys = [\"lab.pub\"]");
    // Signatures lie beside the components: these are the lab's own copies.
    for kind in ["filters", "prompts", "packers", "metrics"] {
        fs::create_dir_all(lab.at(kind)).unwrap();
    }
    let names = ["filters/image_geometry", "prompts/conversation", "packers/padding_free", "metrics/exact_match"];
    let files: Vec<String> = names.iter().map(|n| format!("{n}.wasm")).collect();
    for file in &files {
        fs::copy(plugins().join(file), lab.at(file)).unwrap();
    }
    lab.run(&["train"]).fails_with(&["lab.pub", "nor a readable file"]);
    lab.run(&["plugin", "keygen", "--out", "lab", "--no-password"]).ok();
    lab.run(&["plugin", "keygen", "--out", "other", "--no-password"]).ok();
    lab.run(&["train"]).fails_with(&[
        "image_geometry",
        "is not signed",
        "image_geometry.wasm.minisig",
        "ovhost plugin sign",
    ]);

    let sign = |args: &[&str]| {
        let mut args = [&["plugin", "sign"], args].concat();
        args.extend(files.iter().map(String::as_str));
        lab.run(&args).ok()
    };
    let other = sign(&["--key", "other.key"]).out;
    let other = other.split("key ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    lab.run(&["train"]).fails_with(&["is signed by key", &other, "not trusted", "plugins.trusted_keys"]);

    sign(&["--key", "lab.key", "--force"]);
    let verified = lab.run(&["plugin", "verify", &files[0], "--key", "lab.pub"]).ok().out;
    for part in ["good signature", "file:image_geometry.wasm", "kind:filter", "sha256:"] {
        assert!(verified.contains(part), "{verified}");
    }
    lab.run(&["train"]).ok();
    let records = records(&lab);
    assert!(records.iter().all(|(_, trust)| trust["signature"]["verified"] == true), "{records:?}");

    // A change after signing is refused, by a run and by `verify`.
    let path = lab.at(&files[0]);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    lab.run(&["train"]).fails_with(&["image_geometry.wasm", "changed after signing"]);
    lab.run(&["plugin", "verify", &files[0], "--key", "lab.pub"]).fails_with(&["BAD signature"]);
    lab.run(&["plugin", "verify", &files[1], "--key", "other.pub"]).fails_with(&["is signed by key", "not by"]);
}

#[test]
fn signed_without_keys_is_a_mistake_in_the_recipe() {
    lab("trust = \"signed\"").run(&["train"]).fails_with(&["plugins.trusted_keys is empty", "keygen"]);
    lab("trust = \"sealed\"").run(&["train"]).fails_with(&["sealed", "`sandbox`, `pinned`, `signed`"]);
}

#[test]
fn keys_without_a_wish_for_signatures_are_noticed() {
    let lab = lab("trusted_keys = [\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"]");
    let said = lab.run(&["train"]).ok().err;
    assert_eq!(said.matches("plugins.trusted_keys is set").count(), 1, "{said}");
    assert!(said.contains("trust = \"signed\""), "{said}");
}

#[test]
fn a_recipe_s_plugins_are_not_those_of_the_current_folder() {
    let lab = lab("");
    fs::create_dir_all(lab.at("elsewhere/packers")).unwrap();
    fs::create_dir_all(lab.at("packers")).unwrap();
    fs::write(lab.at("elsewhere/packers/padding_free.wasm"), "another").unwrap();
    fs::copy(plugins().join("packers/padding_free.wasm"), lab.at("packers/padding_free.wasm")).unwrap();
    let recipe = lab.at("recipe.toml");
    let run = |args: &[&str]| {
        let output = command(&lab.at("elsewhere"), args).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (good, said) = run(&["plugin", "lock", recipe.to_str().unwrap()]);
    assert!(good, "{said}");
    let locked = fs::read_to_string(&recipe).unwrap();
    let inspected = lab.run(&["plugin", "inspect", "packers/padding_free.wasm", "--json"]).ok().out;
    let hash = serde_json::from_str::<Value>(&inspected).unwrap()["sha256"].as_str().unwrap().to_owned();
    assert!(locked.contains(&hash), "{locked}");
}

#[test]
fn packages_are_found_by_version() {
    let lab = lab("");
    for (version, file) in [("1.0.0", "sequential"), ("1.2.0", "padding_free"), ("2.0.0", "sequential")] {
        let path = lab.at(&format!("packages/lab/pack/{version}.wasm"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(plugins().join(format!("packers/{file}.wasm")), path).unwrap();
    }
    let run = |args: &[&str]| {
        let output = command(lab.path(), args).env("OVHOST_PACKAGES", lab.at("packages")).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    lab.edit_recipe("plugin = \"packers/padding_free.wasm\"", "plugin = \"lab:pack@1\"");
    let (good, said) = run(&["train"]);
    assert!(good && said.contains("plugin packer padding_free"), "{said}");
    lab.edit_recipe("lab:pack@1", "lab:pack@3");
    let (good, said) = run(&["train"]);
    assert!(!good && said.contains("no version fits; there are 2.0.0, 1.2.0, 1.0.0"), "{said}");

    // A locked recipe stays with its version when a newer one comes.
    lab.edit_recipe("lab:pack@3", "lab:pack@1");
    let (good, said) = run(&["plugin", "lock"]);
    assert!(good, "{said}");
    fs::copy(plugins().join("packers/sequential.wasm"), lab.at("packages/lab/pack/1.3.0.wasm")).unwrap();
    let (good, said) = run(&["plugin", "lock", "--check"]);
    assert!(good, "{said}");
    let (good, said) = run(&["train", "--set", "run.folder=runs/b"]);
    assert!(good && said.contains("plugin packer padding_free"), "{said}");
    let (good, said) = run(&["plugin", "lock", "--update"]);
    assert!(good && said.contains("plugins.packer"), "{said}");
}

#[test]
fn a_run_never_downloads() {
    let lab = lab("");
    lab.edit_recipe("packers/padding_free.wasm", "oci://localhost:1/lab/pack:1.0.0");
    lab.run(&["train"]).fails_with(&["never downloads", "ovhost plugin pull oci://localhost:1/lab/pack:1.0.0"]);
    lab.edit_recipe("oci://localhost:1/lab/pack:1.0.0", "oci://localhost:1/Lab:1.0.0");
    lab.run(&["train"]).fails_with(&["oci://localhost:1/Lab:1.0.0", "lower-case", "oci://REGISTRY/REPOSITORY:TAG"]);
}
