//! Makes log output comparable: what differs from run to run is replaced, and nothing else.

/// `[2026-11-29 12:00:00] Text, pid 4711` becomes `[TIME] Text, pid PID`. Line by line:
/// the time stamp, process ids, the port after a loopback address, and the interpreter's version.
pub fn redact(lines: &[String]) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(&redact_line(line));
        text.push('\n');
    }
    text
}

fn redact_line(line: &str) -> String {
    let line = match line.split_at_checked(STAMP.len()) {
        Some((stamp, rest)) if is_stamp(stamp) => format!("[TIME]{rest}"),
        _ => line.to_string(),
    };
    let line = replace_digits_after(&line, "pid ", "PID");
    let line = replace_digits_after(&line, "127.0.0.1:", "PORT");
    replace_digits_after(&line, "pounce 0.", "VERSION")
}

const STAMP: &str = "[YYYY-MM-DD HH:MM:SS]";

/// Whether this is a time stamp of the shape `[YYYY-MM-DD HH:MM:SS]`.
pub fn is_stamp(text: &str) -> bool {
    text.len() == STAMP.len()
        && text.bytes().zip(STAMP.bytes()).all(|(byte, shape)| match shape {
            b'Y' | b'M' | b'D' | b'H' | b'S' => byte.is_ascii_digit(),
            other => byte == other,
        })
}

/// Replaces the run of digits and dots after every `prefix`.
fn replace_digits_after(line: &str, prefix: &str, with: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(prefix) {
        let (before, after) = rest.split_at(at + prefix.len());
        out.push_str(before);
        let digits = after.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(after.len());
        // A full stop that ends the sentence is not part of the number.
        let digits = after[..digits].trim_end_matches('.').len();
        out.push_str(if digits > 0 { with } else { "" });
        rest = &after[digits..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_from_run_to_run_is_replaced() {
        let lines =
            ["[2026-11-29 12:00:01] Worker 1 (pid 4711) at http://127.0.0.1:8000, 4 s."].map(String::from);
        assert_eq!(redact(&lines), "[TIME] Worker 1 (pid PID) at http://127.0.0.1:PORT, 4 s.\n");
        let lines = ["[2026-1-29] no stamp".to_string()];
        assert_eq!(redact(&lines), "[2026-1-29] no stamp\n");
    }
}
