//! "Did you mean": the known name nearest to one that was mistyped.

/// The candidate that `typed` most likely stands for, or `None` when nothing is near enough to be worth saying.
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&typed, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        for (typed, meant) in
            [("prot", "port"), ("shutdown_timeot", "shutdown_timeout"), ("WORKERS", "workers")]
        {
            assert_eq!(nearest(typed, ["host", "port", "workers", "shutdown_timeout"]), Some(meant));
        }
    }

    #[test]
    fn a_word_that_resembles_nothing_gets_no_wild_guess() {
        assert_eq!(nearest("zebra", ["host", "port", "workers", "shutdown_timeout"]), None);
    }
}
