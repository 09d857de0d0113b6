//! Hashes of plugins and assets in a recipe: what it pins, what the files are, and the recipe with them written in.
//!
//! ```text
//!  text ──toml_edit──► [plugins] filter[], prompt, packer, metric[] (or a file of [[filter]] tables)
//!       ─► every plugin and asset located and hashed ─► Pin { place, wanted, found } ─► the same text with new hashes
//! ```
//! Only `sha256` keys change; comments, order and spacing of everything else stay as they are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, Value};

use crate::places;

/// One file that a recipe names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Where in the recipe: `plugins.filter[0]`, `plugins.filter[0].assets.words`.
    pub place: String,
    /// As the recipe names it.
    pub name: String,
    /// The hash in the recipe.
    pub wanted: Option<String>,
    /// The file.
    pub path: PathBuf,
    /// The file's hash.
    pub found: String,
}

impl Pin {
    /// Whether the recipe has the file's hash.
    pub fn holds(&self) -> bool {
        self.wanted.as_deref().map(digits).is_some_and(|w| w.eq_ignore_ascii_case(&self.found))
    }
}

fn digits(pin: &str) -> &str {
    pin.strip_prefix("sha256:").unwrap_or(pin)
}

/// Reads a recipe's text, hashes every file that it names, and writes the hashes into the document. `update`: of several
/// files that a name fits, the newest counts, not the pinned one. Errors: it is no recipe, or a file is not there.
pub fn pin(text: &str, dir: &Path, update: bool) -> Result<(DocumentMut, Vec<Pin>)> {
    let mut document: DocumentMut = text.parse()?;
    let mut pins = Vec::new();
    let root = document.as_table_mut();
    let (table, prefix): (&mut dyn TableLike, &str) = if root.contains_key("plugins") {
        let plugins = root.get_mut("plugins").and_then(Item::as_table_like_mut);
        (plugins.context("plugins is not a table")?, "plugins.")
    } else if root.contains_key("filter") {
        (root, "")
    } else {
        bail!("it has no [plugins] table and no [[filter]] tables")
    };
    let mut lock = Lock { dir, update, pins: &mut pins };
    for key in ["filter", "prompt", "packer", "metric"] {
        let Some(item) = table.get_mut(key) else { continue };
        let place = format!("{prefix}{key}");
        match item {
            Item::ArrayOfTables(list) => {
                for (i, one) in list.iter_mut().enumerate() {
                    lock.plugin(one, &format!("{place}[{i}]"))?;
                }
            }
            Item::Value(Value::Array(list)) => {
                for (i, one) in list.iter_mut().enumerate() {
                    let one = one.as_inline_table_mut().with_context(|| format!("{place}[{i}] is not a table"))?;
                    lock.plugin(one, &format!("{place}[{i}]"))?;
                }
            }
            other => {
                let one = holder(other).with_context(|| format!("{place} is not a table"))?;
                lock.plugin(one, &place)?;
            }
        }
    }
    ensure!(!pins.is_empty(), "it names no plugin");
    Ok((document, pins))
}

struct Lock<'a> {
    dir: &'a Path,
    update: bool,
    pins: &'a mut Vec<Pin>,
}

impl Lock<'_> {
    fn plugin(&mut self, table: &mut dyn Holder, place: &str) -> Result<()> {
        let name =
            table.get("plugin").and_then(Item::as_str).with_context(|| format!("{place} has no key `plugin`"))?;
        let name = name.to_owned();
        let wanted = hash_in(table, place)?;
        let pin = wanted.as_deref().filter(|_| !self.update);
        let path = places::locate(&name, pin, self.dir).with_context(|| place.to_owned())?.path;
        let found = sha256(&path)?;
        let pin = Pin { place: place.to_owned(), name, wanted, path, found };
        write_hash(table, "plugin", &pin);
        self.pins.push(pin);
        let Some(assets) = table.get_mut("assets") else { return Ok(()) };
        let assets = assets.as_table_like_mut().with_context(|| format!("{place}.assets is not a table"))?;
        let names: Vec<String> = assets.iter().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            if let Some(item) = assets.get_mut(&name) {
                self.asset(item, &format!("{place}.assets.{name}"))?;
            }
        }
        Ok(())
    }

    fn asset(&mut self, item: &mut Item, place: &str) -> Result<()> {
        if let Some(name) = item.as_str().map(str::to_owned) {
            // A path alone becomes a table that holds it.
            let decor = item.as_value().map(|v| v.decor().clone());
            let mut table = InlineTable::new();
            table.insert("path", name.into());
            let mut value = Value::InlineTable(table);
            decor.into_iter().for_each(|d| *value.decor_mut() = d);
            *item = Item::Value(value);
        }
        let table = holder(item).with_context(|| format!("{place} is neither a path nor a table"))?;
        let name = table.get("path").and_then(Item::as_str).with_context(|| format!("{place} has no key `path`"))?;
        let name = name.to_owned();
        let path = self.dir.join(&name);
        let wanted = hash_in(table, place)?;
        let found = sha256(&path).with_context(|| place.to_owned())?;
        let pin = Pin { place: place.to_owned(), name, wanted, path, found };
        write_hash(table, "path", &pin);
        self.pins.push(pin);
        Ok(())
    }
}

fn hash_in(table: &dyn Holder, place: &str) -> Result<Option<String>> {
    match table.get("sha256") {
        None => Ok(None),
        Some(item) => Ok(Some(item.as_str().with_context(|| format!("{place}.sha256 is not a text"))?.to_owned())),
    }
}

/// Puts a hash into a table, after the key that names the file where there was none before.
fn write_hash(table: &mut dyn Holder, after: &str, pin: &Pin) {
    if pin.holds() {
        return;
    }
    if let Some(old) = table.get_mut("sha256").and_then(Item::as_value_mut) {
        // The text around a value (a comment after it) stays.
        let decor = old.decor().clone();
        *old = pin.found.as_str().into();
        *old.decor_mut() = decor;
        return;
    }
    let keys: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).collect();
    table.insert("sha256", toml_edit::value(pin.found.as_str()));
    let rank = |key: &str| match keys.iter().position(|k| k == key) {
        Some(i) => 2 * i,
        None => keys.iter().position(|k| k == after).map_or(2 * keys.len(), |i| 2 * i + 1),
    };
    table.order(&rank);
}

/// What has `plugin` or `path`, and `sha256`: a table under a header, or one in braces.
trait Holder: TableLike {
    fn order(&mut self, rank: &dyn Fn(&str) -> usize);
}

impl Holder for Table {
    fn order(&mut self, rank: &dyn Fn(&str) -> usize) {
        self.sort_values_by(|a, _, b, _| rank(a).cmp(&rank(b)));
    }
}

impl Holder for InlineTable {
    fn order(&mut self, rank: &dyn Fn(&str) -> usize) {
        self.sort_values_by(|a, _, b, _| rank(a).cmp(&rank(b)));
        // Spaces lie before and after values; with one more value they are all set anew.
        self.fmt();
    }
}

fn holder(item: &mut Item) -> Option<&mut dyn Holder> {
    match item {
        Item::Table(table) => Some(table),
        Item::Value(Value::InlineTable(table)) => Some(table),
        _ => None,
    }
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).with_context(|| format!("reading {}", path.display()))?;
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = r#"# The lab's recipe.
[run]
folder = "runs/a"   # where

[plugins]
trust = "pinned"
prompt = { plugin = "a.wasm", name = "p" } # inline

[[plugins.filter]]
# small pictures go
plugin = "a.wasm"  # ours
config = { min_side = 8 }
limits.memory_mib = 64

[plugins.filter.assets]
words = "words.txt"   # one a line
table = { path = "table.json", sha256 = "00" }

[[plugins.filter]]
plugin = "b.wasm"
sha256 = "SHA_B" # looked at

[plugins.packer]
plugin = "b.wasm"
"#;

    fn lab() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.wasm", "b.wasm", "words.txt", "table.json"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        dir
    }

    fn hash(text: &str) -> String {
        Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn only_hashes_change() {
        let dir = lab();
        let text = RECIPE.replace("SHA_B", &format!("sha256:{}", hash("b.wasm").to_uppercase()));
        let (document, pins) = pin(&text, dir.path(), false).unwrap();
        let (a, b) = (hash("a.wasm"), hash("b.wasm"));
        let wanted = text
            .replace("plugin = \"a.wasm\"  # ours\n", &format!("plugin = \"a.wasm\"  # ours\nsha256 = \"{a}\"\n"))
            .replace(
                "words = \"words.txt\"",
                &format!("words = {{ path = \"words.txt\", sha256 = \"{}\" }}", hash("words.txt")),
            )
            .replace("sha256 = \"00\"", &format!("sha256 = \"{}\"", hash("table.json")))
            .replace("{ plugin = \"a.wasm\", name", &format!("{{ plugin = \"a.wasm\", sha256 = \"{a}\", name"))
            .replace(
                "[plugins.packer]\nplugin = \"b.wasm\"\n",
                &format!("[plugins.packer]\nplugin = \"b.wasm\"\nsha256 = \"{b}\"\n"),
            );
        assert_eq!(document.to_string(), wanted);
        let held: Vec<(&str, bool)> = pins.iter().map(|p| (p.place.as_str(), p.holds())).collect();
        let all = [
            ("plugins.filter[0]", false),
            ("plugins.filter[0].assets.words", false),
            ("plugins.filter[0].assets.table", false),
            ("plugins.filter[1]", true),
            ("plugins.prompt", false),
            ("plugins.packer", false),
        ];
        assert_eq!(held, all);
        // Once more changes nothing.
        let (again, pins) = pin(&wanted, dir.path(), false).unwrap();
        assert_eq!(again.to_string(), wanted);
        assert!(pins.iter().all(Pin::holds));
    }

    #[test]
    fn a_file_of_filters_is_locked_too() {
        let dir = lab();
        let (document, pins) = pin("[[filter]]\nplugin = \"a.wasm\"\n", dir.path(), false).unwrap();
        assert_eq!(document.to_string(), format!("[[filter]]\nplugin = \"a.wasm\"\nsha256 = \"{}\"\n", hash("a.wasm")));
        assert_eq!(pins[0].place, "filter[0]");
        let list = format!(
            "[plugins]\nmetric = [\n  {{ plugin = \"a.wasm\" }}, # first\n  {{ plugin = \"b.wasm\", sha256 = \"{}\" }},\n]\n",
            hash("b.wasm")
        );
        let (document, _) = pin(&list, dir.path(), false).unwrap();
        let one = format!("{{ plugin = \"a.wasm\", sha256 = \"{}\" }}", hash("a.wasm"));
        assert_eq!(document.to_string(), list.replace("{ plugin = \"a.wasm\" }", &one));
    }

    #[test]
    fn mistakes_are_named() {
        let dir = lab();
        let error = |text: &str| format!("{:#}", pin(text, dir.path(), false).unwrap_err());
        assert!(error("[run]\n").contains("no [plugins] table"));
        assert!(error("[plugins]\ntrust = \"pinned\"\n").contains("names no plugin"));
        assert!(error("[plugins.prompt]\nname = \"x\"\n").contains("plugins.prompt has no key `plugin`"));
        assert!(error("[plugins]\nfilter = [3]\n").contains("plugins.filter[0] is not a table"));
        assert!(
            error("[plugins.prompt]\nplugin = \"no.wasm\"\n")
                .contains("plugins.prompt: plugin \"no.wasm\" was not found")
        );
        let asset = error("[plugins.prompt]\nplugin = \"a.wasm\"\nassets = { w = \"no.txt\" }\n");
        assert!(asset.contains("plugins.prompt.assets.w") && asset.contains("no.txt"), "{asset}");
        assert!(error("[plugins.prompt]\nplugin = \"a.wasm\"\nsha256 = 3\n").contains("sha256 is not a text"));
    }
}
