//! Quantities with their unit: `"5m"`, `"1h30m"`, `"7d"`, `"10GiB"`.
//!
//! A bare number is refused: whoever reads the file must not have to guess the unit.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

/// Longest period accepted. Whatever is added to it stays far from overflow.
const PERIOD_SECONDS_MAX: u64 = 100 * 366 * 86_400;

const PERIOD_UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A length of time in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    /// Reads whole numbers, each with its unit: `90s`, `5m`, `1h30m`, `7d`.
    pub fn parse(text: &str) -> Option<Period> {
        let mut rest = text;
        let mut seconds = 0_u64;
        loop {
            let (number, unit, after) = number_and_unit(rest)?;
            let (_, factor) = PERIOD_UNITS.into_iter().find(|(name, _)| *name == unit)?;
            seconds = seconds.checked_add(number.checked_mul(factor)?)?;
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        (seconds <= PERIOD_SECONDS_MAX).then(|| Period(Duration::from_secs(seconds)))
    }
}

/// The largest unit that says it in one number: `15m`, `90s`.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (unit, factor) = PERIOD_UNITS
            .into_iter()
            .rev()
            .find(|(_, factor)| seconds != 0 && seconds.is_multiple_of(*factor))
            .unwrap_or(("s", 1));
        write!(f, "{}{unit}", seconds / factor)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// Reads a whole number with its unit: `512MiB`, `2GiB`, `10GB`.
    pub fn parse(text: &str) -> Option<Size> {
        let (number, unit, rest) = number_and_unit(text)?;
        let (_, factor) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit)?;
        let bytes = number.checked_mul(factor)?;
        (rest.is_empty() && i64::try_from(bytes).is_ok()).then_some(Size(bytes))
    }
}

/// Splits `12GiBrest` before and after its letters.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at(digits);
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    Some((number.parse().ok()?, unit, rest))
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Period, D::Error> {
        from.deserialize_str(Text {
            expected: "a duration with its unit, such as \"5m\"",
            parse: Period::parse,
        })
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Size, D::Error> {
        from.deserialize_str(Text { expected: "a size with its unit, such as \"2GiB\"", parse: Size::parse })
    }
}

impl JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "Whole numbers, each with its unit: s, m, h or d. Such as 90s, 5m, 1h30m, 7d.",
            "pattern": "^([0-9]+ ?[smhd])+$",
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let units: Vec<&str> = SIZE_UNITS.iter().map(|(unit, _)| *unit).collect();
        json_schema!({
            "type": "string",
            "description": "A whole number with its unit, such as 512MiB, 2GiB, 10GB.",
            "pattern": format!("^[0-9]+ ?({})$", units.join("|")),
        })
    }
}

struct Text<T> {
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::custom(format_args!("give {}", self.expected)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_a_number_with_its_unit() {
        let seconds = |text: &str| Period::parse(text).map(|period| period.0.as_secs());
        assert_eq!(seconds("0s"), Some(0));
        assert_eq!(seconds("30s"), Some(30));
        assert_eq!(seconds("5m"), Some(300));
        assert_eq!(seconds("1h30m"), Some(5_400));
        assert_eq!(seconds("7d"), Some(604_800));
        for wrong in
            ["", "5", "m", "-5m", "5 minutes", "1.5h", "5M", "99999999999999999999d", "40000d", "1h "]
        {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_period_is_shown_in_its_largest_whole_unit() {
        for text in ["0s", "90s", "5m", "36h", "7d"] {
            assert_eq!(Period::parse(text).map(|period| period.to_string()).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_size_is_a_number_with_its_unit() {
        let bytes = |text: &str| Size::parse(text).map(|size| size.0);
        assert_eq!(bytes("2GiB"), Some(2 << 30));
        assert_eq!(bytes("512 MiB"), Some(512 << 20));
        assert_eq!(bytes("10GB"), Some(10_000_000_000));
        for wrong in ["", "2", "GiB", "2gib", "2Gi", "1.5GiB", "-1B", "99999999TiB", "1GiB1MiB"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
