//! Buckets and servers, each set up once, with the credentials of the environment.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};

use crate::StoreError;
use crate::http::Connector;
use crate::object::{Object, wait};
use crate::place::{Place, Scheme};

/// How patient reading is.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long a server may be silent.
    pub read_timeout: Duration,
    /// How often a request is sent again that failed for a reason that may pass: 429, 5xx, silence, a broken connection. Of a
    /// file that is read piece by piece, how often in a row without one new byte.
    pub retries: usize,
    /// Wait before the first of these; the next ones double it.
    pub first_wait: Duration,
    /// Longest wait.
    pub most_wait: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            retries: 10,
            first_wait: Duration::from_millis(200),
            most_wait: Duration::from_secs(20),
        }
    }
}

/// A file in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the folder.
    pub name: String,
    /// Its bytes.
    pub size: u64,
}

/// Opens places. Buckets, connections and what listings said of sizes are kept.
pub struct Stores {
    options: Options,
    connector: Connector,
    open: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
    sizes: Mutex<HashMap<String, u64>>,
}

impl Stores {
    /// Those of the whole program.
    pub fn shared() -> &'static Stores {
        static SHARED: LazyLock<Stores> = LazyLock::new(|| Stores::new(Options::default()));
        &SHARED
    }

    /// Others, with other patience.
    pub fn new(options: Options) -> Self {
        let connector = Connector::new(options.connect_timeout, options.read_timeout);
        Stores { options, connector, open: Mutex::default(), sizes: Mutex::default() }
    }

    /// A handle of a place; nothing is asked yet.
    ///
    /// # Errors
    /// A key that the store cannot have, credentials that cannot be read.
    pub fn object(&self, place: &Place) -> Result<Object, StoreError> {
        let size = lock(&self.sizes).get(&place.to_string()).copied();
        Ok(Object {
            store: self.store(place)?,
            path: path(place)?,
            place: place.clone(),
            options: self.options.clone(),
            size,
        })
    }

    /// The files of a folder (not of folders in it), by name.
    ///
    /// # Errors
    /// A web server, which has no listing; a refusal. An empty or missing folder is an empty list.
    pub fn list(&self, folder: &Place) -> Result<Vec<Listed>, StoreError> {
        if folder.scheme == Scheme::Http {
            let next = "name the files, with braces as in train-{000000..000099}.tar";
            return Err(StoreError::failed(folder, "list it", "a web server has no listing", next));
        }
        let (store, path) = (self.store(folder)?, path(folder)?);
        let prefix = (!folder.key.is_empty()).then_some(&path);
        let found = wait(folder, store.list_with_delimiter(prefix))?;
        let found = found.map_err(|e| StoreError::of(folder, "list it", &e))?;
        let mut files: Vec<Listed> = found
            .objects
            .iter()
            .filter_map(|o| Some(Listed { name: o.location.filename()?.to_owned(), size: o.size }))
            .collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut sizes = lock(&self.sizes);
        sizes.extend(files.iter().map(|f| (folder.join(&f.name).to_string(), f.size)));
        Ok(files)
    }

    fn store(&self, place: &Place) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let mut open = lock(&self.open);
        if let Some(store) = open.get(&place.root) {
            return Ok(store.clone());
        }
        let store = self.build(place).map_err(|e| StoreError::of(place, "set up the access to it", &e))?;
        open.insert(place.root.clone(), store.clone());
        Ok(store)
    }

    fn build(&self, place: &Place) -> object_store::Result<Arc<dyn ObjectStore>> {
        let Options { retries, first_wait, most_wait, .. } = self.options;
        let retry = RetryConfig {
            backoff: BackoffConfig { init_backoff: first_wait, max_backoff: most_wait, base: 2.0 },
            max_retries: retries,
            retry_timeout: Duration::from_secs(280),
        };
        let plain = |address: Option<String>| address.is_some_and(|a| a.starts_with("http://"));
        let (root, connector) = (place.root.as_str(), self.connector.clone());
        Ok(match place.scheme {
            Scheme::S3 => {
                let mut builder = AmazonS3Builder::from_env().with_url(root).with_retry(retry);
                let endpoint = builder
                    .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
                    .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
                if plain(endpoint) {
                    builder = builder.with_allow_http(true);
                }
                let has = |key| builder.get_config_value(&key).is_some_and(|v| !v.is_empty() && v != "false");
                use AmazonS3ConfigKey::{
                    AccessKeyId, ContainerCredentialsFullUri, ContainerCredentialsRelativeUri, SkipSignature,
                    WebIdentityTokenFile,
                };
                let ways = [
                    AccessKeyId,
                    SkipSignature,
                    WebIdentityTokenFile,
                    ContainerCredentialsFullUri,
                    ContainerCredentialsRelativeUri,
                ];
                if !ways.into_iter().any(has) {
                    tracing::warn!(
                        "{root}: no AWS credentials in the environment, so this machine's metadata service is asked; set \
                         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket"
                    );
                }
                Arc::new(builder.with_http_connector(connector).build()?)
            }
            Scheme::Gcs => {
                let mut builder = GoogleCloudStorageBuilder::from_env().with_url(root).with_retry(retry);
                if plain(builder.get_config_value(&GoogleConfigKey::BaseUrl)) {
                    builder = builder.with_config(GoogleConfigKey::Client(ClientConfigKey::AllowHttp), "true");
                }
                Arc::new(builder.with_http_connector(connector).build()?)
            }
            Scheme::Azure => {
                let mut builder = MicrosoftAzureBuilder::from_env().with_url(root).with_retry(retry);
                if plain(builder.get_config_value(&AzureConfigKey::Endpoint)) {
                    builder = builder.with_allow_http(true);
                }
                Arc::new(builder.with_http_connector(connector).build()?)
            }
            Scheme::Http => {
                let allow = if plain(Some(root.to_owned())) { "true" } else { "false" };
                let builder = HttpBuilder::new().with_url(root).with_retry(retry);
                let builder = builder.with_config(ClientConfigKey::AllowHttp, allow);
                Arc::new(builder.with_http_connector(connector).build()?)
            }
        })
    }
}

/// The key as the store's crate wants it: of a web server decoded, for it is encoded again.
fn path(place: &Place) -> Result<Path, StoreError> {
    let path = match place.scheme {
        Scheme::Http => Path::from_url_path(&place.key),
        _ => Path::parse(&place.key),
    };
    path.map_err(|e| StoreError::Place { place: place.to_string(), reason: format!("its name cannot be used: {e}") })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps are whole between statements, so a panic elsewhere does no harm.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
