//! What filters over pictures share: the perceptual hashes of a row.

use crate::rows::Row;

/// The 64-bit perceptual hashes of a row's pictures, in order: the column `phash`, which `READS` must name. `Some` of an empty
/// list where the row has no pictures; `None` where the column has no value, which is how the host says that a picture cannot
/// be decoded. Nothing is known of such a row's pictures, so it is like no other row.
///
/// # Errors
/// The column's bytes are not whole hashes.
///
/// ```
/// use ovhost_sdk::prelude::*;
/// use ovhost_sdk::picture::phashes;
///
/// # struct Pictures;
/// # impl Plugin for Pictures {
/// #     type Config = ();
/// #     const NAME: &'static str = "pictures";
/// #     const SUMMARY: &'static str = "Says how many pictures there are.";
/// #     const READS: &'static [Need] = &[Need::bytes("phash")];
/// #     fn new((): (), _: &Assets) -> Result<Self, ConfigError> {
/// #         Ok(Self)
/// #     }
/// # }
/// impl Filter for Pictures {
///     fn row(&mut self, _: &mut RowCtx, row: &Row) -> Verdict {
///         match phashes(row) {
///             Ok(None) => Verdict::drop("broken"),
///             Ok(Some([])) => Verdict::drop("none"),
///             Ok(Some(_)) => Verdict::Keep,
///             Err(message) => Verdict::Error(message),
///         }
///     }
/// }
///
/// let mut plugin = ovhost_sdk::testing::filter::<Pictures>(json!({})).unwrap();
/// let outcome = plugin.run(json!([{ "phash": null }, { "phash": "" }, { "phash": "0011223344556677" }, { "phash": "00" }]));
/// assert_eq!(outcome.reasons(), [Some("broken"), Some("none"), None, None]);
/// assert_eq!(outcome.errors(), [(3, "column `phash` has 1 bytes; it must have 8 for each picture")]);
/// ```
pub fn phashes<'a>(row: &Row<'a>) -> Result<Option<&'a [[u8; 8]]>, String> {
    let Some(bytes) = row.bytes("phash") else { return Ok(None) };
    match bytes.as_chunks() {
        (hashes, []) => Ok(Some(hashes)),
        _ => Err(format!("column `phash` has {} bytes; it must have 8 for each picture", bytes.len())),
    }
}
