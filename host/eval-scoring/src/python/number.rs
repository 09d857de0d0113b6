//! `float`, `int`, `round` and `repr`: text to numbers and back.

use super::text;

/// The code points of the digit 0 in the scripts that have decimal digits (Unicode 14, that of Python 3.11).
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0,
    0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620,
    0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0,
    0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60,
    0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// Most digits that `int` reads of a text; more are a `ValueError`.
const MOST_DIGITS: usize = 4300;

/// The value of a decimal digit of any script.
pub fn digit(c: char) -> Option<u8> {
    if c.is_ascii() {
        return c.is_ascii_digit().then(|| c as u8 - b'0');
    }
    let at = ZEROS.partition_point(|&zero| zero <= c as u32).checked_sub(1)?;
    let value = c as u32 - ZEROS[at];
    (value < 10).then_some(value as u8)
}

/// Decimal digits of any script become ASCII ones.
fn ascii_digits(text: &str) -> String {
    text.chars().map(|c| digit(c).map_or(c, |value| (b'0' + value) as char)).collect()
}

/// Takes out the underscores, each of which must be between two digits.
fn without_underscores(text: &str) -> Option<String> {
    if !text.contains('_') {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let digit_at = |i: Option<usize>| i.and_then(|i| bytes.get(i)).is_some_and(u8::is_ascii_digit);
    let placed = |i: usize| digit_at(i.checked_sub(1)) && digit_at(Some(i + 1));
    let good = (0..bytes.len()).all(|i| bytes[i] != b'_' || placed(i));
    good.then(|| text.replace('_', ""))
}

/// `float(text)`; `None` where Python raises `ValueError`.
pub fn parse_float(text: &str) -> Option<f64> {
    let text = without_underscores(&ascii_digits(text::strip(text)))?;
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let negative = text.starts_with('-');
    let sign = if negative { -1.0 } else { 1.0 };
    if unsigned.eq_ignore_ascii_case("inf") || unsigned.eq_ignore_ascii_case("infinity") {
        return Some(sign * f64::INFINITY);
    }
    if unsigned.eq_ignore_ascii_case("nan") {
        return Some(f64::NAN);
    }
    // Rust's grammar is the same from here on, once words and a second sign are out.
    let first = unsigned.chars().next()?;
    if !(first.is_ascii_digit() || first == '.') {
        return None;
    }
    text.parse().ok()
}

/// `str(int(text))`: the number in plain digits, however long; `None` where Python raises `ValueError`.
pub fn parse_int(text: &str) -> Option<String> {
    let text = ascii_digits(text::strip(text));
    let negative = text.starts_with('-');
    let digits = without_underscores(text.strip_prefix(['+', '-']).unwrap_or(&text))?;
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !all || digits.len() > MOST_DIGITS {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    Some(match (negative, digits) {
        (_, "") => "0".into(),
        (true, digits) => format!("-{digits}"),
        (false, digits) => digits.into(),
    })
}

/// `str(int(value))`; `None` of what is not finite.
pub fn truncated(value: f64) -> Option<String> {
    value.is_finite().then(|| match format!("{:.0}", value.trunc()).as_str() {
        "-0" => "0".into(),
        text => text.into(),
    })
}

/// `round(value, places)`: to the even neighbour of what the binary number exactly is.
pub fn round(value: f64, places: i32) -> f64 {
    if !value.is_finite() {
        return value;
    }
    match usize::try_from(places) {
        // More than 323 places change nothing.
        Ok(places) if places > 323 => value,
        Ok(places) => format!("{value:.places$}").parse().unwrap_or(value),
        Err(_) => {
            let step = 10f64.powi(-places);
            if step.is_finite() { (value / step).round_ties_even() * step } else { 0.0 * value }
        }
    }
}

/// `repr(value)` and `str(value)` of a float: "1.0", "1e-05", "1e+16", "nan".
pub fn repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let shortest = format!("{value:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_have_pythons_grammar() {
        for (text, value) in [
            ("5", 5.0),
            (" 5.\n", 5.0),
            (".5", 0.5),
            ("1_000", 1000.0),
            ("５", 5.0),
            ("٣", 3.0),
            ("-1e3", -1000.0),
            ("+2", 2.0),
            ("Infinity", f64::INFINITY),
            ("-inf", f64::NEG_INFINITY),
            ("1e400", f64::INFINITY),
        ] {
            assert_eq!(parse_float(text), Some(value), "{text}");
        }
        assert!(parse_float("NaN").is_some_and(f64::is_nan));
        for text in
            ["", " ", "1,000", "$5", "1__0", "_1", "1_", "1._5", "0x10", "--1", "+-1", "infin", "1 2", ".", "e5", "1e"]
        {
            assert_eq!(parse_float(text), None, "{text}");
        }
    }

    #[test]
    fn integers_are_of_any_length() {
        for (text, value) in [("１４", "14"), (" -007 ", "-7"), ("+1_000", "1000"), ("-0", "0")] {
            assert_eq!(parse_int(text).as_deref(), Some(value), "{text}");
        }
        for text in ["", "1.0", "1e3", "1,400", "--1", "_1", "²"] {
            assert_eq!(parse_int(text), None, "{text}");
        }
        assert_eq!(parse_int(&"9".repeat(40)), Some("9".repeat(40)));
        assert_eq!(truncated(1e22).as_deref(), Some("10000000000000000000000"));
        assert_eq!(truncated(-0.5).as_deref(), Some("0"));
    }

    #[test]
    fn rounding_looks_at_the_binary_value() {
        for (value, places, rounded) in [
            (2.675, 2, 2.67),
            (0.125, 2, 0.12),
            (0.375, 2, 0.38),
            (1.35, 1, 1.4),
            (0.5, 0, 0.0),
            (2.5, 0, 2.0),
            (1234.0, -2, 1200.0),
        ] {
            assert_eq!(round(value, places), rounded, "{value}");
        }
    }

    #[test]
    fn floats_print_as_in_python() {
        for (value, text) in [
            (1.0, "1.0"),
            (1e16, "1e+16"),
            (123_456_789_012_345.0, "123456789012345.0"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (1.5e300, "1.5e+300"),
            (-0.0, "-0.0"),
            (24.0, "24.0"),
            (9.5, "9.5"),
        ] {
            assert_eq!(repr(value), text);
        }
    }
}
