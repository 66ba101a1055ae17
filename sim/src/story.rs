//! A run's timeline as a person would tell it: what is the same in every run is left out, what happens again and again is
//! one line. `sim run FILE --all` prints every line.

use crate::trace::Line;

/// The lines of a run that say something about it. `problems`: what was wrong; the end of a pod that is named there is
/// not left out.
pub fn tell(lines: &[Line], problems: &[String]) -> Vec<Line> {
    let mut kept: Vec<&Line> = lines.iter().collect();
    let after = what_matters(&kept, problems).map_or(0, |matters| kept.drain(matters..).count());
    without_bring_up(&mut kept);
    without_the_end(&mut kept, problems);
    without_what_follows(&mut kept);
    let mut told = fold(&kept);
    if let (Some(last), 1..) = (lines.last(), after) {
        let what = format!("({after} more lines, after the last problem)");
        told.push(Line { ms: last.ms, who: "…".to_owned(), what });
    }
    told
}

/// How many lines there are up to the last problem; `None` if a problem does not say where it was.
fn what_matters(lines: &[&Line], problems: &[String]) -> Option<usize> {
    let ends: Option<Vec<usize>> = problems.iter().map(|problem| line_of(lines, problem)).collect();
    // A line or two more are shorter than the remark that they are missing.
    ends?.into_iter().max().map(|last| last + 1).filter(|matters| matters + 2 < lines.len())
}

/// The line after which nothing has to do with `problem`.
fn line_of(lines: &[&Line], problem: &str) -> Option<usize> {
    let failed = |line: &Line| line.who.starts_with("client-") && line.what.contains('✗');
    if let Some(line) = lines.iter().rposition(|line| line.who == "ORACLE" && line.what == problem) {
        return Some(line);
    }
    if problem.starts_with("every inequality holds") {
        return lines.iter().rposition(|line| failed(line));
    }
    if problem.starts_with('r') {
        let request = problem.split([' ', ':']).next()?;
        return lines.iter().rposition(|line| {
            line.who.starts_with("client-") && line.what.split(' ').next() == Some(request)
        });
    }
    let times = problem.match_indices(" ms").filter_map(|(end, _)| {
        let before = &problem[..end];
        let digits = before.len() - before.bytes().rev().take_while(u8::is_ascii_digit).count();
        let is_a_time = before[..digits].ends_with("at ") || before[..digits].ends_with("from ");
        before[digits..].parse::<u64>().ok().filter(|_| is_a_time)
    });
    let last = times.max()?;
    lines.iter().rposition(|line| line.ms <= last)
}

/// `pod-10` of a line of that pod, or of the kubelet's line about it.
fn pod_of(line: &Line) -> Option<&str> {
    if line.who.starts_with("pod-") {
        Some(&line.who)
    } else if line.who == "kubelet" {
        line.what.split(' ').next()
    } else {
        None
    }
}

fn starts(line: &Line) -> bool {
    line.what == "the server starts" || is_worker(line, "ready (generation")
}

/// `Worker 3 ` and then `what`.
fn is_worker(line: &Line, what: &str) -> bool {
    line.what
        .strip_prefix("Worker ")
        .and_then(|rest| rest.split_once(' '))
        .is_some_and(|(number, rest)| number.bytes().all(|b| b.is_ascii_digit()) && rest.starts_with(what))
}

fn is_ready(line: &Line) -> bool {
    line.who == "kubelet" && line.what.ends_with(" is ready")
}

fn knows(line: &Line) -> bool {
    line.what.starts_with("knows pods")
}

/// Everything comes up before anything happens: one line is enough, where nothing went wrong.
fn without_bring_up(lines: &mut Vec<&Line>) {
    let Some(up) = lines.iter().position(|line| line.what == "everything is up") else { return };
    let mut at = 0;
    lines.retain(|line| {
        at += 1;
        at > up || !(starts(line) || is_ready(line) || knows(line) || line.what.contains(" is made "))
    });
}

/// The pods that are left at the end are stopped one by one, after all that the run is about.
fn without_the_end(lines: &mut Vec<&Line>, problems: &[String]) {
    let Some(end) = lines.iter().position(|line| line.what == "everything is stopped") else { return };
    let named = |pod: &str| {
        problems.iter().any(|problem| {
            problem
                .match_indices(pod)
                .any(|(at, _)| !problem[at + pod.len()..].starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    let routine = |line: &Line| {
        line.what == "gets SIGTERM"
            || line.what.starts_with("Received SIGTERM — initiating")
            || line.what.starts_with("Not ready any more")
            || line.what.starts_with("Shutting down ")
            || is_worker(line, "shutting down")
            || stops(line)
            || line.what == "the server exits with 0"
            || line.who == "kubelet"
    };
    let told: Vec<String> = lines[end..]
        .iter()
        .filter_map(|line| pod_of(line).filter(|pod| named(pod) || !routine(line)).map(str::to_owned))
        .collect();
    let mut at = 0;
    lines.retain(|line| {
        at += 1;
        at <= end + 1
            || match pod_of(line) {
                Some(pod) => told.iter().any(|told| told == pod),
                None => !knows(line),
            }
    });
}

/// A worker without work goes at once; where it does not, the story is about that.
const QUICK_MS: u64 = 100;

/// A worker, or the server, is on its way out or gone.
fn ends(line: &Line) -> bool {
    stops(line) || is_worker(line, "shutting down (no active") || line.what.starts_with("the server exits")
}

fn stops(line: &Line) -> bool {
    line.what == "All workers stopped" || is_worker(line, "stopped")
}

/// What the next line of the same pod, or balancer, says as well.
fn without_what_follows(lines: &mut Vec<&Line>) {
    let follows = |line: &Line, next: &Line| {
        let at_once = line.ms == next.ms;
        (line.what.starts_with("gets SIG") && next.what.starts_with("Received SIG"))
            || (starts(line) && (starts(next) || is_ready(next) || next.what.contains(" is serving")))
            || (stops(line) && (stops(next) || next.what.starts_with("the server exits")))
            || (is_worker(line, "shutting down (no active") && next.ms - line.ms <= QUICK_MS && ends(next))
            || (at_once && knows(line) && knows(next))
    };
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let whose = pod_of(line).unwrap_or(&line.who);
        let next = lines[at + 1..].iter().find(|next| pod_of(next).unwrap_or(&next.who) == whose);
        // What a deploy begins with is in the next line, whosever that is.
        let deploy =
            line.what == "the deploy begins" && lines.get(at + 1).is_some_and(|next| next.ms == line.ms);
        if deploy || next.is_some_and(|next| follows(line, next)) {
            lines.remove(at);
            continue;
        }
        // Where nothing is delayed, the drain begins with the signal.
        if line.what.ends_with("initiating shutdown")
            && let Some(after) = lines[at + 1..].iter().position(|next| next.who == line.who)
            && lines[at + 1 + after].ms == line.ms
            && lines[at + 1 + after].what.starts_with("Shutting down ")
        {
            lines.remove(at + 1 + after);
        }
        at += 1;
    }
}

/// What makes two lines that follow one another alike.
fn likeness(line: &Line) -> (String, String) {
    if line.who.starts_with("client-") && line.what.contains('✓') {
        return ("clients".to_owned(), "✓".to_owned());
    }
    // Requests differ in their number and their connection.
    let what = match line.what.split_once('✗') {
        Some((_, failure)) if line.who.starts_with("client-") => failure,
        _ => &line.what,
    };
    (line.who.clone(), what.chars().filter(|c| !c.is_ascii_digit()).collect())
}

/// Lines that are alike become one; several that come again and again are told once.
fn fold(lines: &[&Line]) -> Vec<Line> {
    let mut told: Vec<Line> = lines.chunk_by(|a, b| likeness(a) == likeness(b)).map(fold_alike).collect();
    for period in 2..=3 {
        fold_period(&mut told, period);
    }
    told
}

fn time(line: &Line) -> String {
    format!("+{}.{:03}", line.ms / 1000, line.ms % 1000)
}

/// `run` is not empty.
fn fold_alike(run: &[&Line]) -> Line {
    let (first, until) = (run[0], time(run[run.len() - 1]));
    let (who, what) = match run.len() {
        1 => (first.who.clone(), first.what.clone()),
        n if likeness(first).1 == "✓" => ("clients".to_owned(), format!("{n} requests ✓, until {until}")),
        n => (first.who.clone(), format!("{} (and {} more like it, until {until})", first.what, n - 1)),
    };
    Line { ms: first.ms, who, what }
}

/// Where `period` lines come at least three times in a row, the first of them stay, and how often they come again.
fn fold_period(told: &mut Vec<Line>, period: usize) {
    let mut at = 0;
    while at + 3 * period <= told.len() {
        let first: Vec<_> = told[at..at + period].iter().map(likeness).collect();
        let again = told[at + period..]
            .chunks_exact(period)
            .take_while(|block| block.iter().map(likeness).eq(first.iter().cloned()))
            .count();
        if again >= 2 {
            let rest = at + period..at + period * (again + 1);
            let line = &told[rest.start];
            let until = time(&told[rest.end - 1]);
            let what = format!("(and the same {again} more times, until {until})");
            let remark = Line { ms: line.ms, who: line.who.clone(), what };
            told.splice(rest, [remark]);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[(u64, &str, &str)], problems: &[&str]) -> Vec<String> {
        let lines: Vec<Line> = lines
            .iter()
            .map(|&(ms, who, what)| Line { ms, who: who.to_owned(), what: what.to_owned() })
            .collect();
        let problems: Vec<String> = problems.iter().map(|&problem| problem.to_owned()).collect();
        tell(&lines, &problems).iter().map(|line| format!("{} {}", line.who, line.what)).collect()
    }

    const BRING_UP: [(u64, &str, &str); 4] = [
        (0, "platform", "pod-10 is made (revision 1)"),
        (100, "pod-10", "the server starts"),
        (200, "pod-10", "Worker 1 ready (generation 1)"),
        (300, "platform", "everything is up"),
    ];
    const END: [(u64, &str, &str); 4] = [
        (900, "platform", "everything is stopped"),
        (900, "pod-1", "gets SIGTERM"),
        (901, "pod-1", "All workers stopped"),
        (950, "pod-1", "the server exits with 0"),
    ];

    #[test]
    fn what_is_in_every_run_is_one_line() {
        assert_eq!(told(&BRING_UP, &[]), ["platform everything is up"]);
        assert_eq!(told(&END, &["pod-10: exits too late"]), ["platform everything is stopped"]);
    }

    #[test]
    fn a_crash_before_everything_is_up_is_told() {
        let mut lines = BRING_UP.to_vec();
        lines.insert(2, (150, "pod-10", "worker 1 crashes while it starts"));
        assert_eq!(
            told(&lines, &[]),
            ["pod-10 worker 1 crashes while it starts", "platform everything is up"]
        );
    }

    #[test]
    fn the_end_of_a_pod_with_a_problem_is_told() {
        let lines = told(&END, &["pod-1: exits too early"]);
        assert_eq!(lines.last().map(String::as_str), Some("pod-1 the server exits with 0"));
        assert!(lines.contains(&"pod-1 gets SIGTERM".to_owned()), "{lines:?}");
    }

    #[test]
    fn what_comes_again_and_again_is_told_once() {
        let mut lines = Vec::new();
        for ms in 0..4 {
            lines.extend([(ms, "pod-1", "Worker 1 died"), (ms, "pod-1", "Worker 1 is being replaced")]);
        }
        lines.push((9, "pod-1", "the server exits with 5"));
        let expected = [
            "pod-1 Worker 1 died",
            "pod-1 Worker 1 is being replaced",
            "pod-1 (and the same 3 more times, until +0.003)",
            "pod-1 the server exits with 5",
        ];
        assert_eq!(told(&lines, &[]), expected);
    }

    #[test]
    fn what_comes_after_the_last_problem_is_left_out() {
        let lines = [
            (1, "client-0", "r0 to pod-10, new connection: ✗ Closed"),
            (2, "client-1", "r1 to pod-10, new connection: ✓"),
            (3, "platform", "pod-10 is deleted"),
            (4, "pod-10", "gets SIGTERM"),
        ];
        let expected =
            ["client-0 r0 to pod-10, new connection: ✗ Closed", "… (3 more lines, after the last problem)"];
        assert_eq!(told(&lines, &["r0 of client 0 failed and nothing explains it"]), expected);
        assert_eq!(told(&lines, &["pod-10: something at 1 ms"]), expected);
        assert_eq!(told(&lines, &["pod-10: something", "r0 failed"]).len(), 4, "nobody knows when that was");
    }

    #[test]
    fn served_requests_are_one_line_and_a_failure_between_them_stays() {
        let lines = [
            (1, "client-0", "r0 to pod-10, new connection: ✓"),
            (2, "client-1", "r1 to pod-10, new connection: ✓ and close"),
            (3, "client-0", "r2 to pod-10, kept connection: ✗ Closed"),
            (4, "client-0", "r3 to pod-10, new connection: ✗ Refused"),
            (5, "client-0", "r4 to pod-10, new connection: ✗ Refused"),
        ];
        let expected = [
            "clients 2 requests ✓, until +0.002",
            "client-0 r2 to pod-10, kept connection: ✗ Closed",
            "client-0 r3 to pod-10, new connection: ✗ Refused (and 1 more like it, until +0.005)",
        ];
        assert_eq!(told(&lines, &[]), expected);
    }
}
