//! Names of new plugins: which ones would make a project that does not build, and why.
//!
//! A name becomes a type (`row_ctx` is `RowCtx`) and, in Rust, a crate. What the project's own code calls by such a name is read
//! from what `new` writes: the templates, the SDK's prelude, the lock file.

use anyhow::{Result, ensure};
use ovhost_toolchain::project::check_name;
use ovhost_toolchain::{Kind, Lang};

use super::{embedded, template, type_name};

/// Words of one of the languages, and names of what every plugin deals with.
const TAKEN: [&str; 94] = [
    "abstract",
    "and",
    "as",
    "asset",
    "assets",
    "async",
    "await",
    "become",
    "box",
    "break",
    "case",
    "catch",
    "class",
    "component",
    "config",
    "const",
    "continue",
    "core",
    "crate",
    "ctx",
    "default",
    "deserialize",
    "do",
    "dyn",
    "else",
    "enum",
    "err",
    "export",
    "extends",
    "extern",
    "false",
    "filter",
    "final",
    "findings",
    "fn",
    "for",
    "function",
    "if",
    "impl",
    "import",
    "in",
    "info",
    "item",
    "json",
    "judge",
    "lambda",
    "let",
    "limits",
    "log",
    "loop",
    "match",
    "message",
    "metric",
    "mod",
    "mode",
    "move",
    "mut",
    "need",
    "new",
    "none",
    "null",
    "ok",
    "option",
    "ovhost",
    "packer",
    "packing",
    "part",
    "pass",
    "piece",
    "plugin",
    "prompt",
    "pub",
    "rendered",
    "result",
    "return",
    "row",
    "segment",
    "self",
    "serialize",
    "some",
    "static",
    "std",
    "string",
    "struct",
    "super",
    "test",
    "this",
    "trait",
    "true",
    "type",
    "unsafe",
    "vec",
    "verdict",
    "write",
];

/// What Rust brings into scope of every module.
const RUST: [&str; 37] = [
    "AsMut",
    "AsRef",
    "AsyncFn",
    "AsyncFnMut",
    "AsyncFnOnce",
    "Box",
    "Clone",
    "Copy",
    "Default",
    "DoubleEndedIterator",
    "Drop",
    "Eq",
    "Err",
    "ExactSizeIterator",
    "Extend",
    "Fn",
    "FnMut",
    "FnOnce",
    "From",
    "FromIterator",
    "Future",
    "Into",
    "IntoFuture",
    "IntoIterator",
    "Iterator",
    "Option",
    "Ord",
    "PartialEq",
    "PartialOrd",
    "Result",
    "Send",
    "Sized",
    "String",
    "Sync",
    "TryFrom",
    "TryInto",
    "Vec",
];

/// What JavaScript has everywhere.
const JS: [&str; 21] = [
    "Array", "BigInt", "Boolean", "Date", "Error", "Function", "Infinity", "Intl", "Map", "Math", "Number", "Object",
    "Promise", "Proxy", "Reflect", "RegExp", "Set", "String", "Symbol", "WeakMap", "WeakSet",
];

/// What Python has everywhere, of names that a class may have.
const PYTHON: [&str; 11] = [
    "ArithmeticError",
    "Ellipsis",
    "Exception",
    "False",
    "IndexError",
    "KeyError",
    "None",
    "RuntimeError",
    "True",
    "TypeError",
    "ValueError",
];

/// Whether `name` can name a new plugin in `lang`. Errors: it cannot; why, and what is allowed.
pub fn check_new_name(name: &str, lang: Lang) -> Result<()> {
    check_name(name)?;
    const NEXT: &str = "say what it does, such as min_words";
    ensure!(
        TAKEN.binary_search(&name).is_err(),
        "`{name}` is a word of a language or of the SDK and cannot name a plugin; {NEXT}"
    );
    let ty = type_name(name);
    let globals = match lang {
        Lang::Rust => &RUST[..],
        Lang::Python => &PYTHON,
        Lang::Js => &JS,
    };
    ensure!(
        !globals.contains(&ty.as_str()),
        "`{name}` cannot name a plugin in {lang}: its type would be {ty}, which the language has already; {NEXT}"
    );
    ensure!(
        !own_types(lang)?.contains(&ty),
        "`{name}` cannot name a plugin in {lang}: its type would be {ty}, which the SDK or the project's own code has already; \
         {NEXT}"
    );
    if lang == Lang::Rust {
        let same = |line: &str| {
            let package = line.strip_prefix("name = \"").and_then(|rest| rest.strip_suffix('"'));
            package.is_some_and(|package| package.replace('-', "_") == name.replace('-', "_"))
        };
        let lock = super::lock::pruned(embedded("Cargo.lock")?, super::SDK)?;
        let taken = lock.lines().any(same) || name.replace('-', "_") == super::SDK.replace('-', "_");
        ensure!(!taken, "`{name}` cannot name a plugin in Rust: the project depends on a crate of that name; {NEXT}");
    }
    Ok(())
}

/// Names of types that the code of a project of the language uses, whatever its kind, and that the SDK brings into scope.
fn own_types(lang: Lang) -> Result<Vec<String>> {
    let (end, others): (_, &[&str]) = match lang {
        Lang::Rust => ("rs", &["sdk/src/lib.rs"]),
        Lang::Python => ("py", &["templates/python/ovhost/__init__.py"]),
        Lang::Js => ("js", &["templates/js/ovhost/index.js"]),
    };
    let mut out = Vec::new();
    for kind in Kind::ALL {
        out.extend(types_in(template(&format!("{}/{}.{end}", lang.name(), kind.name()))?));
    }
    for file in others {
        let text = embedded(file)?;
        // Of the Rust SDK, what `prelude::*` brings.
        let scope = text.split_once("pub mod prelude {").map_or(text, |(_, inside)| inside);
        let scope =
            if lang == Lang::Rust { scope.split_once("\n}").map_or(scope, |(inside, _)| inside) } else { scope };
        out.extend(types_in(scope));
    }
    Ok(out)
}

/// Words that begin with a capital and have a small letter, outside of comments and texts. Members (`Verdict::Keep`) are no
/// names of the scope, but for those that are imported.
fn types_in(source: &str) -> Vec<String> {
    let mut out = Vec::new();
    let code = source.replace("{{Type}}", "").replace("\"\"\"", "\"");
    let comment = |line: &&str| ["//", "#", "/*", "*"].iter().any(|mark| line.trim_start().starts_with(mark));
    for line in code.lines().filter(|line| !comment(line)) {
        let imports = line.trim_start().starts_with("use ");
        for part in line.split('"').step_by(2) {
            let mut before = ' ';
            for word in part.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let ty = bare.starts_with(|c: char| c.is_ascii_uppercase())
                    && bare.contains(|c: char| c.is_ascii_lowercase());
                if ty && (imports || !matches!(before, ':' | '.')) {
                    out.push(bare.to_owned());
                }
                before = word.chars().next_back().unwrap_or(' ');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_not_compile_are_refused_with_the_reason() {
        assert!(TAKEN.is_sorted());
        for lang in Lang::ALL {
            for name in ["filter", "none", "async", "self", "Min", "a b", ""] {
                assert!(check_new_name(name, lang).is_err(), "{name}");
            }
            check_new_name("filter_words", lang).unwrap();
            check_new_name("repetition", lang).unwrap();
        }
        assert_eq!(type_name("min_words-2nd"), "MinWords2nd");
        for (name, lang, why) in [
            ("row_ctx", Lang::Rust, "RowCtx, which the SDK"),
            ("config_error", Lang::Rust, "ConfigError, which the SDK"),
            ("stateful-filter", Lang::Rust, "StatefulFilter, which the SDK"),
            ("b_tree_set", Lang::Rust, "BTreeSet, which the SDK or the project's own"),
            ("counts", Lang::Rust, "Counts, which"),
            ("iterator", Lang::Rust, "Iterator, which the language has"),
            ("ovhost-sdk", Lang::Rust, "a crate of that name"),
            ("ovhost_sdk", Lang::Rust, "a crate of that name"),
            ("serde", Lang::Rust, "a crate of that name"),
            ("set", Lang::Js, "Set, which the language has"),
            ("row_error", Lang::Js, "RowError, which the SDK"),
            ("config_error", Lang::Python, "ConfigError, which the SDK"),
            ("value_error", Lang::Python, "ValueError, which the language has"),
        ] {
            let error = check_new_name(name, lang).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("such as min_words"), "{error}");
        }
        // What one language has is free in another.
        check_new_name("set", Lang::Rust).unwrap();
        check_new_name("b_tree_set", Lang::Js).unwrap();
    }

    #[test]
    fn words_of_comments_and_texts_are_no_types() {
        let source =
            "// A Comment\nuse std::Thing;\nlet x = \"Some text\" + Other::Member; const LOUD: u8 = 1;\n * Star\n";
        assert_eq!(types_in(source), ["Thing", "Other"]);
    }
}
