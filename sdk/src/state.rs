//! What a plugin remembers as bytes, and back: a serde value in, bytes that say whose they are out.

use serde::{Deserialize, Serialize};

use crate::plugin::{ErrorKind, PluginError, error};

/// What saved bytes begin with.
#[derive(Serialize, Deserialize)]
struct Header {
    plugin: String,
    format: u32,
}

/// State as bytes, marked with `name` (a plugin's `NAME`, most often).
///
/// ```
/// use std::collections::BTreeMap;
///
/// use ovhost_sdk::state;
///
/// let counts = BTreeMap::from([("cats".to_owned(), 3_u64)]);
/// let bytes = state::encode("per_source", &counts);
/// assert_eq!(state::decode::<BTreeMap<String, u64>>("per_source", &bytes).unwrap(), counts);
/// let error = state::decode::<BTreeMap<String, u64>>("other", &bytes).unwrap_err();
/// assert!(error.message.contains("is of `per_source`"));
/// ```
///
/// # Panics
/// `state` refuses to be serialised, which derived implementations never do.
pub fn encode<S: Serialize>(name: &str, state: &S) -> Vec<u8> {
    try_encode(name, state).unwrap_or_else(|e| panic!("{}", e.message))
}

/// The state that [`encode`] wrote under the same name.
///
/// # Errors
/// The bytes are damaged, or are the state of something else; the message says which.
pub fn decode<S: for<'de> Deserialize<'de>>(name: &str, bytes: &[u8]) -> Result<S, PluginError> {
    let bad = |what: String| error(ErrorKind::BadInput, format!("{name}: the saved state {what}"));
    let (header, rest) = postcard::take_from_bytes::<Header>(bytes).map_err(|e| bad(format!("is unreadable: {e}")))?;
    if header.plugin != name || header.format != 1 {
        return Err(bad(format!("is of `{}`, format {}; want format 1 of `{name}`", header.plugin, header.format)));
    }
    match postcard::take_from_bytes::<S>(rest) {
        Ok((state, [])) => Ok(state),
        Ok((_, extra)) => Err(bad(format!("has {} bytes too many", extra.len()))),
        Err(e) => Err(bad(format!("is unreadable: {e}"))),
    }
}

/// [`encode`] for states whose `Serialize` the plugin's author may have written.
pub(crate) fn try_encode<S: Serialize>(name: &str, state: &S) -> Result<Vec<u8>, PluginError> {
    postcard::to_allocvec(&(Header { plugin: name.into(), format: 1 }, state))
        .map_err(|e| error(ErrorKind::Internal, format!("{name}: the state cannot be written: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_others_are_refused() {
        let bytes = encode("seen", &vec![3u64, 5]);
        assert_eq!(decode::<Vec<u64>>("seen", &bytes).unwrap(), [3, 5]);
        let refused = |name: &str, bytes: &[u8]| decode::<Vec<u64>>(name, bytes).unwrap_err().message;
        assert!(refused("other", &bytes).contains("is of `seen`"));
        assert!(refused("seen", &bytes[..bytes.len() - 1]).contains("unreadable"));
        assert!(refused("seen", &[&bytes[..], b"x"].concat()).contains("1 bytes too many"));
        assert!(refused("seen", b"").contains("unreadable"));
    }
}
