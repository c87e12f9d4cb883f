//! The picture: bars, one panel for each thing that was measured.

use std::fmt::Write as _;

use crate::helpers;
use crate::report::{Figures, Reads};
use crate::subjects::{BY_PATH, LIVE};
use crate::support::picture::{begin, line};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 300.0;
const RIGHT: f64 = 120.0;
const EDGE: f64 = 24.0;
const BAR: f64 = 18.0;
const STEP: f64 = 26.0;
const PANEL: f64 = 56.0;

const LIGHT: &str = "
  .bar { fill: #afb8c1; } .ours { fill: #0969da; }
  .name { text-anchor: end; }
";
const DARK: &str = "
    .bar { fill: #484f58; } .ours { fill: #58a6ff; }
";

/// One bar.
struct Bar {
    name: String,
    value: f64,
    label: String,
    ours: bool,
}

/// Draws a run.
pub fn draw(figures: &Figures) -> String {
    let is_ours = |reads: &Reads| [BY_PATH, LIVE].contains(&reads.subject);
    let on_one_core = || figures.open_read_close.iter().filter(|reads| reads.on_one_core);
    let latencies = on_one_core().filter(|reads| reads.readers == 1).map(|reads| Bar {
        name: reads.subject.to_owned(),
        value: reads.p50_us,
        label: format!("{:.1} µs", reads.p50_us),
        ours: is_ours(reads),
    });
    let rates = on_one_core().filter(|reads| reads.server_cpu_us > 0.0 && reads.readers != 4);
    let rates = rates.map(|reads| Bar {
        name: format!(
            "{}, {} reader{}",
            reads.subject,
            reads.readers,
            if reads.readers == 1 { "" } else { "s" }
        ),
        value: reads.a_second,
        label: format!("{:.0} thousand", reads.a_second / 1000.0),
        ours: is_ours(reads),
    });
    let fills = figures.git_credential_fill.iter().map(|times| Bar {
        name: times.what.to_owned(),
        value: times.p50_ms,
        label: format!("{:.1} ms", times.p50_ms),
        ours: times.what == helpers::OURS,
    });
    let panels = [
        ("open + read + close, half take no longer (one reader)", latencies.collect::<Vec<_>>()),
        ("reads a second", rates.collect()),
        ("git credential fill, half take no longer", fills.collect()),
    ];
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let bars = panels.iter().map(|(_, bars)| bars.len()).sum::<usize>() as f64;
    #[expect(clippy::cast_precision_loss, reason = "three")]
    let height = 64.0 + panels.len() as f64 * PANEL + bars * STEP + 8.0;
    let name = "What a read of a fresh token costs, and what git waits for its helper";
    let mut svg = begin((WIDTH, height), name, (EDGE, "What a fresh token costs"), LIGHT, DARK);
    let machine = &figures.machine;
    line(
        &mut svg,
        &format!(
            "<text x=\"{EDGE}\" y=\"54\">{}, Linux {}; readers and servers on one core, best of {} \
             alternating rounds: scripts/evidence bench</text>",
            machine.processor, machine.kernel, figures.rounds
        ),
    );
    let mut top = 64.0;
    for (title, bars) in &panels {
        line(
            &mut svg,
            &format!("<text class=\"panel\" x=\"{EDGE}\" y=\"{}\">{title}</text>", top + 38.0),
        );
        top += PANEL;
        let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
        for bar in bars {
            draw_bar(&mut svg, bar, top, bar.value / most);
            top += STEP;
        }
    }
    svg + "</svg>\n"
}

fn draw_bar(svg: &mut String, bar: &Bar, top: f64, part: f64) {
    let length = (WIDTH - LEFT - RIGHT) * part;
    let class = if bar.ours { "bar ours" } else { "bar" };
    let (base, end) = (top + 14.0, LEFT + length + 8.0);
    let _ = writeln!(
        svg,
        "<text class=\"name\" x=\"{}\" y=\"{base}\">{}</text>\
         <rect class=\"{class}\" x=\"{LEFT}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR}\"/>\
         <text x=\"{end:.1}\" y=\"{base}\">{}</text>",
        LEFT - 10.0,
        bar.name,
        bar.label
    );
}
