//! Precision-recall curves as an SVG image.

use std::fmt::Write as _;

use super::protocol::{DIFFICULTIES, PrCurve};

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 776.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 560.0;
/// Colours of the difficulties, distinguishable with red-green colour blindness.
const COLOURS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];
/// Dash patterns of the difficulties, for readers without colour.
const DASHES: [&str; 3] = ["", "9 4", "3 3"];
/// Minimum distance between consecutive points of a curve, in pixels.
const MIN_DISTANCE: f64 = 0.4;

/// Plots one curve per difficulty.
pub(super) fn svg(title: &str, curves: &[PrCurve; 3]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"15\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    axes(&mut svg, title);
    for (curve, (colour, dash)) in curves.iter().zip(COLOURS.iter().zip(DASHES)) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.6\" stroke-dasharray=\"{dash}\" points=\"{}\"/>",
            polyline_points(curve)
        );
    }
    legend(&mut svg, curves);
    svg.push_str("</svg>\n");
    svg
}

fn to_pixels(recall: f64, precision: f64) -> (f64, f64) {
    (LEFT + recall * (RIGHT - LEFT), BOTTOM - precision * (BOTTOM - TOP))
}

fn axes(svg: &mut String, title: &str) {
    let middle = f64::midpoint(LEFT, RIGHT);
    let _ =
        writeln!(svg, "<text x=\"{middle}\" y=\"36\" font-size=\"19\" text-anchor=\"middle\">{}</text>", escape(title));
    for tenth in 0..=10 {
        let value = f64::from(tenth) / 10.0;
        let (x, y) = to_pixels(value, value);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {TOP}V{BOTTOM}M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{value:.1}</text>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1}</text>",
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

/// The points of a curve with a recall above 0, as the attribute `points`.
fn polyline_points(curve: &PrCurve) -> String {
    let mut text = String::new();
    let mut last = None;
    for point in curve.points.iter().filter(|point| point.recall > 0.0) {
        let (x, y) = to_pixels(point.recall, point.precision);
        if last.is_some_and(|(last_x, last_y): (f64, f64)| (x - last_x).hypot(y - last_y) < MIN_DISTANCE) {
            continue;
        }
        let _ = write!(text, "{x:.1},{y:.1} ");
        last = Some((x, y));
    }
    text.truncate(text.trim_end().len());
    text
}

fn legend(svg: &mut String, curves: &[PrCurve; 3]) {
    // The lower left corner is free unless the detector is very poor.
    let (x, y) = (LEFT + 20.0, BOTTOM - 100.0);
    let _ = writeln!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"252\" height=\"86\" fill=\"#fff\" stroke=\"#bbb\"/>");
    for (row, (curve, name)) in curves.iter().zip(DIFFICULTIES).enumerate() {
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::protocol::PrPoint;

    #[test]
    fn each_difficulty_has_a_curve_and_a_legend_entry() {
        let points = [(0.0, 0.0), (0.5, 1.0), (0.5, 1.0), (1.0, 0.5)];
        let points = points.map(|(recall, precision)| PrPoint { recall, precision }).to_vec();
        let curve = |average_precision| PrCurve { faces: 2, average_precision, points: points.clone() };
        let svg = svg("a < b & c", &[curve(Some(0.92361)), curve(Some(0.5)), curve(None)]);
        for part in ["a &lt; b &amp; c", ">recall<", ">precision<", "AP 92.36 %", "AP 50.00 %", "no faces", ">hard<"] {
            assert!(svg.contains(part), "{part} is not in: {svg}");
        }
        // Points at recall 0 and repeated points are dropped.
        assert_eq!(svg.matches("points=\"430.0,64.0 776.0,312.0\"").count(), 3, "{svg}");
    }
}
