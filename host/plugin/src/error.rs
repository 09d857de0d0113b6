//! Everything that can go wrong with a plugin, worded for the person who has to fix it.
//!
//! In: facts (paths, hashes, names, what was seen). Out: one `PluginError` whose message names the plugin, the rule,
//! the value and the next step.

use std::fmt;
use std::path::PathBuf;

/// Why a component stopped in the middle of a call. Its store is dropped; the host goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrapCause {
    /// The call's instruction budget ran out.
    OutOfFuel {
        /// The budget of the call, in fuel units (about one per wasm instruction).
        budget: u64,
    },
    /// It asked for more memory than its limit.
    Memory {
        /// The limit, MiB.
        limit_mib: u32,
        /// What it wanted in all, bytes.
        wanted: u64,
    },
    /// It recursed past the limit of the native stack.
    StackOverflow {
        /// The limit, KiB.
        limit_kib: u32,
    },
    /// It touched memory outside its own.
    OutOfBounds,
    /// It panicked (or aborted).
    Panic {
        /// What it logged at `error` level in the same call: the SDK's panic hook puts the panic's text there.
        text: Option<String>,
    },
    /// It gave the host more bytes than allowed.
    OutputTooLarge {
        /// The limit, MiB.
        limit_mib: u32,
    },
    /// Its answer (or what it logged) is no value of the contract's types: an address outside of its memory, a case that does
    /// not exist, text that is not UTF-8.
    Malformed {
        /// wasmtime's words.
        text: String,
    },
    /// Anything else that wasmtime reports.
    Other {
        /// Its words, outermost first.
        text: String,
    },
}

impl fmt::Display for TrapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrapCause::OutOfFuel { budget } => write!(
                f,
                "it was stopped after {budget} fuel without an answer: either it loops for ever, or raise \
                 limits.fuel_per_row (limits.fuel_base for calls without rows)"
            ),
            TrapCause::Memory { limit_mib, wanted } => write!(
                f,
                "it asked for {:.1} MiB of memory and limits.memory_mib is {limit_mib}: raise it or, in a call with \
                 rows, send smaller batches",
                *wanted as f64 / (1 << 20) as f64
            ),
            TrapCause::StackOverflow { limit_kib } => write!(
                f,
                "it recursed past limits.stack_kib = {limit_kib}: its recursion is endless or too deep for the data"
            ),
            TrapCause::OutOfBounds => write!(
                f,
                "it touched memory outside its own: most often its own (shadow) stack overflowed through deep recursion or \
                 big arrays on the stack, else a wild pointer"
            ),
            TrapCause::Panic { text: Some(text) } => write!(f, "{text}"),
            TrapCause::Panic { text: None } => write!(
                f,
                "it aborted (wasm `unreachable`) without saying why: build it with ovhost-sdk, whose panic hook \
                 reports the panic's text, or out of memory inside the guest"
            ),
            TrapCause::OutputTooLarge { limit_mib } => {
                write!(f, "it returned (or logged) more than limits.output_mib = {limit_mib}: return less or raise it")
            }
            TrapCause::Malformed { text } => write!(
                f,
                "it handed over a malformed value: {text}. This is a defect of the plugin, or of the bindings that it was \
                 built with"
            ),
            TrapCause::Other { text } => write!(f, "{text}"),
        }
    }
}

/// A finding of a plugin (or of its schema) about its configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Diagnostic {
    /// JSON pointer into the configuration, "" for the whole.
    pub path: String,
    /// What is wrong and what is allowed.
    pub message: String,
    /// Whether it forbids the run.
    pub fatal: bool,
}

/// The kinds of error that a plugin itself answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The configuration cannot work with these rows.
    BadConfig,
    /// The rows are not what the plugin documents.
    BadInput,
    /// Understood and not offered.
    Unsupported,
    /// A defect of the plugin.
    Internal,
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RefusalKind::BadConfig => "bad configuration",
            RefusalKind::BadInput => "bad input",
            RefusalKind::Unsupported => "not supported",
            RefusalKind::Internal => "internal error of the plugin",
        })
    }
}

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No file of that name in any of the places.
    #[error(
        "plugin \"{name}\" was not found. Looked at:\n{}{}\nGive a path, or the folder that it is in with \
         OVHOST_PLUGIN_PATH=FOLDER; the first-party plugins are in target/plugins of ovhost's source after `cargo xtask plugins`",
        .tried.iter().map(|p| format!("  {}", p.display())).collect::<Vec<_>>().join("\n"),
        if .near.is_empty() { String::new() } else { format!("\nNear names: {}", .near.join(", ")) }
    )]
    NotFound {
        /// As the user wrote it.
        name: String,
        /// Every path that was tried, in order.
        tried: Vec<PathBuf>,
        /// Existing plugins with a similar name.
        near: Vec<String>,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// "read", "open", ...
        action: &'static str,
        /// The system's words.
        source: std::io::Error,
    },
    /// A file is over its size cap.
    #[error("{} is {size} bytes; {what} may have at most {cap}", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What the cap is for.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The cap.
        cap: u64,
    },
    /// The file is not the one that the recipe pinned.
    #[error(
        "{} is not the plugin that was pinned:\n  pinned sha256 {pinned}\n  file's sha256 {actual}\nPut the pinned file \
         back, or accept this one: write its sha256 into the recipe",
        .path.display()
    )]
    HashMismatch {
        /// The component.
        path: PathBuf,
        /// As the recipe says.
        pinned: String,
        /// Of the file.
        actual: String,
    },
    /// A pin that is no sha256.
    #[error("sha256 = \"{value}\" of plugin {} is not 64 hexadecimal digits; `ovhost plugin inspect` shows it", .path.display())]
    BadPin {
        /// The component.
        path: PathBuf,
        /// As the recipe says.
        value: String,
    },
    /// The file is something else than a component.
    #[error("{} is not a WebAssembly component: {why}", .path.display())]
    NotAComponent {
        /// The file.
        path: PathBuf,
        /// What it is and how to make the right thing.
        why: String,
    },
    /// A component that does not validate or compile.
    #[error("{} is not a valid component: {why}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The validator's words.
        why: String,
    },
    /// A component whose code is far beyond what compilers of plugins make.
    #[error(
        "{} would take too long to compile and was not compiled: {why}. Compilers of plugins stay far below \
         that by themselves. Split the function, where you generate code",
        .path.display()
    )]
    TooMuchCode {
        /// The component.
        path: PathBuf,
        /// What there is too much of, how much there is, how much there may be.
        why: String,
    },
    /// Compiling was given up.
    #[error(
        "compiling {} was given up: {why}. Nothing of it was run. If you trust it, raise {variable} and try again; else do not use it",
        .path.display()
    )]
    Compiling {
        /// The component.
        path: PathBuf,
        /// Which bound was reached.
        why: String,
        /// The environment variable that holds the bound.
        variable: &'static str,
    },
    /// It wants to import more than the contract gives.
    #[error(
        "{} imports what ovhost does not offer to plugins:\n{}\nA plugin may import only ovhost:plugin/log and \
         ovhost:plugin/types (0.1.x): no files, clocks, network or randomness. Build without WASI (Rust: \
         wasm32-unknown-unknown; Python: componentize-py --stub-wasi; JavaScript: disable every feature)",
        .path.display(),
        list_imports(.imports)
    )]
    Imports {
        /// The component.
        path: PathBuf,
        /// Each import that is refused, with why where that is not obvious.
        imports: Vec<String>,
    },
    /// Its exports are not those of one plugin kind.
    #[error("{} is not an ovhost plugin: {why}", .path.display())]
    Exports {
        /// The component.
        path: PathBuf,
        /// What is missing, doubled or of another version.
        why: String,
    },
    /// The engine could not be made.
    #[error("the WebAssembly engine could not be started: {why}")]
    Engine {
        /// wasmtime's words.
        why: String,
    },
    /// A limit out of range.
    #[error("plugin {plugin}: limits.{name} = {value} is out of range; allowed: {allowed}")]
    Limit {
        /// Plugin name.
        plugin: String,
        /// The key.
        name: &'static str,
        /// As given.
        value: u64,
        /// The range in words.
        allowed: String,
    },
    /// What the plugin says of itself breaks a rule.
    #[error("plugin {} describes itself wrongly: {rule}. This is a defect of the plugin", .path.display())]
    Description {
        /// The component.
        path: PathBuf,
        /// The rule and what was seen.
        rule: String,
    },
    /// No such entry, or several and none chosen.
    #[error("plugin {}: {why}; it has: {}", .path.display(), .available.join(", "))]
    Entry {
        /// The component.
        path: PathBuf,
        /// What was asked.
        why: String,
        /// Names of its entries.
        available: Vec<String>,
    },
    /// The configuration was refused, by the schema or by the plugin's `init`.
    #[error("plugin {plugin}: its configuration is refused:\n{}", list_diagnostics(.diagnostics))]
    Config {
        /// Plugin name.
        plugin: String,
        /// Every finding.
        diagnostics: Vec<Diagnostic>,
    },
    /// An asset that the plugin does not know.
    #[error("plugin {plugin} has no asset \"{name}\"; it takes {}", if .allowed.is_empty() { "none".to_owned() } else { .allowed.join(", ") })]
    Asset {
        /// Plugin name.
        plugin: String,
        /// As the recipe says.
        name: String,
        /// What it declares.
        allowed: Vec<String>,
    },
    /// A packer used as a filter, and so on.
    #[error("plugin {plugin} ({}) is a {is} and cannot be used as a {wanted}", .path.display())]
    WrongKind {
        /// Plugin name.
        plugin: String,
        /// The component.
        path: PathBuf,
        /// What it is.
        is: crate::Kind,
        /// What was asked.
        wanted: crate::Kind,
    },
    /// A column that the plugin requires is not there.
    #[error(
        "plugin {plugin} reads column \"{column}\", which is not offered here; offered: {}",
        .available.join(", ")
    )]
    MissingColumn {
        /// Plugin name.
        plugin: String,
        /// The column.
        column: String,
        /// What the batch has.
        available: Vec<String>,
    },
    /// The caller's batch breaks the contract; a defect of the host.
    #[error("the batch for plugin {plugin} is malformed: {why}")]
    BadBatch {
        /// Plugin name.
        plugin: String,
        /// The rule and what was seen.
        why: String,
    },
    /// The plugin answered the whole call with an error.
    #[error("plugin {plugin}, {call}: {kind}: {message}{}", .detail.as_ref().map(|d| format!("\n  {d}")).unwrap_or_default())]
    Refused {
        /// Plugin name.
        plugin: String,
        /// The function.
        call: &'static str,
        /// Of what sort.
        kind: RefusalKind,
        /// Its words.
        message: String,
        /// More of them.
        detail: Option<String>,
    },
    /// An answer that breaks the contract.
    #[error("plugin {plugin}, {call}: its answer breaks the contract: {rule}. This is a defect of the plugin")]
    Output {
        /// Plugin name.
        plugin: String,
        /// The function.
        call: &'static str,
        /// The rule and what was seen.
        rule: String,
    },
    /// The plugin trapped.
    #[error("plugin {plugin} failed in {call}{}: {cause}{}", row_words(*.row, .key.as_deref()), crate::backtrace::words(.backtrace))]
    Trap {
        /// Plugin name.
        plugin: String,
        /// The function.
        call: &'static str,
        /// Ordinal in the stream of the guilty row, where bisection found one.
        row: Option<u64>,
        /// That row's `key` column.
        key: Option<String>,
        /// Why.
        cause: TrapCause,
        /// Functions of the plugin that were running, innermost first, as far as the component names them.
        backtrace: crate::Frames,
    },
    /// An instance whose state was lost by an earlier failure.
    #[error("plugin {plugin} lost its state in an earlier failure ({earlier}): {next}")]
    Poisoned {
        /// Plugin name.
        plugin: String,
        /// The earlier failure.
        earlier: String,
        /// What makes it usable again.
        next: &'static str,
    },
    /// Asked for what only a plugin with state can do, or only one without.
    #[error("plugin {plugin}: {why}")]
    StateModel {
        /// Plugin name.
        plugin: String,
        /// What was asked, why it cannot be, and what to do.
        why: &'static str,
    },
    /// Saved state that does not belong here.
    #[error("plugin {plugin}: the saved state cannot be restored: {why}")]
    State {
        /// Plugin name.
        plugin: String,
        /// What is wrong with it.
        why: String,
    },
    /// A crash file that cannot be used.
    #[error("{} is not a crash file that this host can read: {why}", .path.display())]
    BadBundle {
        /// The file.
        path: PathBuf,
        /// What was seen.
        why: String,
    },
    /// The recipe's trust forbids it.
    #[error(transparent)]
    Trust(Box<crate::trust::TrustError>),
    /// A package that is not there.
    #[error(transparent)]
    Package(#[from] crate::package::PackageError),
    /// A registry's plugin that is not on this machine.
    #[error(transparent)]
    Oci(#[from] crate::oci::OciError),
    /// `init` gave another resolved configuration than at load time.
    #[error(
        "plugin {plugin} is not deterministic: `init` with the same configuration answered first\n  {first}\nand then\n  \
         {second}\nThis is a defect of the plugin"
    )]
    NotDeterministic {
        /// Plugin name.
        plugin: String,
        /// At load.
        first: String,
        /// Now.
        second: String,
    },
}

impl From<crate::trust::TrustError> for PluginError {
    fn from(error: crate::trust::TrustError) -> Self {
        PluginError::Trust(Box::new(error))
    }
}

fn list_diagnostics(diagnostics: &[Diagnostic]) -> String {
    let line = |d: &Diagnostic| {
        let at = if d.path.is_empty() { "config" } else { d.path.as_str() };
        format!("  {at}: {}{}", d.message, if d.fatal { "" } else { " (warning)" })
    };
    diagnostics.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Most bytes of a row's key that are shown.
pub(crate) const KEY_BYTES: usize = 200;
/// Most imports that are shown.
const IMPORTS: usize = 20;

fn list_imports(imports: &[String]) -> String {
    let mut lines: Vec<String> = imports.iter().take(IMPORTS).map(|i| format!("  {i}")).collect();
    if imports.len() > IMPORTS {
        lines.push(format!("  and {} more", imports.len() - IMPORTS));
    }
    lines.join("\n")
}

fn row_words(row: Option<u64>, key: Option<&str>) -> String {
    match (row, key) {
        (Some(row), Some(key)) => format!(" on row {row} (key \"{}\")", plain(key, KEY_BYTES)),
        (Some(row), None) => format!(" on row {row}"),
        (None, _) => String::new(),
    }
}

/// Shortens text from a plugin so that an error stays readable: at most `max` bytes, cut at a character.
pub(crate) fn clip(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Text from a plugin or from data as an error shows it: clipped to `max` bytes, and control characters escaped, so that it
/// cannot paint over a terminal or look like lines of the host's.
pub fn plain(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in clip(text, max).chars() {
        match c {
            '\n' => out.push_str("\n    "),
            '\t' => out.push(c),
            c if c.is_control() || turns(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Whether a character changes the direction of the text around it, which can make a line read as another.
pub fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_rows_cannot_paint_over_a_terminal() {
        let key = format!("a\u{1b}[2J\u{202e}b{}", "é".repeat(1000));
        let words = row_words(Some(3), Some(&key));
        assert!(words.starts_with(" on row 3 (key \"a\\u{1b}[2J\\u{202e}béé"), "{words}");
        assert!(words.len() < 300 && !words.chars().any(|c| c.is_control() || turns(c)), "{words}");
    }

    #[test]
    fn a_million_imports_are_a_short_list() {
        let imports = |n: usize| (0..n).map(|i| format!("a:b/i{i}")).collect::<Vec<_>>();
        assert_eq!(list_imports(&imports(2)), "  a:b/i0\n  a:b/i1");
        assert_eq!(list_imports(&imports(20)).lines().count(), 20);
        let many = PluginError::Imports { path: "x.wasm".into(), imports: imports(1_000_000) }.to_string();
        assert!(many.len() < 2000 && many.contains("  a:b/i19\n  and 999980 more\n"), "{many:.2000}");
    }
}
