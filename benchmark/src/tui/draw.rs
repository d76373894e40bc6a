//! One picture.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{
    Axis, Bar, BarChart, BarGroup, Block, Chart, Dataset, Gauge, GraphType, Paragraph, Row, Table, Tabs,
};

use super::state::{State, TabState};
use crate::progress::{Outline, Tab};
use crate::stats::{Summary, histogram};

const ACCENT: Color = Color::Cyan;

pub fn draw(frame: &mut Frame<'_>, outline: &Outline, state: &State, ended: bool) {
    let [head, tabs, gauges, table, charts, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Length(outline.series.len() as u16 + 3),
        Constraint::Min(8),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(outline.title.clone().bold()), head);
    let labels = outline.tabs.iter().map(|tab| Line::from(tab.label.clone()));
    frame.render_widget(
        Tabs::new(labels).select(state.chosen).highlight_style(Style::new().fg(ACCENT).bold()),
        tabs,
    );
    if let (Some(tab), Some(view)) = (outline.tabs.get(state.chosen), state.tabs.get(state.chosen)) {
        draw_gauges(frame, gauges, outline, state, (tab, view));
        draw_table(frame, table, outline, view);
        let [left, right] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(charts);
        draw_histogram(frame, left, outline, state.series, view);
        draw_chart(frame, right, outline, state);
    }
    let state_of_run = if ended { "finished" } else { "running" };
    let keys = format!("{state_of_run}   ←/→ tab   ↑/↓ series   q end");
    frame.render_widget(Paragraph::new(keys.dim()), foot);
}

fn draw_gauges(
    frame: &mut Frame<'_>,
    area: Rect,
    outline: &Outline,
    state: &State,
    (tab, view): (&Tab, &TabState),
) {
    let [whole, own] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(area);
    let finished = state.tabs.iter().filter(|tab| tab.point.is_some()).count();
    let gauge = |title: String, ratio: f64, text: String| {
        Gauge::default()
            .block(Block::bordered().title(title))
            .gauge_style(ACCENT)
            .ratio(ratio.clamp(0.0, 1.0))
            .label(text)
    };
    let count = outline.tabs.len();
    let all =
        gauge("all".to_owned(), finished as f64 / count.max(1) as f64, format!("{finished} of {count}"));
    frame.render_widget(all, whole);
    let done = view.done + view.failed;
    let (ratio, text) = match tab.total {
        Some(total) => (done as f64 / total.max(1) as f64, format!("{done} of {total}")),
        None => (if view.point.is_some() { 1.0 } else { 0.0 }, done.to_string()),
    };
    let failed = match (&view.last_error, view.failed) {
        (Some(kind), failed) if failed > 0 => format!(", {failed} failed, last: {kind}"),
        _ => String::new(),
    };
    frame.render_widget(gauge(format!("{}{failed}", tab.label), ratio, text), own);
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, outline: &Outline, view: &TabState) {
    let rows = outline.series.iter().zip(&view.values).map(|(name, values)| {
        let s = Summary::of(values);
        let figures = [s.mean, s.min, s.p50, s.p90, s.p99, s.max].map(|figure| format!("{figure:.2}"));
        Row::new([(*name).to_owned(), s.count.to_string()].into_iter().chain(figures))
    });
    let widths =
        [Constraint::Length(20), Constraint::Length(9)].into_iter().chain([Constraint::Length(11); 6]);
    let head = Row::new(["", "count", "mean", "min", "p50", "p90", "p99", "max"]).bold();
    frame.render_widget(Table::new(rows, widths).header(head).block(Block::bordered()), area);
}

fn draw_histogram(frame: &mut Frame<'_>, area: Rect, outline: &Outline, series: usize, view: &TabState) {
    let name = outline.series.get(series).copied().unwrap_or_default();
    let values = view.values.get(series).map(Vec::as_slice).unwrap_or_default();
    let bars = (usize::from(area.width.saturating_sub(2)) / 8).max(1);
    let bars: Vec<Bar<'_>> = histogram(values, bars)
        .into_iter()
        .map(|(edge, count)| Bar::default().value(count).label(Line::from(format!("{edge:.1}"))))
        .collect();
    let chart = BarChart::default().data(BarGroup::default().bars(&bars)).bar_width(7).bar_style(ACCENT);
    frame.render_widget(chart.block(Block::bordered().title(format!("{name}, how often"))), area);
}

fn draw_chart(frame: &mut Frame<'_>, area: Rect, outline: &Outline, state: &State) {
    let points: Vec<(f64, f64)> = state.tabs.iter().filter_map(|tab| tab.point).collect();
    let most = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    let (x, y) = (most(|point| point.0), most(|point| point.1));
    let axis = |name: &'static str, most: f64| {
        let labels = [0.0, most / 2.0, most].map(|value| format!("{value:.1}"));
        Axis::default().title(name).bounds([0.0, most]).labels(labels)
    };
    let data = Dataset::default().marker(Marker::Dot).graph_type(GraphType::Line).style(ACCENT).data(&points);
    let [across, up] = outline.axes;
    let chart = Chart::new(vec![data]).x_axis(axis(across, x)).y_axis(axis(up, y));
    frame.render_widget(chart.block(Block::bordered().title(format!("{up} against {across}"))), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::progress::Progress;

    fn picture(state: &State, outline: &Outline, width: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 30)).unwrap();
        terminal.draw(|frame| draw(frame, outline, state, false)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..30).map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn shows_figures_progress_and_errors() {
        let tab = |label: &str| Tab { label: label.into(), total: Some(4) };
        let outline = Outline {
            title: "demo".into(),
            tabs: vec![tab("1 client"), tab("8 clients")],
            series: vec!["first token ms", "between tokens ms"],
            axes: ["tokens/s", "ms"],
        };
        let mut state = State::new(&outline);
        picture(&state, &outline, 20);
        state.take(Progress::Done { tab: 1, values: vec![(0, 12.5), (1, 3.0), (1, 5.0)] });
        state.take(Progress::Failed { tab: 1, kind: "timeout".into() });
        state.take(Progress::Point { tab: 1, x: 100.0, y: 4.0 });
        let text = picture(&state, &outline, 120);
        for expected in [
            "demo",
            "8 clients",
            "2 of 4",
            "1 failed, last: timeout",
            "12.50",
            "first token ms, how often",
            "running",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
    }
}
