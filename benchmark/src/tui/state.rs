//! What has come so far, and what the user looks at.

use crate::progress::{Outline, Progress};

/// Most values kept for each series; later ones replace early ones in turn, so that a long run stays small.
const KEPT: usize = 100_000;

#[derive(Debug, Default)]
pub struct State {
    pub tabs: Vec<TabState>,
    pub chosen: usize,
    pub series: usize,
    series_count: usize,
    /// Whether the user has chosen a tab; until then the one at work is shown.
    steered: bool,
}

#[derive(Debug, Default)]
pub struct TabState {
    pub done: usize,
    pub failed: usize,
    pub last_error: Option<String>,
    /// One list for every series.
    pub values: Vec<Vec<f64>>,
    pub point: Option<(f64, f64)>,
}

impl State {
    pub fn new(outline: &Outline) -> Self {
        let tab = || TabState { values: vec![Vec::new(); outline.series.len()], ..TabState::default() };
        Self {
            tabs: outline.tabs.iter().map(|_| tab()).collect(),
            series_count: outline.series.len(),
            ..Self::default()
        }
    }

    pub fn take(&mut self, progress: Progress) {
        let (Progress::Done { tab, .. } | Progress::Failed { tab, .. } | Progress::Point { tab, .. }) =
            &progress;
        let at = *tab;
        let Some(tab) = self.tabs.get_mut(at) else { return };
        match progress {
            Progress::Done { values, .. } => {
                tab.done += 1;
                for (series, value) in values {
                    if let Some(list) = tab.values.get_mut(series) {
                        push(list, value, tab.done);
                    }
                }
            }
            Progress::Failed { kind, .. } => {
                tab.failed += 1;
                tab.last_error = Some(kind);
            }
            Progress::Point { x, y, .. } => tab.point = Some((x, y)),
        }
        if !self.steered {
            self.chosen = at;
        }
    }

    /// The next or previous tab, around the end.
    pub fn turn(&mut self, by: isize) {
        self.steered = true;
        self.chosen = around(self.chosen, by, self.tabs.len());
    }

    pub fn choose_series(&mut self, by: isize) {
        self.series = around(self.series, by, self.series_count);
    }
}

fn push(list: &mut Vec<f64>, value: f64, turn: usize) {
    if list.len() < KEPT {
        list.push(value);
    } else if let Some(old) = list.get_mut(turn % KEPT) {
        *old = value;
    }
}

fn around(at: usize, by: isize, count: usize) -> usize {
    (at + count).saturating_add_signed(by) % count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Tab;

    fn outline() -> Outline {
        let tab = |label: &str| Tab { label: label.into(), total: Some(2) };
        Outline {
            title: "t".into(),
            tabs: vec![tab("1"), tab("4")],
            series: vec!["a", "b"],
            axes: ["x", "y"],
        }
    }

    #[test]
    fn values_go_to_their_series_and_the_tab_at_work_is_shown() {
        let mut state = State::new(&outline());
        state.take(Progress::Done { tab: 0, values: vec![(0, 1.0), (1, 2.0), (1, 3.0)] });
        assert_eq!((state.chosen, &state.tabs[0].values[1]), (0, &vec![2.0, 3.0]));
        state.take(Progress::Failed { tab: 1, kind: "503".into() });
        assert_eq!((state.chosen, state.tabs[1].failed), (1, 1));
        state.turn(1);
        state.take(Progress::Done { tab: 1, values: vec![] });
        assert_eq!(state.chosen, 0);
        state.turn(-1);
        assert_eq!(state.chosen, 1);
        state.choose_series(-1);
        assert_eq!(state.series, 1);
        state.take(Progress::Point { tab: 9, x: 0.0, y: 0.0 });
    }
}
