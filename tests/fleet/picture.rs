//! The picture: two panels over time, requests above and workspaces without a token below. It is
//! readable on a light and on a dark page, and each curve differs from the others without colour.

use std::fmt::Write as _;
use std::time::Duration;

use crate::page::{begin, line};
use crate::report::{Curve, LEAD, SPAN, STEP};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
/// The top and the height of each panel.
const UPPER: (f64, f64) = (112.0, 210.0);
const LOWER: (f64, f64) = (386.0, 170.0);
const HEIGHT: f64 = 618.0;

/// Requests a second, on a logarithmic axis.
const LEAST: f64 = 0.1;
const MOST: f64 = 1000.0;

const LIGHT: &str = "
  .shade { fill: #eaeef2; }
  .even { stroke: #59636e; stroke-dasharray: 2 3; }
  .curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
  .tokenfs { stroke: #0969da; stroke-width: 2.4; }
  .old { stroke: #cf222e; stroke-dasharray: 7 3; }
  .kubelet { stroke: #9a6700; stroke-dasharray: 2 2; }
";
const DARK: &str = "
    .shade { fill: #1c2330; } .even { stroke: #9198a1; }
    .tokenfs { stroke: #58a6ff; } .old { stroke: #ff7b72; } .kubelet { stroke: #d9a521; }
";

/// Draws the curves, ours first, of an outage of so many minutes.
pub fn draw(curves: &[Curve], workspaces: u32, outage: Duration, uniform_rate: f64) -> String {
    let classes = ["tokenfs", "old", "kubelet"];
    let minutes_of_outage = minutes(outage);
    let name =
        format!("{workspaces} workspaces live through an outage of {minutes_of_outage} minutes");
    let title = format!(
        "{} workspaces, the platform is gone for {minutes_of_outage} minutes",
        grouped(workspaces)
    );
    let mut svg = begin((WIDTH, HEIGHT), &name, (LEFT, &title), LIGHT, DARK);
    legend(&mut svg, curves, &classes, uniform_rate);
    for (top, height) in [UPPER, LOWER] {
        let (from, to) = (x(0.0), x(minutes(outage)));
        line(
            &mut svg,
            &format!(
                "<rect class=\"shade\" x=\"{from:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{height}\"/>",
                to - from
            ),
        );
    }
    upper(&mut svg, uniform_rate);
    lower(&mut svg, workspaces);
    for (top, height) in [UPPER, LOWER] {
        time_axis(&mut svg, top + height);
    }
    // Ours is drawn last, above the others.
    for (curve, class) in curves.iter().zip(classes).rev() {
        let requests = curve.requests_per_second.iter().map(|&rate| up(rate));
        path(&mut svg, class, requests);
        let most = f64::from(workspaces);
        path(&mut svg, class, curve.without_token.iter().map(|&n| down(n / most)));
    }
    svg + "</svg>\n"
}

fn legend(svg: &mut String, curves: &[Curve], classes: &[&str], uniform_rate: f64) {
    let mut at = LEFT;
    for (curve, class) in curves.iter().zip(classes) {
        line(
            svg,
            &format!(
                "<path class=\"curve {class}\" d=\"M{at} 55h34\"/><text x=\"{}\" y=\"59\">{}</text>",
                at + 42.0,
                curve.rule
            ),
        );
        at += 168.0;
    }
    line(
        svg,
        &format!(
            "<path class=\"even\" d=\"M{at} 55h34\"/><text x=\"{}\" y=\"59\">evenly: {uniform_rate:.1}</text>",
            at + 42.0
        ),
    );
    at += 168.0;
    line(
        svg,
        &format!(
            "<rect class=\"shade\" x=\"{at}\" y=\"47\" width=\"34\" height=\"15\"/>\
         <text x=\"{}\" y=\"59\">no platform</text>",
            at + 42.0
        ),
    );
}

fn upper(svg: &mut String, uniform_rate: f64) {
    let (top, height) = UPPER;
    line(
        svg,
        &format!(
            "<text class=\"panel\" x=\"{LEFT}\" y=\"{}\">requests to the platform, per second (means of {STEP} s; logarithmic)</text>",
            top - 14.0
        ),
    );
    for (rate, label) in [(0.1, "0.1"), (1.0, "1"), (10.0, "10"), (100.0, "100"), (1000.0, "1,000")]
    {
        horizontal(svg, "grid", up(rate), label);
    }
    line(svg, &format!("<path class=\"axis\" d=\"M{LEFT} {top}v{height}\"/>"));
    horizontal(svg, "even", up(uniform_rate), "");
}

fn lower(svg: &mut String, workspaces: u32) {
    let (top, height) = LOWER;
    line(
        svg,
        &format!(
            "<text class=\"panel\" x=\"{LEFT}\" y=\"{}\">workspaces without a live token (as gh reads it, for the old daemon)</text>",
            top - 14.0
        ),
    );
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let number = grouped_f64(f64::from(workspaces) * part);
        horizontal(svg, "grid", down(part), &number);
    }
    line(svg, &format!("<path class=\"axis\" d=\"M{LEFT} {top}v{height}\"/>"));
}

fn time_axis(svg: &mut String, y: f64) {
    line(svg, &format!("<path class=\"axis\" d=\"M{LEFT} {y}H{}\"/>", WIDTH - RIGHT));
    let mut at = -minutes(LEAD);
    while at <= minutes(SPAN) - minutes(LEAD) {
        let place = x(at);
        let label = at.to_string().replace('-', "−");
        line(
            svg,
            &format!(
                "<path class=\"axis\" d=\"M{place:.1} {y}v5\"/>\
             <text x=\"{place:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                y + 19.0
            ),
        );
        at += 15.0;
    }
    line(
        svg,
        &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">minutes since the outage began</text>",
            WIDTH - RIGHT,
            y + 37.0
        ),
    );
}

fn horizontal(svg: &mut String, class: &str, y: f64, label: &str) {
    line(
        svg,
        &format!(
            "<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{}\"/>\
         <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.5
        ),
    );
}

fn path(svg: &mut String, class: &str, heights: impl Iterator<Item = f64>) {
    let mut d = String::new();
    let mut at = -minutes(LEAD);
    for (n, y) in heights.enumerate() {
        let _ = write!(d, "{}{:.1} {y:.1}", if n == 0 { 'M' } else { 'L' }, x(at));
        at += minutes(Duration::from_secs(STEP as u64));
    }
    line(svg, &format!("<path class=\"curve {class}\" d=\"{d}\"/>"));
}

/// Where a minute since the outage's beginning lies.
fn x(minute: f64) -> f64 {
    LEFT + (minute + minutes(LEAD)) / minutes(SPAN) * (WIDTH - LEFT - RIGHT)
}

fn up(rate: f64) -> f64 {
    let part = (rate.clamp(LEAST, MOST) / LEAST).log10() / (MOST / LEAST).log10();
    UPPER.0 + UPPER.1 * (1.0 - part)
}

fn down(part: f64) -> f64 {
    LOWER.0 + LOWER.1 * (1.0 - part)
}

fn minutes(time: Duration) -> f64 {
    time.as_secs_f64() / 60.0
}

fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn grouped_f64(number: f64) -> String {
    format!("{number:.0}").parse().map_or_else(|_| number.to_string(), grouped)
}
