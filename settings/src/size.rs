//! Amounts of bytes as people write them: `65536`, `64k`, `64KiB`, `1MB`, `10m`.

/// How a refused size is explained, after the rule.
pub const EXAMPLES: &str = "65536, 64k, 64KiB or 10m (k, m and g are powers of 1024)";

/// Reads a number of bytes; `k`, `kb`, `KiB` and so on, in any case, are powers of 1024. `None` for anything else.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let number_ends = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_ends);
    let bytes_per_unit = match unit.trim_start() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(bytes_per_unit)
}

/// Writes a size with the largest unit that divides it: `64KiB`.
pub fn show(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        for (text, bytes) in
            [("65536", 65536), ("64k", 65536), ("64KiB", 65536), ("1 MB", 1 << 20), ("2g", 2 << 30)]
        {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_not_guessed_at() {
        for text in ["", "k", "-1", "1.5m", "1t", "99999999999g", "1e6"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_shown_size_is_read_back_unchanged() {
        for bytes in [1, 1000, 1024, 65536, 3 << 20, 5 << 30] {
            assert_eq!(parse(&show(bytes)), Some(bytes));
        }
    }
}
