//! Minisign's keys and signatures, and what a signer says of a component.
//!
//! ```text
//!  X.wasm.minisig, X.wasm.KEY-HASH.minisig (several, of pulled components) ──signatures_of──► files ──Signed::read──► Signed
//!  trusted comment ──Claims──► name of the file, plugin, kind, hash: compared with what the component is
//! ```
//! A signature covers bytes, not a place: without the comparison any component of a signer could be put in the place of another
//! one, or of a newer one.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{PublicKey, Signature};
use semver::Version;
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::describe::Description;
use crate::error::plain;
use crate::files::read_regular;
use crate::scan::Kind;
use crate::trust::TrustError;

/// Largest file of a signature or public key.
const SMALL_FILE: u64 = 64 << 10;
/// Lines of a signature: a comment, the signature, the trusted comment, the signature of both.
const LINES: usize = 4;
const SUFFIX: &str = ".minisig";
/// Bytes of a text's sha256 in the name of its file, as digits.
const MARK: usize = 16;

/// Number of a minisign key, as minisign prints it: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

/// A public key whose signatures are believed.
#[derive(Debug, Clone)]
pub struct TrustedKey {
    id: KeyId,
    key: PublicKey,
}

impl TrustedKey {
    /// Reads a key: `RW...` itself, or a file of minisign's (`minisign.pub`) relative to `dir`.
    pub fn read(text: &str, dir: &Path) -> Result<Self, TrustError> {
        let bad = |why: String| TrustError::BadKey { key: text.to_owned(), why };
        let encoded = if looks_like_key(text) {
            text.to_owned()
        } else {
            let path = dir.join(text);
            let content = small_file(&path).map_err(|e| {
                bad(format!(
                    "it is neither a public key (56 characters, RW...) nor a readable file: {}: {e}",
                    path.display()
                ))
            })?;
            let mut lines = content.lines().map(str::trim).filter(|l| looks_like_key(l));
            let line = lines.next();
            let more = lines.count();
            if more > 0 {
                let (file, all) = (path.display(), more + 1);
                return Err(bad(format!(
                    "{file} holds {all} public keys; name each by itself (RW...), or put each into a file"
                )));
            }
            line.ok_or_else(|| bad(format!("{} holds no line with a public key (RW...)", path.display())))?.to_owned()
        };
        let key = PublicKey::from_base64(&encoded).map_err(|e| bad(e.to_string()))?;
        let id = key_id(&encoded).ok_or_else(|| bad("it is not base64".into()))?;
        Ok(TrustedKey { id, key })
    }

    /// Its number.
    pub fn id(&self) -> KeyId {
        self.id
    }
}

/// The text of a `.minisig` file, understood.
pub struct Signed {
    id: KeyId,
    signature: Signature,
}

impl Signed {
    /// Reads the text. The error says what is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let lines = text.trim_end().lines().count();
        if lines > LINES {
            return Err(format!("it has {lines} lines; a signature has {LINES}"));
        }
        let signature = Signature::decode(text).map_err(|e| e.to_string())?;
        let id = text.lines().nth(1).and_then(key_id).ok_or("its second line is not base64")?;
        Ok(Signed { id, signature })
    }

    /// Number of the key that made it.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What the signer says of the file, in `ovhost plugin sign`'s fields. To be believed as [`comment`](Self::comment).
    pub fn claims(&self) -> Claims<'_> {
        Claims::of(self.comment())
    }

    /// What the signer says of the file. To be believed only once [`verify`](Self::verify) is content.
    pub fn comment(&self) -> &str {
        self.signature.trusted_comment()
    }

    /// Checks the file's bytes and the comment. The error is the reason.
    pub fn verify(&self, key: &TrustedKey, bytes: &[u8]) -> Result<(), String> {
        // Signatures without the hash are minisign's form before 2021; they are as good.
        key.key.verify(bytes, &self.signature, true).map_err(|e| e.to_string())
    }
}

/// The fields of a trusted comment that `ovhost plugin sign` writes. The `minisign` program writes no `plugin:`; nothing is
/// compared then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Claims<'a> {
    file: Option<&'a str>,
    sha256: Option<&'a str>,
    kind: Option<&'a str>,
    /// Name and version.
    plugin: Option<&'a str>,
}

impl<'a> Claims<'a> {
    /// The fields of a comment.
    pub(crate) fn of(comment: &'a str) -> Self {
        let field = |name: &str| comment.split('\t').find_map(|f| f.strip_prefix(name)?.strip_prefix(':'));
        let plugin = field("plugin");
        let ours = |name: &str| plugin.and_then(|_| field(name));
        Claims { file: ours("file"), sha256: ours("sha256"), kind: ours("kind"), plugin }
    }

    /// Whether our fields are there.
    pub fn any(&self) -> bool {
        self.plugin.is_some()
    }

    /// Compares the name under which a component was signed with that of its file. A pulled component's file is named by its
    /// hash, a package's `PLUGIN/VERSION.wasm`. The error is the name that was signed and the one that is there.
    pub fn check_name(&self, path: &Path, sha256: &str) -> Result<(), (String, String)> {
        let Some(file) = self.file else { return Ok(()) };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if name == file || stem.eq_ignore_ascii_case(sha256) {
            return Ok(());
        }
        let plugin = self.plugin.unwrap_or_default();
        let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        if Version::parse(&stem).is_ok() {
            let same = |a: &str, b: &str| a.replace('_', "-").eq_ignore_ascii_case(&b.replace('_', "-"));
            if plugin.split_once(' ').is_some_and(|(name, version)| same(name, &folder) && version == stem) {
                return Ok(());
            }
            return Err((plain(plugin, 200), format!("{} {}", plain(&folder, 200), plain(&stem, 200))));
        }
        Err((plain(file, 200), plain(&name, 200)))
    }

    /// Compares with what a component says of itself. The error is what was signed and what is there.
    pub fn check_component(&self, sha256: &str, kind: Kind, is: &Description) -> Result<(), (String, String)> {
        let plugin = format!("{} {}", is.name, is.version);
        let fields = [(self.plugin, plugin.as_str()), (self.kind, kind.name()), (self.sha256, sha256)];
        for (signed, is) in fields {
            if let Some(signed) = signed.filter(|signed| *signed != is) {
                return Err((plain(signed, 200), plain(is, 200)));
            }
        }
        Ok(())
    }
}

/// Where the signature of a component lies.
pub fn signature_path(component: &Path) -> PathBuf {
    let mut name = component.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

/// 42 bytes in base64 that begin with "Ed".
fn looks_like_key(text: &str) -> bool {
    text.len() == 56 && text.starts_with("RW") && STANDARD.decode(text).is_ok()
}

/// The number of the key in a line of base64: bytes 2 to 9, the least first.
fn key_id(line: &str) -> Option<KeyId> {
    let bytes = STANDARD.decode(line.trim()).ok()?;
    Some(KeyId(u64::from_le_bytes(bytes.get(2..10)?.try_into().ok()?)))
}

/// Where one of several signatures of a pulled component lies: apart by the key that it names and, since anybody can name any
/// key, by its text.
pub(crate) fn kept_signature_path(component: &Path, signed: &Signed, text: &str) -> PathBuf {
    let mut name = component.as_os_str().to_owned();
    name.push(format!(".{}-{}{SUFFIX}", signed.id(), &hex(&Sha256::digest(text))[..MARK]));
    name.into()
}

/// The files of all signatures of a component, its [`signature_path`] first; empty where it is not signed. Errors: its folder
/// cannot be listed.
pub fn signatures_of(component: &Path) -> std::io::Result<Vec<PathBuf>> {
    let folder = component.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stem = component.file_name().unwrap_or_default().to_string_lossy();
    let mark = |c: &str, len: usize| c.len() == len && c.bytes().all(|b| b.is_ascii_hexdigit());
    let kept = |name: &str| {
        let middle = name.strip_prefix(&*stem)?.strip_prefix('.')?.strip_suffix(SUFFIX)?;
        let (key, text) = middle.split_once('-')?;
        (mark(key, 16) && mark(text, MARK)).then_some(())
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().and_then(kept).is_some() {
            found.push(component.with_file_name(entry.file_name()));
        }
    }
    found.sort();
    let plain = signature_path(component);
    if std::fs::symlink_metadata(&plain).is_ok() {
        found.insert(0, plain);
    }
    Ok(found)
}

/// The text of a small file, such as a signature or a public key. Errors: it is no regular file, too large, no text.
pub fn small_file(path: &Path) -> std::io::Result<String> {
    let bytes = read_regular(path, SMALL_FILE)?;
    if bytes.len() as u64 > SMALL_FILE {
        return Err(std::io::Error::other(format!("it has more than {SMALL_FILE} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::tests::{ID, KEY, SIGNATURE};

    #[test]
    fn keys_are_given_themselves_or_as_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lab.pub"), format!("untrusted comment: minisign public key\n{KEY}\n")).unwrap();
        std::fs::write(dir.path().join("bad.pub"), "nothing").unwrap();
        assert_eq!(TrustedKey::read("lab.pub", dir.path()).unwrap().id().to_string(), ID);
        assert_eq!(TrustedKey::read(KEY, dir.path()).unwrap().id().to_string(), ID);
        let error = |text: &str| TrustedKey::read(text, dir.path()).unwrap_err().to_string();
        assert!(error("bad.pub").contains("no line with a public key"));
        assert!(error("no.pub").contains("nor a readable file"));
        assert!(error(&KEY[..55]).contains("nor a readable file"));
        // The second of two is not passed over in silence.
        std::fs::write(dir.path().join("two.pub"), format!("a\n{KEY}\nb\n{KEY}\n")).unwrap();
        assert!(error("two.pub").contains("two.pub holds 2 public keys; name each by itself"));
    }

    #[test]
    fn a_signature_has_four_lines() {
        assert!(Signed::read(&format!("{SIGNATURE}\n\n")).is_ok());
        let why = Signed::read(&format!("{SIGNATURE}and more\n")).err().unwrap();
        assert_eq!(why, "it has 5 lines; a signature has 4");
        assert_eq!(Signed::read(&SIGNATURE.repeat(2)).err().unwrap(), "it has 8 lines; a signature has 4");
    }

    #[test]
    fn only_our_fields_claim_anything() {
        let ours = "timestamp:1\tfile:x.wasm\thashed\tsha256:ab\tkind:filter\tplugin:lab_x 1.2.0";
        let claims = Claims::of(ours);
        assert!(claims.any());
        assert_eq!(claims.check_name(Path::new("plugins/x.wasm"), "ab"), Ok(()));
        assert_eq!(claims.check_name(Path::new("blobs/ab.wasm"), "ab"), Ok(()), "a pulled one is named by its hash");
        assert_eq!(claims.check_name(Path::new("pkg/lab-x/1.2.0.wasm"), "ab"), Ok(()));
        let old = claims.check_name(Path::new("pkg/lab-x/1.3.0.wasm"), "ab").unwrap_err();
        assert_eq!(old, ("lab_x 1.2.0".to_owned(), "lab-x 1.3.0".to_owned()));
        let other = claims.check_name(Path::new("y.wasm"), "ab").unwrap_err();
        assert_eq!(other, ("x.wasm".to_owned(), "y.wasm".to_owned()));

        let is = |name: &str| Description {
            name: name.into(),
            version: "1.2.0".into(),
            license: String::new(),
            homepage: String::new(),
            entries: Vec::new(),
        };
        assert_eq!(claims.check_component("ab", Kind::Filter, &is("lab_x")), Ok(()));
        let other = claims.check_component("ab", Kind::Filter, &is("lab_y")).unwrap_err();
        assert_eq!(other, ("lab_x 1.2.0".to_owned(), "lab_y 1.2.0".to_owned()));
        assert!(claims.check_component("ab", Kind::Packer, &is("lab_x")).is_err());
        assert!(claims.check_component("cd", Kind::Filter, &is("lab_x")).is_err());

        // minisign's own comment names a file, and no plugin.
        let theirs = Claims::of("timestamp:1\tfile:x.wasm\thashed");
        assert!(!theirs.any());
        assert_eq!(theirs.check_name(Path::new("y.wasm"), "ab"), Ok(()));
        assert_eq!(theirs.check_component("cd", Kind::Packer, &is("lab_y")), Ok(()));
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("x.minisig");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), Path::new("/dev/zero"), dir.path()] {
            let error = small_file(path).unwrap_err().to_string();
            assert!(error.contains("no regular file"), "{}: {error}", path.display());
        }
        let long = dir.path().join("long");
        std::fs::write(&long, vec![b'x'; SMALL_FILE as usize + 1]).unwrap();
        assert!(small_file(&long).unwrap_err().to_string().contains("more than 65536 bytes"));
    }
}
