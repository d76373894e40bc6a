//! Line charts as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
/// Left, top, right, bottom.
const MARGINS: [f64; 4] = [70.0, 40.0, 90.0, 50.0];
const COLORS: [&str; 4] = ["#1b6ca8", "#d1495b", "#3c8d2f", "#8a5cc2"];

pub struct Plot {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Plot {
    /// Both axes begin at 0.
    pub fn render(&self) -> String {
        let points = || {
            self.lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite())
        };
        let x_ticks = ticks(points().map(|(x, _)| *x).fold(0.0, f64::max));
        let y_ticks = ticks(points().map(|(_, y)| *y).fold(0.0, f64::max));
        let [left, top, right, bottom] = MARGINS;
        let end = |ticks: &[f64]| ticks.last().copied().unwrap_or(1.0);
        let x_at = |x: f64| left + x / end(&x_ticks) * (WIDTH - left - right);
        let y_at = |y: f64| HEIGHT - bottom - y / end(&y_ticks) * (HEIGHT - top - bottom);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let mut add = |text: String| {
            let _ = writeln!(svg, "{text}");
        };
        add(label(WIDTH / 2.0, 22.0, "middle", &self.title));
        add(label((left + WIDTH - right) / 2.0, HEIGHT - 12.0, "middle", &self.x_label));
        let middle = (top + HEIGHT - bottom) / 2.0;
        add(format!(
            "<g transform=\"rotate(-90 16 {middle:.0})\">{}</g>",
            label(16.0, middle, "middle", &self.y_label)
        ));
        for x in &x_ticks {
            let at = x_at(*x);
            add(rule([at, HEIGHT - bottom, at, top]));
            add(label(at, HEIGHT - bottom + 16.0, "middle", &number(*x)));
        }
        for y in &y_ticks {
            let at = y_at(*y);
            add(rule([left, at, WIDTH - right, at]));
            add(label(left - 6.0, at + 4.0, "end", &number(*y)));
        }
        for (line, color) in self.lines.iter().zip(COLORS.iter().cycle()) {
            let drawn = line.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
            let places: Vec<(f64, f64)> = drawn.map(|(x, y)| (x_at(*x), y_at(*y))).collect();
            let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            add(format!(
                "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" points=\"{}\"/>",
                path.join(" ")
            ));
            for (x, y) in &places {
                add(format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>"));
            }
            if let Some((x, y)) = places.last() {
                add(label(x + 8.0, y + 4.0, "start", &line.name));
            }
        }
        svg + "</svg>\n"
    }
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>")
}

fn rule([x1, y1, x2, y2]: [f64; 4]) -> String {
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>")
}

fn number(value: f64) -> String {
    if value >= 10.0 || value == value.trunc() { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// About five round numbers from 0 to at least `most`.
fn ticks(most: f64) -> Vec<f64> {
    let most = if most > 0.0 { most } else { 1.0 };
    let rough = most / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough).unwrap_or(rough);
    let count = (most / step).ceil() as usize;
    (0..=count).map(|n| n as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_end() {
        assert_eq!(ticks(9.3), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(420.0), [0.0, 100.0, 200.0, 300.0, 400.0, 500.0]);
        assert_eq!(ticks(0.0), ticks(1.0));
    }

    #[test]
    fn points_lie_where_their_values_say() {
        let line = Line { name: "a<b".into(), points: vec![(0.0, 0.0), (5.0, 10.0), (f64::NAN, 1.0)] };
        let plot = Plot { title: "t".into(), x_label: "x".into(), y_label: "y".into(), lines: vec![line] };
        let svg = plot.render();
        assert!(svg.contains("points=\"70.0,350.0 550.0,40.0\""), "{svg}");
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN"), "{svg}");
    }
}
