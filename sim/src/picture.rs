//! A run as a picture: one lane for each server and client, time to the right, for people who would rather look than read.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::engine::Outcome;
use crate::trace::Line;

const LEFT: f64 = 110.0;
const WIDTH: f64 = 1100.0;
const LANE: f64 = 34.0;

/// The picture as SVG.
pub fn svg(outcome: &Outcome) -> String {
    let mut lanes: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in &outcome.lines {
        lanes.entry(line.who.as_str()).or_default().push(line);
    }
    // From shortly before the deploy: the start-up is the same every time.
    let from = outcome
        .lines
        .iter()
        .find(|line| line.what == "the deploy begins" || line.who.starts_with("client"))
        .map_or(0, |line| line.ms.saturating_sub(300));
    let to = outcome.lines.last().map_or(1, |line| line.ms).max(from + 1);
    let x = |ms: u64| LEFT + (ms.saturating_sub(from)) as f64 / (to - from) as f64 * WIDTH;
    let height = 40.0 + lanes.len() as f64 * LANE;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LEFT + WIDTH + 20.0
    );
    for tenth in 0..=10 {
        let ms = from + (to - from) * tenth / 10;
        let at = x(ms);
        let _ = writeln!(
            text,
            "<line x1=\"{at:.1}\" y1=\"20\" x2=\"{at:.1}\" y2=\"{height}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{at:.1}\" y=\"14\" text-anchor=\"middle\" fill=\"#777\">+{:.2}s</text>",
            ms as f64 / 1000.0
        );
    }
    for (row, (who, lines)) in lanes.iter().enumerate() {
        let y = 40.0 + row as f64 * LANE;
        let _ = writeln!(text, "<text x=\"6\" y=\"{:.1}\" fill=\"#333\">{}</text>", y + 4.0, escape(who));
        if who.starts_with("pod") {
            bars(&mut text, lines, y, to, &x);
        }
        for line in lines.iter().filter(|line| line.ms >= from) {
            let color = color(&line.what);
            let _ = writeln!(
                text,
                "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{color}\"><title>+{:.3}s {}</title></circle>",
                x(line.ms),
                line.ms as f64 / 1000.0,
                escape(&line.what)
            );
        }
    }
    text.push_str("</svg>\n");
    text
}

/// The phases of one pod's servers.
fn bars(text: &mut String, lines: &[&Line], y: f64, to: u64, x: &impl Fn(u64) -> f64) {
    let mut phase: Option<(&str, u64)> = None;
    let mut draw = |phase: Option<(&str, u64)>, until: u64| {
        if let Some((color, since)) = phase {
            let (a, b) = (x(since), x(until));
            let _ = writeln!(
                text,
                "<rect x=\"{a:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" fill=\"{color}\"/>",
                y - 7.0,
                (b - a).max(0.0)
            );
        }
    };
    for line in lines {
        let next = match line.what.as_str() {
            "the server starts" => Some("#e0e0e0"),
            what if what.ends_with("(generation 1)") && what.contains("ready") => Some("#c9e7c9"),
            what if what.starts_with("Not ready any more") => Some("#f3e5a9"),
            what if what.starts_with("Shutting down") => Some("#f3c9a0"),
            what if what.contains("force terminating") || what.contains("cutting the shutdown short") => {
                Some("#e9a3a3")
            }
            what if what.starts_with("the server exits") || what.contains("the server gets SIGKILL") => {
                draw(phase.take(), line.ms);
                None
            }
            _ => continue,
        };
        draw(phase, line.ms);
        phase = next.map(|color| (color, line.ms));
    }
    draw(phase, to);
}

fn color(what: &str) -> &'static str {
    match what {
        _ if what.contains('✗') || what.contains("SIGKILL") => "#c62828",
        _ if what.contains('✓') => "#2e7d32",
        _ if what.starts_with("gets") || what.starts_with("Received") => "#1565c0",
        _ => "#9e9e9e",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use crate::engine;
    use crate::scenario::Scenario;

    #[test]
    fn every_server_and_client_has_a_lane() {
        let outcome = engine::run(&Scenario::draw(1));
        let picture = super::svg(&outcome);
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
        for line in &outcome.lines {
            assert!(picture.contains(&format!(">{}</text>", line.who)), "{}", line.who);
        }
    }
}
