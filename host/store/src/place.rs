//! The text that names a file or a folder → where it is: on the disk, in a bucket, on a server.

use std::path::{Path, PathBuf};

use crate::StoreError;

/// Kinds of places that are not on the local disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Amazon S3 and servers that speak its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage and Data Lake.
    Azure,
    /// Any web server; it cannot list.
    Http,
}

/// A file or folder that is not on the local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where to ask.
    pub scheme: Scheme,
    /// Scheme and bucket, container or server: `s3://bucket`, `https://host:8080`.
    pub root: String,
    /// What comes after it, without a slash at either end. Of a web server as its address has it, `%20` for a space.
    pub key: String,
}

const SCHEMES: [(&str, Scheme); 9] = [
    ("s3", Scheme::S3),
    ("s3a", Scheme::S3),
    ("gs", Scheme::Gcs),
    ("az", Scheme::Azure),
    ("abfs", Scheme::Azure),
    ("abfss", Scheme::Azure),
    ("azure", Scheme::Azure),
    ("http", Scheme::Http),
    ("https", Scheme::Http),
];

/// Whether a text names a place that is not on the local disk. A word before `://` is enough, also one that is not known, so
/// that a wrong one is not taken for a folder.
pub fn is_remote(text: &str) -> bool {
    scheme(text).is_some_and(|(scheme, _)| scheme != "file")
}

/// The path on the local disk that a text names, `file://` taken off; none if it is elsewhere.
pub fn local_path(text: &str) -> Option<PathBuf> {
    match scheme(text) {
        None => Some(PathBuf::from(text)),
        // An empty host or this one.
        Some(("file", rest)) => Some(PathBuf::from(rest.strip_prefix("localhost").unwrap_or(rest))),
        Some(_) => None,
    }
}

/// A path that results are written to, as [`local_path`] reads it. The error says why it must be one of the local disk.
pub fn output_path(text: &str) -> Result<PathBuf, String> {
    local_path(text).ok_or_else(|| {
        "results are written to the local disk, where a run that was stopped finds them again; give a folder, and copy it when \
         the run is over, for instance with `aws s3 sync`, `gcloud storage rsync` or `azcopy sync`"
            .to_owned()
    })
}

fn scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let word = scheme.len() > 1 && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    word.then_some((scheme, rest))
}

impl Place {
    /// Reads a text such as `s3://bucket/folder/train-000000.tar`.
    ///
    /// # Errors
    /// A scheme that is not known, no bucket, a query, a password.
    pub fn parse(text: &str) -> Result<Place, StoreError> {
        let refuse = |shown: &str, reason: String| StoreError::Place { place: shown.to_owned(), reason };
        let (name, rest) = scheme(text).ok_or_else(|| refuse(text, "it has no scheme such as s3://".into()))?;
        let Some((_, scheme)) = SCHEMES.iter().find(|(known, _)| *known == name) else {
            let known = "file://, s3://, gs://, az://, abfs://, http:// or https://";
            return Err(refuse(text, format!("the scheme {name}:// is not known; use {known}, or a path")));
        };
        let (host, key) = rest.split_once('/').unwrap_or((rest, ""));
        // What follows may be a secret, so it is not repeated.
        if *scheme == Scheme::Http {
            let bare = rest.split(['?', '#']).next().unwrap_or_default();
            let shown = format!("{name}://{}", bare.rsplit_once('@').map_or(bare, |(_, after)| after));
            if bare.len() != rest.len() {
                return Err(refuse(
                    &shown,
                    "it has a query (?...), which is often a signature, and places are written to logs and manifests; use an \
                     address without one, or s3://, gs:// or az:// with credentials in the environment"
                        .into(),
                ));
            }
            if host.contains('@') {
                return Err(refuse(
                    &shown,
                    "it has a user name or a password, and places are written to logs and manifests; use an address without"
                        .into(),
                ));
            }
        }
        if host.is_empty() {
            return Err(refuse(text, format!("it names no bucket or server; write {name}://BUCKET/FOLDER/FILE")));
        }
        let key = key.trim_matches('/').to_owned();
        Ok(Place { scheme: *scheme, root: format!("{name}://{host}"), key })
    }

    /// As [`Self::parse`], of a text that a path carries; none where it is a path of the local disk.
    pub fn of(path: &Path) -> Option<Result<Place, StoreError>> {
        let text = path.to_str().filter(|text| is_remote(text))?;
        Some(Place::parse(text))
    }

    /// What is called `name` in the folder that this is.
    pub fn join(&self, name: &str) -> Place {
        let key = if self.key.is_empty() { name.to_owned() } else { format!("{}/{name}", self.key) };
        Place { key, ..self.clone() }
    }

    /// The folder that this is in, and its name there.
    pub fn split(&self) -> (Place, &str) {
        let (folder, name) = self.key.rsplit_once('/').unwrap_or(("", &self.key));
        (Place { key: folder.to_owned(), ..self.clone() }, name)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.root, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written_as_they_are() {
        for (text, scheme, root, key) in [
            ("s3://bucket/a/b.tar", Scheme::S3, "s3://bucket", "a/b.tar"),
            ("s3a://bucket", Scheme::S3, "s3a://bucket", ""),
            ("gs://bucket/x//", Scheme::Gcs, "gs://bucket", "x"),
            ("az://box/x?y.tar", Scheme::Azure, "az://box", "x?y.tar"),
            ("abfss://box@me.dfs.core.windows.net/a", Scheme::Azure, "abfss://box@me.dfs.core.windows.net", "a"),
            ("http://host:90/a%20b/c.tar", Scheme::Http, "http://host:90", "a%20b/c.tar"),
        ] {
            let place = Place::parse(text).unwrap();
            assert_eq!((place.scheme, place.root.as_str(), place.key.as_str()), (scheme, root, key), "{text}");
            assert_eq!(Place::parse(&place.to_string()).unwrap(), place);
        }
        let shard = Place::parse("s3://bucket/a/b.tar").unwrap();
        let (folder, name) = shard.split();
        assert_eq!((folder.to_string().as_str(), name), ("s3://bucket/a", "b.tar"));
        assert_eq!(folder.join("c.tar").to_string(), "s3://bucket/a/c.tar");
    }

    #[test]
    fn what_is_local() {
        assert_eq!(local_path("a/b.tar").unwrap(), Path::new("a/b.tar"));
        assert_eq!(local_path("file:///a/b.tar").unwrap(), Path::new("/a/b.tar"));
        assert_eq!(local_path("file://localhost/a").unwrap(), Path::new("/a"));
        assert_eq!(output_path("file:///a").unwrap(), Path::new("/a"));
        assert!(output_path("s3://a/b").unwrap_err().contains("aws s3 sync"));
        assert!(local_path("s3://a/b").is_none() && local_path("nfs://a/b").is_none());
        // A drive letter, and a folder whose name has a colon.
        assert!(!is_remote("c://x") && !is_remote("a:b/c"));
        assert!(Place::of(Path::new("a/b.tar")).is_none() && Place::of(Path::new("gs://a/b")).unwrap().is_ok());
    }

    #[test]
    fn what_is_refused_and_secrets_are_not_repeated() {
        let error = |text: &str| Place::parse(text).unwrap_err().to_string();
        assert!(error("hdfs://a/b").contains("hdfs:// is not known; use file://, s3://"));
        assert!(error("s3:///a").contains("names no bucket"));
        for secret in
            ["https://h/x.tar?X-Amz-Signature=SECRET", "https://me:SECRET@h/x.tar", "https://SECRET@h/x?SECRET"]
        {
            let error = error(secret);
            assert!(error.contains("https://h/x") && !error.contains("SECRET"), "{error}");
        }
    }
}
