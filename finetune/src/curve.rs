//! The losses as a picture.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 32.0;
const BOTTOM: f64 = 40.0;
/// Points drawn at most; more steps than that are averaged.
const POINTS: usize = 1000;
const GRID_LINES: usize = 5;

/// An SVG of `losses` (one a step, from step 1) under `title`.
pub fn draw(title: &str, losses: &[f64]) -> String {
    let each = losses.len().div_ceil(POINTS).max(1);
    let points: Vec<(f64, f64)> = losses
        .chunks(each)
        .enumerate()
        .map(|(index, part)| {
            let step = index * each + part.len().div_ceil(2);
            (step as f64, part.iter().sum::<f64>() / part.len() as f64)
        })
        .collect();
    let top = points.iter().map(|point| point.1).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let last = losses.len().max(2) as f64;
    let x = |step: f64| LEFT + (step - 1.0) / (last - 1.0) * (WIDTH - LEFT - RIGHT);
    let y = |loss: f64| TOP + (1.0 - loss / top) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>\n",
        escape(title)
    );
    for line in 0..=GRID_LINES {
        let part = line as f64 / GRID_LINES as f64;
        let (height, step) = (y(top * part), 1.0 + (last - 1.0) * part);
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {height:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.2}</text>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{step:.0}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            height + 4.0,
            top * part,
            x(step),
            HEIGHT - BOTTOM + 18.0,
        );
    }
    let path: Vec<String> =
        points.iter().map(|(step, loss)| format!("{:.1},{:.1}", x(*step), y(*loss))).collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#1667c4\" stroke-width=\"1.5\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">step</text>\n</svg>",
        path.join(" "),
        WIDTH / 2.0,
        HEIGHT - 6.0
    );
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_loss_falls_in_the_picture() {
        let svg = draw("a < b", &[4.0, 2.0, 1.0, 0.0]);
        assert!(svg.contains("a &lt; b"));
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(points, "56.0,32.0 272.0,176.0 488.0,248.0 704.0,320.0");
    }

    #[test]
    fn few_and_many_steps() {
        assert!(draw("", &[]).contains("points=\"\""));
        assert!(draw("", &[1.0]).contains("56.0,32.0"));
        let many = draw("", &vec![1.0; 100_000]);
        assert!(many.len() < 30_000, "{}", many.len());
    }
}
