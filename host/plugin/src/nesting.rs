//! How deep a component's parts lie in each other, found before anything else looks at them.
//!
//! The decoder of component types calls itself for every level, and the binary format sets no bound: a file of a few
//! hundred kilobytes could run the host out of stack, which ends the process. Here a section of types is read with a
//! counter per level in place of a call.

use wasmparser::{
    BinaryReader, ComponentAlias, ComponentExternName, ComponentImport, ComponentType, ComponentTypeRef, CoreType,
};

/// Most levels, of types in types and of components in components. Real ones have under ten.
pub(crate) const DEPTH: usize = 100;

const COMPONENT: u8 = 0x41;
const INSTANCE: u8 = 0x42;

/// Reads the section of component types that lies at `section`, from its number of types on. `offset`: its place in the
/// file. The error is wasmparser's, or the rule.
pub(crate) fn check_types(section: &[u8], offset: usize) -> Result<(), String> {
    walk(&mut BinaryReader::new(section, offset)).map_err(|e| e.to_string()).and_then(|deep| match deep {
        None => Ok(()),
        Some(at) => Err(format!("its types are nested more than {DEPTH} deep (at offset {at:#x})")),
    })
}

/// Where the types are too deep.
fn walk(reader: &mut BinaryReader<'_>) -> wasmparser::Result<Option<usize>> {
    // Per level, how many types or declarations are still to come; the lowest level has types only.
    let mut left = vec![reader.read_var_u32()?];
    while let Some(n) = left.last_mut() {
        if *n == 0 {
            left.pop();
            continue;
        }
        *n -= 1;
        if left.len() > 1 {
            match reader.clone().read_u8()? {
                0x00 => {
                    reader.read_u8()?;
                    reader.read::<CoreType<'_>>()?;
                    continue;
                }
                0x02 => {
                    reader.read_u8()?;
                    reader.read::<ComponentAlias<'_>>()?;
                    continue;
                }
                0x03 => {
                    reader.read_u8()?;
                    reader.read::<ComponentImport<'_>>()?;
                    continue;
                }
                0x04 => {
                    reader.read_u8()?;
                    reader.read::<ComponentExternName<'_>>()?;
                    reader.read::<ComponentTypeRef>()?;
                    continue;
                }
                // A type; or no declaration at all, which whoever reads the types themselves will say.
                0x01 => _ = reader.read_u8()?,
                _ => return Ok(None),
            }
        }
        if matches!(reader.clone().read_u8()?, COMPONENT | INSTANCE) {
            reader.read_u8()?;
            left.push(reader.read_var_u32()?);
            // The lowest is the section itself.
            if left.len() > DEPTH + 1 {
                return Ok(Some(reader.original_position()));
            }
        } else {
            reader.read::<ComponentType<'_>>()?;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use wasmparser::{Parser, Payload};

    use super::*;

    /// Of every section of types in a component written as text.
    fn check(text: &str) -> Result<(), String> {
        let bytes = wat::parse_str(text).unwrap();
        for payload in Parser::new(0).parse_all(&bytes) {
            if let Payload::ComponentTypeSection(section) = payload.unwrap() {
                let range = section.range();
                check_types(&bytes[range.clone()], range.start)?;
            }
        }
        Ok(())
    }

    /// A section of one type of so many levels: component types of one declaration, which is a type.
    fn nested(levels: usize) -> Result<(), String> {
        let mut section = vec![1];
        section.extend([COMPONENT, 1, 1].repeat(levels - 1));
        section.extend([COMPONENT, 0]);
        check_types(&section, 0)
    }

    #[test]
    fn everything_that_a_type_may_declare_is_read() {
        check(
            "(component
                (type $outer (record (field \"a\" u8)))
                (type (component
                    (core type (module (import \"a\" \"b\" (func (param i32))) (export \"c\" (memory 1))))
                    (alias outer 1 $outer (type $alias))
                    (import \"i\" (instance $i (export \"t\" (type $t (sub resource))) (export \"f\" (func (param \"x\" (own $t))))))
                    (import \"g\" (type $g (eq $alias)))
                    (alias export $i \"t\" (type))
                    (type (instance (type (variant (case \"x\" string))) (export \"n\" (func (result (list u8))))))
                    (export \"e\" (component (import \"z\" (func))))
                ))
                (type (func (param \"p\" (tuple u8 string)) (result (option f32)))))",
        )
        .unwrap();
    }

    #[test]
    fn the_level_counts_not_the_number() {
        nested(DEPTH).unwrap();
        assert!(nested(DEPTH + 1).unwrap_err().contains("nested more than 100 deep (at offset 0x"));
        check(&format!("(component {})", "(type (component (type (instance))))".repeat(1000))).unwrap();
    }

    #[test]
    fn a_section_that_ends_early_is_an_error() {
        assert!(check_types(&[2, 0x41, 1, 1], 7).unwrap_err().contains("unexpected end"));
        assert!(check_types(&[], 7).is_err());
        check_types(&[1, 0x41, 1, 0x77], 7).unwrap();
    }
}
