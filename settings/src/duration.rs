//! Spans of time as people write them: `30`, `2.5`, `30s`, `2m`, `500ms`, `1h`.

use std::time::Duration;

/// How a refused duration is explained, after the rule.
pub const EXAMPLES: &str = "30, 2.5, 30s, 2m, 500ms or 1h";

/// Reads a duration: a plain decimal number of seconds, or one with the unit `ms`, `s`, `m` or `h`.
///
/// `None` for everything else: a sign, an exponent, `inf`, `nan`, an unknown unit, or more than a `Duration` holds.
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let number_ends = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_ends);
    let seconds_per_unit = match unit.trim_start() {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    if !number.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number * seconds_per_unit).ok()
}

/// Serialises a `Duration` as a number of seconds; a `f64` holds every permitted duration to the nanosecond.
pub mod seconds {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(duration.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// [`seconds`] for a time-out that may be absent.
pub mod optional_seconds {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        duration.map(|d| d.as_secs_f64()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let seconds: Option<f64> = Option::deserialize(from)?;
        seconds.map(Duration::try_from_secs_f64).transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_way_to_write_a_duration_is_read() {
        for (text, milliseconds) in [
            ("30", 30_000),
            ("2.5", 2_500),
            (".5", 500),
            ("30s", 30_000),
            ("30 s", 30_000),
            ("2m", 120_000),
            ("1.5m", 90_000),
            ("500ms", 500),
            ("1h", 3_600_000),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_not_guessed_at() {
        for text in [
            "",
            ".",
            "-5",
            "+5",
            "inf",
            "nan",
            "1e3",
            "1.2.3",
            "30 seconds",
            "s",
            "5d",
            "2m30s",
            "99999999999999999999h",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
