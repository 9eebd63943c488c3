//! Curves of precision and recall as an SVG picture.

use std::fmt::Write as _;

use super::protocol::{Curve, SETS};

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 776.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 560.0;
/// Of the sets; they differ for readers who do not tell red from green, too.
const COLOURS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];
/// So that they differ without colour.
const DASHES: [&str; 3] = ["", "9 4", "3 3"];
/// Points that would lie nearer to the last one, in pixels, are left out.
const NEAREST: f64 = 0.4;

/// The curves of the sets, under a title.
pub(super) fn svg(title: &str, curves: &[Curve; 3]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"15\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    axes(&mut svg, title);
    for (curve, (colour, dash)) in curves.iter().zip(COLOURS.iter().zip(DASHES)) {
        // Writing into a string does not fail, here and below.
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.6\" stroke-dasharray=\"{dash}\" points=\"{}\"/>",
            line(curve)
        );
    }
    legend(&mut svg, curves);
    svg.push_str("</svg>\n");
    svg
}

fn place(recall: f64, precision: f64) -> (f64, f64) {
    (LEFT + recall * (RIGHT - LEFT), BOTTOM - precision * (BOTTOM - TOP))
}

fn axes(svg: &mut String, title: &str) {
    let middle = f64::midpoint(LEFT, RIGHT);
    let _ = writeln!(
        svg,
        "<text x=\"{middle}\" y=\"36\" font-size=\"19\" text-anchor=\"middle\">{}</text>",
        escaped(title)
    );
    for tenth in 0..=10 {
        let part = f64::from(tenth) / 10.0;
        let (x, y) = place(part, part);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {TOP}V{BOTTOM}M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{part:.1}</text>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{part:.1}</text>",
            BOTTOM + 22.0,
            LEFT - 9.0,
            y + 5.0
        );
    }
    let (label, side) = (BOTTOM + 54.0, f64::midpoint(TOP, BOTTOM));
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#222\" stroke-width=\"1.5\"/>\
         <text x=\"{middle}\" y=\"{label}\" font-size=\"17\" text-anchor=\"middle\">recall</text>\
         <text transform=\"translate(28 {side}) rotate(-90)\" font-size=\"17\" text-anchor=\"middle\">precision</text>"
    );
}

/// A curve's points, from its first detection on.
fn line(curve: &Curve) -> String {
    let mut line = String::new();
    let mut last = None;
    for point in curve.points.iter().filter(|point| point.recall > 0.0) {
        let (x, y) = place(point.recall, point.precision);
        if last.is_some_and(|(before_x, before_y): (f64, f64)| (x - before_x).hypot(y - before_y) < NEAREST) {
            continue;
        }
        let _ = write!(line, "{x:.1},{y:.1} ");
        last = Some((x, y));
    }
    line.truncate(line.trim_end().len());
    line
}

fn legend(svg: &mut String, curves: &[Curve; 3]) {
    // Low at the left: a curve is there only where a detector is of no use.
    let (x, y) = (LEFT + 20.0, BOTTOM - 100.0);
    let _ = writeln!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"252\" height=\"86\" fill=\"#fff\" stroke=\"#bbb\"/>");
    for (row, (curve, name)) in curves.iter().zip(SETS).enumerate() {
        let y = y + 22.0 + 25.0 * row as f64;
        let average =
            curve.average_precision.map_or_else(|| "no faces".to_owned(), |ap| format!("AP {:.2} %", 100.0 * ap));
        let _ = writeln!(
            svg,
            "<path d=\"M{} {y}h42\" stroke=\"{}\" stroke-width=\"2.6\" stroke-dasharray=\"{}\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text><text x=\"{}\" y=\"{}\">{average}</text>",
            x + 12.0,
            COLOURS[row],
            DASHES[row],
            x + 64.0,
            y + 5.0,
            x + 148.0,
            y + 5.0,
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::protocol::Point;
    use super::*;

    #[test]
    fn each_set_has_a_curve_and_a_legend() {
        let points = [(0.0, 0.0), (0.5, 1.0), (0.5, 1.0), (1.0, 0.5)];
        let points = points.map(|(recall, precision)| Point { recall, precision }).to_vec();
        let curve = |average_precision| Curve { faces: 2, average_precision, points: points.clone() };
        let svg = svg("a < b & c", &[curve(Some(0.92361)), curve(Some(0.5)), curve(None)]);
        for part in ["a &lt; b &amp; c", ">recall<", ">precision<", "AP 92.36 %", "AP 50.00 %", "no faces", ">hard<"] {
            assert!(svg.contains(part), "{part} is not in: {svg}");
        }
        // What was not found yet is no point, and one that repeats is one.
        assert_eq!(svg.matches("points=\"430.0,64.0 776.0,312.0\"").count(), 3, "{svg}");
    }
}
