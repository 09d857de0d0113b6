//! Minisign keys and signatures in files: the same files as the `minisign` tool reads and writes.
//!
//! ```text
//!  keygen ─► NAME.key (secret, 0600, scrypt-encrypted unless --no-password), NAME.pub
//!  sign   ─► secret key + component ─► X.wasm.minisig            verify ─► public keys + both ─► yes or no
//! ```

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign::{KeyPair, SecretKey, SecretKeyBox};

/// How the password of a secret key is given.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PasswordArgs {
    /// File whose first line is the key's password; else it is asked for on the terminal
    #[arg(long, value_name = "FILE", conflicts_with = "no_password")]
    password_file: Option<PathBuf>,
    /// The key has no password
    #[arg(long)]
    no_password: bool,
}

enum Password {
    None,
    Given(String),
    Ask,
}

impl PasswordArgs {
    fn get(&self) -> Result<Password> {
        if self.no_password {
            return Ok(Password::None);
        }
        let Some(file) = &self.password_file else {
            // Where the question would be asked; without it the answer would be read from nowhere.
            ensure!(
                fs::File::open("/dev/tty").is_ok(),
                "there is no terminal to ask for the key's password: use --password-file FILE, or --no-password for a key without one"
            );
            return Ok(Password::Ask);
        };
        let text = fs::read_to_string(file).with_context(|| format!("reading the password file {}", file.display()))?;
        let line = text.lines().next().unwrap_or_default();
        ensure!(
            !line.is_empty(),
            "the first line of {} is empty; a key without a password is --no-password",
            file.display()
        );
        Ok(Password::Given(line.to_owned()))
    }
}

/// Makes a pair of keys in two new files and returns the public one as text (`RW...`) and its number. Errors: a file is there
/// already and `force` is false, or cannot be written.
pub fn generate(secret: &Path, public: &Path, password: &PasswordArgs, force: bool) -> Result<(String, String)> {
    for path in [secret, public] {
        ensure!(
            force || !path.exists(),
            "{} exists; a lost key cannot be made again, so name another with --out or say --force",
            path.display()
        );
    }
    let pair = match password.get()? {
        Password::None => KeyPair::generate_unencrypted_keypair(),
        Password::Given(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        Password::Ask => KeyPair::generate_encrypted_keypair(None),
    }
    .context("making a pair of keys")?;
    let public_text = pair.pk.to_box()?.into_string();
    write_secret(secret, pair.sk.to_box(None)?.into_string().as_bytes())?;
    crate::files::write(public, public_text.as_bytes())?;
    Ok((pair.pk.to_base64(), number(pair.pk.keynum())))
}

/// Reads a secret key. Errors: no such file, no key, a wrong password or none where one is needed.
pub fn read_secret(path: &Path, password: &PasswordArgs) -> Result<SecretKey> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("reading the secret key {}; `ovhost plugin keygen` makes one", path.display()))?;
    let plain = match without_checksum(&text) {
        Some(bytes) => SecretKey::from_bytes(&bytes),
        None => SecretKeyBox::from_string(&text)?.into_unencrypted_secret_key(),
    };
    let key = match plain {
        Ok(key) => Ok(key),
        Err(_) if looks_encrypted(&text) => {
            let given = match password.get()? {
                Password::None => bail!("{} has a password: leave out --no-password", path.display()),
                Password::Given(password) => Some(password),
                Password::Ask => None,
            };
            SecretKeyBox::from_string(&text)?.into_secret_key(given)
        }
        Err(error) => Err(error),
    };
    key.with_context(|| format!("{} cannot be used as a secret key", path.display()))
}

/// The text of a signature of `bytes` with that trusted comment.
pub fn sign(key: &SecretKey, bytes: &[u8], comment: &str) -> Result<String> {
    let untrusted = format!("signature from ovhost secret key {}", number(key.keynum()));
    let signature = minisign::sign(None, key, bytes, Some(comment), Some(&untrusted))?;
    Ok(signature.into_string())
}

/// A key's number as it is shown everywhere.
pub fn number(keynum: &[u8]) -> String {
    keynum.iter().rev().map(|b| format!("{b:02X}")).collect()
}

/// Whether the key is encrypted: its bytes begin "EdSc", Ed25519 and scrypt.
fn looks_encrypted(text: &str) -> bool {
    text.lines().nth(1).is_some_and(|line| line.starts_with("RWRTY"))
}

/// The bytes of a key without password that has no checksum: `minisign -G -W` up to 0.11 writes zeros there.
fn without_checksum(text: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text.lines().nth(1)?.trim()).ok()?;
    let plain = bytes.len() == 158 && bytes.starts_with(b"Ed\0\0B2");
    (plain && bytes[126..].iter().all(|b| *b == 0)).then_some(bytes)
}

/// A file that only its owner reads, from its first byte on, whole or not there.
fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A name that nobody could foresee, made new, readable by its owner alone.
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}: its folder must exist and be writable", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_secret_is_its_owners_alone_whatever_lay_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, trap) = (dir.path().join("k.key"), dir.path().join("elsewhere"));
        fs::write(&trap, "old").unwrap();
        symlink(&trap, dir.path().join("k.key.new")).unwrap();
        write_secret(&path, b"secret").unwrap();
        assert_eq!(fs::read_to_string(&trap).unwrap(), "old");
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.is_file(), meta.permissions().mode() & 0o777), (true, 0o600));
    }

    // Made with `minisign -G -W` 0.11; signs nothing but these tests.
    const SECRET: &str = "untrusted comment: minisign encrypted secret key\n\
        RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA9dHBvuJGrkslvnwQkk0lWQNRXDyJ33Offmvfb/1MDzC04/AJwKI2JSOuV9TI1UKWL+MX5oSLqpLT2jGqIktBxoJSmrhsBcJKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    const PUBLIC: &str = "RWT10cG+4kauSyOuV9TI1UKWL+MX5oSLqpLT2jGqIktBxoJSmrhsBcJK";

    #[test]
    fn minisign_s_own_keys_sign() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.key");
        fs::write(&path, SECRET).unwrap();
        let key = read_secret(&path, &PasswordArgs { no_password: true, password_file: None }).unwrap();
        let text = sign(&key, b"bytes", "timestamp:1\tfile:x").unwrap();
        let trusted = ovhost_plugin::TrustedKey::read(PUBLIC, dir.path()).unwrap();
        let signed = ovhost_plugin::Signed::read(&text).unwrap();
        assert_eq!(signed.id().to_string(), number(key.keynum()));
        assert_eq!(signed.comment(), "timestamp:1\tfile:x");
        signed.verify(&trusted, b"bytes").unwrap();
        assert!(signed.verify(&trusted, b"Bytes").is_err());

        // A key that was cut or changed is none.
        fs::write(&path, SECRET.replace("RWQAAEIy", "RWQAAEIx")).unwrap();
        assert!(read_secret(&path, &PasswordArgs { no_password: true, password_file: None }).is_err());
    }
}
