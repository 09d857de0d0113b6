//! What `ovhost-plugin new` writes builds, and passes its own tests, in every language that can be built here.
//!
//! The golden cases of a kind are the same in all languages, so they also say that the languages' helpers agree.

mod projects;

use std::path::Path;
use std::process::Command;

use ovhost_toolchain::tools::Tool;
use ovhost_toolchain::{Kind, Lang};
use projects::{Program, builds, interpreter, target_dir};

/// A new project in `folder`.
fn new(program: &Program, folder: &Path, kind: Kind, lang: Lang) -> String {
    let name = format!("my_{kind}");
    let said = program.good(folder, &["new", &name, "--kind", kind.name(), "--lang", lang.name()]);
    assert!(said.contains("ovhost-plugin build"), "{said}");
    name
}

/// Its unit tests pass, run as its README says.
fn unit_tests(project: &Path, program: &str, args: &[&str]) {
    let mut command = Command::new(program);
    command.args(args).current_dir(project).env("CARGO_NET_OFFLINE", "true").env("PYTHONDONTWRITEBYTECODE", "1");
    // Cargo's own, of the run that this test is part of.
    command.env("CARGO_TARGET_DIR", target_dir("unit-tests")).env_remove("CARGO_MANIFEST_DIR");
    let out = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "the unit tests of {} fail\n{text}", project.display());
    let ran =
        text.contains("2 passed") || text.contains("3 passed") || text.contains("Ran 2") || text.contains("Ran 3");
    assert!(ran || text.contains("# pass 2") || text.contains("# pass 3"), "no unit test ran\n{text}");
}

/// It builds, and its golden cases pass.
fn build_and_test(program: &Program, folder: &Path, name: &str, more: &[&str]) {
    let said = program.good(folder, &[&["build", name], more].concat());
    assert!(said.contains("sha256") && said.contains(&format!("next: ovhost-plugin test {name}")), "{said}");
    let said = program.good(folder, &["test", name]);
    assert!(said.contains(" passed") && !said.contains("FAILED"), "{said}");
}

#[test]
fn rust_projects_build_and_pass() {
    if !builds(Lang::Rust) {
        return;
    }
    let (program, dir) = (Program::new(), tempfile::tempdir().unwrap());
    let guests = target_dir("guests");
    let guests = guests.to_str().unwrap();
    for kind in Kind::ALL {
        let name = new(&program, dir.path(), kind, Lang::Rust);
        build_and_test(&program, dir.path(), &name, &["--target-dir", guests]);
    }
    // Nothing of the folder is in the component: a pinned hash holds wherever the source lies.
    let elsewhere = tempfile::tempdir().unwrap();
    let name = new(&program, elsewhere.path(), Kind::Filter, Lang::Rust);
    program.good(elsewhere.path(), &["build", &name, "--target-dir", guests]);
    let component = |root: &Path| std::fs::read(root.join("my_filter/dist/my_filter.wasm")).unwrap();
    assert!(component(dir.path()) == component(elsewhere.path()), "the component depends on the folder of its source");
    // A manifest that says another kind: nothing takes the place of what is there.
    let manifest = elsewhere.path().join("my_filter/ovhost-plugin.toml");
    let text = std::fs::read_to_string(&manifest).unwrap().replace("kind = \"filter\"", "kind = \"packer\"");
    std::fs::write(&manifest, text.replace("name = \"my_filter\"", "name = \"my_packer\"")).unwrap();
    let said = program.bad(elsewhere.path(), &["build", &name, "--target-dir", guests]);
    assert!(said.contains("says kind = \"packer\", and what was built is a filter"), "{said}");
    assert!(!elsewhere.path().join("my_filter/dist/my_packer.wasm").exists());
}

#[test]
fn rust_projects_pass_their_unit_tests() {
    let (program, dir) = (Program::new(), tempfile::tempdir().unwrap());
    for kind in Kind::ALL {
        let name = new(&program, dir.path(), kind, Lang::Rust);
        unit_tests(&dir.path().join(name), "cargo", &["test", "--quiet"]);
    }
}

#[test]
fn python_projects_pass_their_unit_tests() {
    if !interpreter(Tool::ComponentizePy) {
        return;
    }
    let (program, dir) = (Program::new(), tempfile::tempdir().unwrap());
    for kind in Kind::ALL {
        let name = new(&program, dir.path(), kind, Lang::Python);
        unit_tests(&dir.path().join(name), "python3", &["-m", "unittest"]);
    }
}

#[test]
fn python_unit_tests_find_what_the_manifests_path_names() {
    if !interpreter(Tool::ComponentizePy) {
        return;
    }
    let (program, dir) = (Program::new(), tempfile::tempdir().unwrap());
    let project = dir.path().join(new(&program, dir.path(), Kind::Filter, Lang::Python));
    let change = |file: &str, how: &dyn Fn(String) -> String| {
        let path = project.join(file);
        std::fs::write(&path, how(std::fs::read_to_string(&path).unwrap())).unwrap();
    };
    std::fs::create_dir(project.join("vendor")).unwrap();
    std::fs::write(project.join("vendor/ovhost_vendored.py"), "FEWEST = 3\n").unwrap();
    change("ovhost-plugin.toml", &|text| text + "path = ['vendor']  # third parties\n");
    change("app.py", &|text| text.replacen("import ovhost\n", "import ovhost\nimport ovhost_vendored\n", 1));
    assert!(std::fs::read_to_string(project.join("app.py")).unwrap().contains("ovhost_vendored"));
    unit_tests(&project, "python3", &["-m", "unittest"]);
}

#[test]
fn javascript_projects_pass_their_unit_tests() {
    if !interpreter(Tool::ComponentizeQjs) {
        return;
    }
    let (program, dir) = (Program::new(), tempfile::tempdir().unwrap());
    for kind in Kind::ALL {
        let name = new(&program, dir.path(), kind, Lang::Js);
        unit_tests(&dir.path().join(name), "node", &["--test", "--test-reporter=tap"]);
    }
}

/// What a JavaScript plugin throws is said in words, and an async method is named as what it is.
#[test]
fn javascript_says_what_was_thrown() {
    if !interpreter(Tool::ComponentizeQjs) {
        return;
    }
    let (program, dir) = (Program::new(), tempfile::tempdir().unwrap());
    let project = dir.path().join(new(&program, dir.path(), Kind::Filter, Lang::Js));
    let script = r#"
        import { component } from "./ovhost/component.js";
        import { Filter } from "./ovhost/index.js";
        const about = { name: "a", summary: "s" };
        class Throws extends Filter { static about = about; row() { throw { a: 1 }; } }
        class Waits extends Filter { static about = about; async row() { return { keep: true, reason: "" }; } }
        for (const plugin of [Throws, Waits]) {
          const log = { log: (_level, words) => process.stdout.write(words + "\n") };
          const { lifecycle, filter } = component(log, plugin);
          lifecycle.init("a", "{}", []);
          try { filter.process({ runSeed: 0, firstRow: 0 }, { rows: 1, columns: [] }); } catch {}
        }
    "#;
    std::fs::write(project.join("say.mjs"), script).unwrap();
    let out = Command::new("node").arg("say.mjs").current_dir(&project).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("{\"a\":1} ("), "{said}");
    assert!(lines[1].contains("a method gave a promise (the method is async"), "{said}");
}

#[test]
fn javascript_projects_build_and_pass() {
    if !builds(Lang::Js) {
        return;
    }
    let (program, dir) = (Program::new(), tempfile::tempdir().unwrap());
    for kind in Kind::ALL {
        let name = new(&program, dir.path(), kind, Lang::Js);
        build_and_test(&program, dir.path(), &name, &[]);
    }
}

/// One kind, since an interpreter takes the host half a minute to compile; `OVHOST_TEST_ALL=1` for all four.
#[test]
fn python_projects_build_and_pass() {
    if !builds(Lang::Python) {
        return;
    }
    let (program, dir) = (Program::new(), tempfile::tempdir().unwrap());
    let all = std::env::var_os("OVHOST_TEST_ALL").is_some();
    let kinds = if all { &Kind::ALL[..] } else { &[Kind::Metric] };
    for &kind in kinds {
        let name = new(&program, dir.path(), kind, Lang::Python);
        build_and_test(&program, dir.path(), &name, &[]);
    }
}

#[test]
fn wrong_requests_are_refused_with_the_next_step() {
    let (program, dir) = (Program::new(), tempfile::tempdir().unwrap());
    let bad = |args: &[&str]| program.bad(dir.path(), args);
    assert!(bad(&["new", "filter"]).contains("a word of a language or of the SDK"));
    assert!(bad(&["new", "Min-Words"]).contains("lower-case letters"));
    new(&program, dir.path(), Kind::Prompt, Lang::Js);
    assert!(bad(&["new", "my_prompt"]).contains("is there already"));
    assert!(bad(&["build"]).contains("ovhost-plugin new"));
    assert!(bad(&["build", "nowhere"]).contains("is no folder"));
    assert_eq!(program.run(dir.path(), &["new", "x", "--kind", "sieve"]).status.code(), Some(2));
}

#[test]
fn the_doctor_sees_an_old_copy_of_the_sdk_and_renews_it() {
    let (program, dir) = (Program::new(), tempfile::tempdir().unwrap());
    for (lang, owned) in
        [(Lang::Rust, "vendor/ovhost-sdk/src/lib.rs"), (Lang::Python, "ovhost/rows.py"), (Lang::Js, "wit/plugin.wit")]
    {
        let project = dir.path().join(lang.name());
        program.good(dir.path(), &["new", "mine", "--lang", lang.name(), "--path", lang.name()]);
        let (owned, mine) = (project.join(owned), project.join("README.md"));
        let whole = std::fs::read(&owned).unwrap();
        std::fs::write(&owned, "old").unwrap();
        std::fs::write(&mine, "mine").unwrap();
        let said = program.bad(&project, &["doctor"]);
        let cure = said.lines().any(|line| line.contains("do: ovhost-plugin doctor --update-sdk"));
        assert!(cure && said.contains("differs from this program's"), "{said}");
        // Whether tools are missing is this machine's affair; the project's line is good again.
        let out = program.run(&project, &["doctor", "--update-sdk"]);
        let said = String::from_utf8_lossy(&out.stdout);
        let line = said.lines().find(|line| line.contains("project mine")).unwrap();
        assert!(line.starts_with("ok"), "{said}");
        assert!(std::fs::read(&owned).unwrap() == whole && std::fs::read(&mine).unwrap() == b"mine");
    }
}

#[test]
fn the_doctor_answers_in_json() {
    let (program, dir) = (Program::new(), tempfile::tempdir().unwrap());
    let out = program.run(dir.path(), &["doctor", "--lang", "python", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let checks = said["checks"].as_array().unwrap();
    let bad = checks.iter().any(|check| check["counts"] == true && check["good"] == false);
    assert_eq!(out.status.code(), Some(i32::from(bad)));
    let tool = checks.iter().find(|check| check["name"] == "componentize-py").unwrap();
    assert_eq!((&tool["counts"], &tool["lang"]), (&true.into(), &"python".into()));
    assert_eq!(tool["good"], Tool::ComponentizePy.find().is_some());
}

/// An interrupted build ends the tool that it runs, with all that the tool started, and leaves nothing.
#[test]
fn an_interrupted_build_leaves_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let (program, dir) = (Program::new(), tempfile::tempdir().unwrap());
    let (bin, tmp) = (dir.path().join("bin"), dir.path().join("tmp"));
    std::fs::create_dir(&bin).unwrap();
    std::fs::create_dir(&tmp).unwrap();
    // It says that it is the pinned version, and else waits for ever in a program of its own.
    let (tool, pid) = (bin.join("componentize-py"), dir.path().join("pid"));
    let version = Tool::ComponentizePy.version();
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo componentize-py {version} && exit\nsleep 300 &\necho $! > {pid}.new\nmv {pid}.new {pid}\nwait\n",
        pid = pid.display()
    );
    std::fs::write(&tool, text).unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let name = new(&program, dir.path(), Kind::Filter, Lang::Python);
    let path = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path))).unwrap();
    for signal in ["-INT", "-TERM"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovhost-plugin"));
        command.args(["build", &name]).current_dir(dir.path()).env("PATH", &path).env("TMPDIR", &tmp);
        let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let start = std::time::Instant::now();
        while !pid.exists() {
            assert!(start.elapsed().as_secs() < 30, "the tool was not run");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(130), "{}", String::from_utf8_lossy(&out.stderr));
        let sleeper = std::fs::read_to_string(&pid).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", sleeper.trim())).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "what the tool started still runs: {stat}");
        assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0, "a temporary folder is left");
        assert!(!dir.path().join(&name).join("dist").exists());
        std::fs::remove_file(&pid).unwrap();
    }
}
