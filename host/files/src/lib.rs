//! Output files that are there whole or not at all.
//!
//! ```text
//!  path ──links followed──► a file, or nothing yet ──► a temporary one beside it, synced, renamed at the end
//!                      └──► a device, a pipe       ──► opened and written, as it cannot be replaced
//! ```
//! A rename would put a plain file in the place of whatever has the name: a link would lose its target, and `/dev/null` would be
//! a file from then on.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Links that are followed one after another, as Linux does.
const LINKS: usize = 40;

/// Where the bytes of an output go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file, or where one may be made; no link.
    File(PathBuf),
    /// A device, a pipe or an open file of a process (`/dev/stdout`), which is written and never replaced.
    Stream(PathBuf),
}

/// What is behind `path`, which need not exist. Errors: it is a folder, it has links without end, or cannot be looked at.
pub fn place(path: &Path) -> io::Result<Place> {
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        let kind = match at.symlink_metadata() {
            Ok(meta) => meta.file_type(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Place::File(at)),
            Err(e) => return Err(e),
        };
        if kind.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, format!("{} is a folder", at.display())));
        }
        if !kind.is_symlink() {
            return Ok(if kind.is_file() { Place::File(at) } else { Place::Stream(at) });
        }
        // Links there are no names of files but handles of what is open, which may have no name at all.
        if folder(&at).canonicalize()?.starts_with("/proc") {
            return Ok(Place::Stream(at));
        }
        at = folder(&at).join(at.read_link()?);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{} leads through more than {LINKS} links", path.display()),
    ))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file in the making. Dropped before [`Whole::finish`], it leaves nothing behind; a device or a pipe has what was written to
/// it by then.
#[derive(Debug)]
pub struct Whole(Sink);

#[derive(Debug)]
enum Sink {
    Temporary(NamedTempFile, PathBuf),
    Stream(File),
}

impl Whole {
    /// Begins the file that is to be at `path`. Its rights are those of the file that it replaces, else what the umask leaves.
    /// Errors: its folder is missing or not writable, or `path` is a folder.
    pub fn create(path: &Path) -> io::Result<Self> {
        let to = match place(path)? {
            Place::File(to) => to,
            Place::Stream(to) => return Ok(Whole(Sink::Stream(OpenOptions::new().append(true).open(to)?))),
        };
        // Temporary files are else private.
        let rights = Permissions::from_mode(0o666);
        let temporary = tempfile::Builder::new().prefix(".new-").permissions(rights).tempfile_in(folder(&to))?;
        if let Ok(old) = to.metadata() {
            temporary.as_file().set_permissions(old.permissions())?;
        }
        Ok(Whole(Sink::Temporary(temporary, to)))
    }

    /// What is written to.
    pub fn file(&mut self) -> &mut File {
        match &mut self.0 {
            Sink::Temporary(file, _) => file.as_file_mut(),
            Sink::Stream(file) => file,
        }
    }

    /// Puts the file in its place, replacing the one that was there. It is on the disk then, and so is its name.
    pub fn finish(self) -> io::Result<()> {
        let (file, to) = match self.0 {
            Sink::Temporary(file, to) => (file, to),
            Sink::Stream(mut file) => return file.flush(),
        };
        file.as_file().sync_all()?;
        file.persist(&to).map_err(|e| e.error)?;
        File::open(folder(&to))?.sync_all()
    }
}

impl Write for Whole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

/// Writes a whole file at once. Errors: as those of [`Whole`].
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = Whole::create(path)?;
    file.write_all(bytes)?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::{FileTypeExt as _, symlink};

    use super::*;

    #[test]
    fn nothing_is_there_before_the_end() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let mut dropped = Whole::create(&path).unwrap();
        dropped.write_all(b"new").unwrap();
        drop(dropped);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        write(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "as private as it was");
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "no temporary file is left");
        assert!(write(home.path(), b"").unwrap_err().to_string().contains("is a folder"));
    }

    #[test]
    fn links_stay_links() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        std::fs::create_dir(at("far")).unwrap();
        std::fs::write(at("far/target"), "old").unwrap();
        symlink("far/target", at("one")).unwrap();
        symlink("one", at("two")).unwrap();
        symlink("far/not-yet", at("open")).unwrap();
        write(&at("two"), b"new").unwrap();
        write(&at("open"), b"made").unwrap();
        assert_eq!(std::fs::read(at("far/target")).unwrap(), b"new");
        assert_eq!(std::fs::read(at("far/not-yet")).unwrap(), b"made");
        for link in ["one", "two", "open"] {
            assert!(at(link).symlink_metadata().unwrap().is_symlink(), "{link}");
        }
        symlink("ring", at("ring")).unwrap();
        assert!(write(&at("ring"), b"").is_err());
    }

    #[test]
    fn pipes_are_written_and_stay() {
        let home = tempfile::tempdir().unwrap();
        let pipe = home.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let from = pipe.clone();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            File::open(from).unwrap().read_to_string(&mut text).unwrap();
            text
        });
        write(&pipe, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(pipe.symlink_metadata().unwrap().file_type().is_fifo());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn handles_of_open_files_are_no_names() {
        // The path of a process's own standard error, whatever that is.
        assert_eq!(place(Path::new("/proc/self/fd/2")).unwrap(), Place::Stream("/proc/self/fd/2".into()));
    }
}
