//! Files on the local disk, in S3, GCS and Azure, and on HTTP servers, read in one way. Synchronous; knows no torch, no tar.
//!
//! ```text
//!  "s3://bucket/key" ─ place.rs ─► Place ─ stores.rs ─► Object ─┬─► size, read_all, read_range   (object.rs)
//!                                   (credentials of the          └─► Stream: Read + Seek           (stream.rs)
//!                                    environment)                      reads ahead, resumes where it broke
//!  every request: `object_store` (signing, listing, retries) ─► http.rs ─► `ureq`
//! ```
//! Nothing here prints a credential: places with a query or a user are refused, and an error bears the place, the status and
//! the server's own code for the failure, never a request's headers.

mod error;
mod http;
mod many;
mod object;
mod place;
mod stores;
mod stream;

pub use error::StoreError;
pub use many::{at_once, try_at_once};
pub use object::Object;
pub use place::{Place, Scheme, is_remote, local_path, output_path};
pub use stores::{Listed, Options, Stores};
pub use stream::Stream;
