//! The picture: server CPU per request, one panel for each workload, one bar for each server and concurrency.

use std::fmt::Write as _;

use crate::report::{cells, format_us, servers, title};
use crate::results::{Cell, Results, Turn};
use crate::servers::Server;

const PANEL_WIDTH: f64 = 470.0;
const BAR_HEIGHT: f64 = 11.0;
const GROUP_GAP: f64 = 8.0;
const LABEL_WIDTH: f64 = 100.0;
const FIGURE_WIDTH: f64 = 50.0;
const COLUMNS: usize = 2;

/// An SVG document, of the runs with one worker.
pub fn draw(results: &Results) -> String {
    let workers = results.distinct(|turn| turn.workers).into_iter().min().unwrap_or(1);
    let servers = servers(results, workers);
    let mut workloads: Vec<(String, Vec<usize>)> = Vec::new();
    for (workload, concurrency) in cells(results, workers) {
        match workloads.iter_mut().find(|(name, _)| *name == workload) {
            Some((_, all)) => all.push(concurrency),
            None => workloads.push((workload, vec![concurrency])),
        }
    }
    let most = workloads.iter().map(|(_, all)| all.len()).max().unwrap_or(0);
    let group = most as f64 * BAR_HEIGHT + GROUP_GAP;
    let panel_height = 40.0 + group * servers.len() as f64;
    let rows = workloads.len().div_ceil(COLUMNS);
    let (width, height) = (PANEL_WIDTH * COLUMNS as f64 + 20.0, 60.0 + panel_height * rows as f64);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\" font-weight=\"600\">Server CPU per request, µs. Shorter is better</text>\n\
         <text x=\"10\" y=\"40\" fill=\"#555\">From dark to light: {} connections. {workers} worker on a core of its own; median of {} rounds</text>\n",
        concurrencies(&workloads),
        results.rounds,
    );
    for (index, (workload, concurrency)) in workloads.iter().enumerate() {
        let x = 10.0 + PANEL_WIDTH * (index % COLUMNS) as f64;
        let y = 60.0 + panel_height * (index / COLUMNS) as f64;
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">");
        panel(results, workers, workload, concurrency, &servers, group, &mut out);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn concurrencies(workloads: &[(String, Vec<usize>)]) -> String {
    let all = workloads.first().map_or(&[][..], |(_, all)| all);
    all.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

fn panel(
    results: &Results,
    workers: usize,
    workload: &str,
    concurrency: &[usize],
    servers: &[Server],
    group: f64,
    out: &mut String,
) {
    let cpu = |server: &Server, concurrency| {
        results.median(Cell { workload, workers, concurrency }, server.name, Turn::cpu_us_per_unit)
    };
    let longest = servers
        .iter()
        .flat_map(|server| concurrency.iter().filter_map(move |c| cpu(server, *c)))
        .fold(f64::MIN_POSITIVE, f64::max);
    let _ = writeln!(out, "<text y=\"12\" font-weight=\"600\">{}</text>", title(workload).replace('`', ""));
    let room = PANEL_WIDTH - LABEL_WIDTH - FIGURE_WIDTH - 20.0;
    for (i, server) in servers.iter().enumerate() {
        let top = 22.0 + group * i as f64;
        let middle = top + (group - GROUP_GAP) / 2.0 + 4.0;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
            LABEL_WIDTH - 6.0,
            server.name
        );
        for (j, &c) in concurrency.iter().enumerate() {
            let y = top + BAR_HEIGHT * j as f64;
            let Some(us) = cpu(server, c) else { continue };
            let length = room * us / longest;
            let opacity = 1.0 - 0.3 * j as f64;
            let _ = writeln!(
                out,
                "<rect x=\"{LABEL_WIDTH}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{}\" fill=\"{}\" fill-opacity=\"{opacity:.2}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\" fill=\"#333\">{}</text>",
                BAR_HEIGHT - 1.0,
                colour(server),
                LABEL_WIDTH + length + 4.0,
                y + BAR_HEIGHT - 2.5,
                format_us(us),
            );
        }
    }
}

fn colour(server: &Server) -> &'static str {
    match (server.name, server.is_competitor()) {
        ("bare-hyper", _) => "#777",
        (_, true) => "#3b6ea5",
        _ => "#d1495b",
    }
}
