//! What a file is and what it wants, before anything of it is compiled or run.
//!
//! In: the bytes of a file. Out: its plugin kind and contract version, or an error that says what the file is instead.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

use crate::error::{PluginError, plain};
use crate::nesting;
use crate::work::{self, Work};

/// The four kinds of plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Keeps or drops rows.
    Filter,
    /// Groups samples into bins.
    Packer,
    /// Turns a row into what the model reads.
    Prompt,
    /// Scores answers.
    Metric,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Filter, Kind::Packer, Kind::Prompt, Kind::Metric];

    /// Name of its interface in the contract.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Filter => "filter",
            Kind::Packer => "packer",
            Kind::Prompt => "prompt",
            Kind::Metric => "metric",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const PACKAGE: &str = "ovhost:plugin/";
/// The optional interface of filters that remember rows.
const FILTER_STATE: &str = "filter-state";

/// Version of the contract that this host offers; it loads guests of every 0.1.x.
pub const WIT_VERSION: &str = "0.1.0";

/// What a component takes and gives: read from its outermost names, before it is compiled.
#[derive(Debug, Clone, Serialize)]
pub struct Surface {
    /// What it is.
    pub kind: Kind,
    /// Contract version that it was built for.
    pub wit_version: String,
    /// Exports `filter-state`.
    pub filter_state: bool,
    /// Names of what it imports, all of them allowed.
    pub imports: Vec<String>,
    /// Names of what it exports.
    pub exports: Vec<String>,
}

/// Reads the outermost imports and exports.
pub(crate) fn scan(path: &Path, bytes: &[u8]) -> Result<Surface, PluginError> {
    header(bytes).map_err(|why| PluginError::NotAComponent { path: path.to_owned(), why })?;
    let (imports, exports) = names(bytes).map_err(|why| PluginError::Invalid { path: path.to_owned(), why })?;
    let refused: Vec<String> = imports.iter().filter_map(|name| refuse_import(name)).collect();
    if !refused.is_empty() {
        return Err(PluginError::Imports { path: path.to_owned(), imports: refused });
    }
    let surface = surface(&exports).map_err(|why| PluginError::Exports { path: path.to_owned(), why })?;
    Ok(Surface { imports, exports, ..surface })
}

fn header(bytes: &[u8]) -> Result<(), String> {
    let build = "build a component: `cargo xtask plugins` for a plugin of this repository, else cargo with wasm-component-ld as the \
                 linker";
    if bytes.starts_with(b"\x7fELF") {
        return Err(
            "it is machine code (ELF), perhaps a precompiled .cwasm. Compiled code is never loaded from a file that a \
                    user names; give the .wasm that it was made from"
                .into(),
        );
    }
    if !bytes.starts_with(b"\0asm") {
        let text = bytes.iter().position(|b| !b.is_ascii_whitespace()).is_some_and(|i| bytes[i..].starts_with(b"("));
        return Err(if text {
            "it looks like the WebAssembly text format; convert it with `wasm-tools parse`".into()
        } else {
            let seen: Vec<String> = bytes.iter().take(4).map(|b| format!("{b:02x}")).collect();
            format!("its first bytes are [{}], not 00 61 73 6d", seen.join(" "))
        });
    }
    match bytes.get(4..8) {
        Some([0x0d, 0, 1, 0]) => Ok(()),
        Some([1, 0, 0, 0]) => Err(format!("it is a core module; {build}")),
        Some(other) => Err(format!("its format version {other:?} is not known to this host; {build}")),
        None => Err("it ends inside the header".into()),
    }
}

/// Counts what compiling a component would have to do, of one that passed [`scan`]. It reads every instruction, so it is for
/// what is about to be compiled, not for what is compiled already. Error: that is more than any plugin needs.
pub(crate) fn measure(path: &Path, bytes: &[u8]) -> Result<(), PluginError> {
    let invalid = |e: wasmparser::BinaryReaderError| PluginError::Invalid { path: path.to_owned(), why: e.to_string() };
    let mut work = Work::default();
    for payload in Parser::new(0).parse_all(bytes) {
        work.payload(&payload.map_err(invalid)?).map_err(|refusal| match refusal {
            work::Refusal::Malformed(error) => invalid(error),
            work::Refusal::TooMuch(why) => PluginError::TooMuchCode { path: path.to_owned(), why },
        })?;
    }
    Ok(())
}

/// Names of the outermost imports, and of the outermost exports. The error says why nothing further should look at the
/// component: it cannot be decoded, or only by a decoder that calls itself too often.
fn names(bytes: &[u8]) -> Result<(Vec<String>, Vec<String>), String> {
    let words = |e: wasmparser::BinaryReaderError| e.to_string();
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(words)?;
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                depth += 1;
                if depth > nesting::DEPTH {
                    return Err(format!("its components are nested more than {} deep", nesting::DEPTH));
                }
            }
            Payload::ComponentTypeSection(section) => {
                let range = section.range();
                let section = bytes.get(range.clone()).unwrap_or_default();
                nesting::check_types(section, range.start)?;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(words)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(words)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

/// The name as an error shows it, if the import is not one of the two that the contract gives.
fn refuse_import(name: &str) -> Option<String> {
    let shown = plain(name, 200);
    match name.strip_prefix(PACKAGE).and_then(|rest| rest.split_once('@')) {
        Some(("log" | "types", version)) if compatible(version) => None,
        Some(("log" | "types", _)) => Some(format!("{shown} (this host offers 0.1.x, {WIT_VERSION})")),
        _ => Some(shown),
    }
}

/// A 0.1.x guest: cargo's rule for versions below 1.
fn compatible(version: &str) -> bool {
    let mut parts = version.splitn(3, '.');
    let patch = |p: &str| p.split(['-', '+']).next().is_some_and(|n| n.parse::<u32>().is_ok());
    parts.next() == Some("0") && parts.next() == Some("1") && parts.next().is_some_and(patch)
}

fn surface(exports: &[String]) -> Result<Surface, String> {
    let (mut lifecycle, mut filter_state) = (false, false);
    let mut kinds: Vec<(Kind, &str)> = Vec::new();
    for export in exports {
        let Some((interface, version)) = export.strip_prefix(PACKAGE).and_then(|rest| rest.split_once('@')) else {
            continue;
        };
        let kind = Kind::ALL.into_iter().find(|k| k.name() == interface);
        if kind.is_none() && interface != "lifecycle" && interface != FILTER_STATE {
            continue;
        }
        if !compatible(version) {
            let version = plain(version, 40);
            return Err(format!(
                "it was built for {interface} {version} and this host offers 0.1.x ({WIT_VERSION}); build it with the \
                 ovhost-sdk of this host"
            ));
        }
        match kind {
            Some(kind) => kinds.push((kind, version)),
            None if interface == FILTER_STATE => filter_state = true,
            None => lifecycle = true,
        }
    }
    let seen = || match exports.len() {
        0 => "nothing".to_owned(),
        _ => exports.iter().take(8).map(|e| plain(e, 80)).collect::<Vec<_>>().join(", "),
    };
    match kinds[..] {
        [] => Err(format!("it exports none of ovhost:plugin/{{filter,packer,prompt,metric}}, but {}", seen())),
        [(kind, _)] if filter_state && kind != Kind::Filter => {
            Err(format!("it exports {FILTER_STATE}, which belongs to filters, and is a {kind}"))
        }
        [(kind, version)] if lifecycle => Ok(Surface {
            kind,
            wit_version: version.to_owned(),
            filter_state,
            imports: Vec::new(),
            exports: Vec::new(),
        }),
        [(kind, _)] => Err(format!("it exports {kind} without ovhost:plugin/lifecycle, which every plugin needs")),
        [(first, _), (second, _), ..] => Err(format!(
            "it exports both {first} and {second}; a component holds plugins of one kind (and may hold several)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan_text(wat: &str) -> Result<Surface, String> {
        scan(Path::new("x.wasm"), &wat::parse_str(wat).unwrap()).map_err(|e| e.to_string())
    }

    fn component(imports: &[&str], exports: &[&str]) -> String {
        let imports: String = imports.iter().map(|i| format!("(import \"{i}\" (instance))")).collect();
        let exports: String = exports.iter().map(|e| format!("(export \"{e}\" (instance $e))")).collect();
        format!("(component {imports} (component $c) (instance $e (instantiate $c)) {exports})")
    }

    #[test]
    fn kind_and_version_come_from_the_exports() {
        let life = "ovhost:plugin/lifecycle@0.1.0";
        for kind in Kind::ALL {
            let export = format!("ovhost:plugin/{kind}@0.1.7");
            let surface = scan_text(&component(&["ovhost:plugin/log@0.1.2"], &[life, &export])).unwrap();
            assert_eq!((surface.kind, surface.wit_version.as_str()), (kind, "0.1.7"));
        }
        let (filter, state) = ("ovhost:plugin/filter@0.1.0", "ovhost:plugin/filter-state@0.1.0");
        assert!(scan_text(&component(&[], &[life, filter, state])).unwrap().filter_state);
        assert!(!scan_text(&component(&[], &[life, filter])).unwrap().filter_state);
        let error = |exports: &[&str]| scan_text(&component(&[], exports)).unwrap_err();
        assert!(error(&[life, "ovhost:plugin/packer@0.1.0", state]).contains("belongs to filters, and is a packer"));
        assert!(error(&[life, state]).contains("exports none of"));
        assert!(error(&[life, filter, "ovhost:plugin/filter-state@0.3.0"]).contains("filter-state 0.3.0"));
        assert!(error(&[]).contains("but nothing"));
        assert!(error(&["ovhost:plugin/filter@0.1.0"]).contains("without ovhost:plugin/lifecycle"));
        assert!(error(&[life, "ovhost:plugin/filter@0.2.0"]).contains("built for filter 0.2.0"));
        assert!(
            error(&[life, "ovhost:plugin/filter@0.1.0", "ovhost:plugin/metric@0.1.0"])
                .contains("both filter and metric")
        );
    }

    #[test]
    fn other_imports_are_listed() {
        let imports = ["wasi:cli/environment@0.2.0", "ovhost:plugin/log@0.1.0", "ovhost:plugin/types@0.3.0"];
        let error = scan_text(&component(&imports, &["ovhost:plugin/lifecycle@0.1.0"])).unwrap_err();
        assert!(error.contains("\n  wasi:cli/environment@0.2.0\n"), "{error}");
        assert!(error.contains("ovhost:plugin/types@0.3.0 (this host offers 0.1.x"), "{error}");
        assert!(!error.contains("plugin/log@"), "{error}");
    }

    #[test]
    fn imports_of_nested_components_do_not_count() {
        let text = r#"(component (component (import "wasi:cli/environment@0.2.0" (instance))) (core module))"#;
        assert!(scan_text(text).unwrap_err().contains("exports none of"));
    }

    #[test]
    fn what_would_take_minutes_to_compile_is_refused_before() {
        let export = |e: &str| format!("(export \"ovhost:plugin/{e}@0.1.0\" (instance $e))");
        let group = "(block (br_if 0 (local.get 0)) (local.set 1 (local.get 0)))".repeat(9_000);
        let text = |locals: usize| {
            let locals = "i32 ".repeat(locals);
            format!(
                "(component (core module (func (local {locals}) (loop {group} (br 0)))) (component $c)
                   (instance $e (instantiate $c)) {} {})",
                export("lifecycle"),
                export("filter")
            )
        };
        let measure = |text: &str| measure(Path::new("x.wasm"), &wat::parse_str(text).unwrap());
        measure(&text(100)).unwrap();
        let error = measure(&text(5_000)).unwrap_err().to_string();
        for part in ["x.wasm would take too long to compile", "5000 locals", "at most 20000000", "Split"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn other_files_are_named() {
        let error = |bytes: &[u8]| scan(Path::new("x.wasm"), bytes).unwrap_err().to_string();
        assert!(error(b"\x7fELF\x02").contains("machine code"));
        assert!(error(b"\0asm\x01\0\0\0").contains("core module"));
        assert!(error(b" (component)").contains("text format"));
        assert!(error(b"PK\x03\x04").contains("[50 4b 03 04]"));
        assert!(error(b"").contains("first bytes are []"));
        assert!(error(b"\0asm").contains("ends inside the header"));
        let cut = &wat::parse_str("(component (core module))").unwrap()[..12];
        assert!(error(cut).contains("not a valid component"));
    }
}
