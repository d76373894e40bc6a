//! The screen: what runs, how far it is, and the distributions so far. Keys: ←/→ or tab choose the tab, ↑/↓ the
//! series of the histogram, q ends.

mod draw;
mod state;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::error::TryRecvError;

use crate::progress::{Outline, Progress};
use state::State;

/// Ten pictures a second are smooth enough for numbers.
const FRAME: Duration = Duration::from_millis(100);

/// Whether there is a terminal to draw on.
pub fn possible() -> bool {
    std::io::stdout().is_terminal() && std::io::stdin().is_terminal()
}

/// Shows a run until it has ended and the user has looked, or the user wants no more.
///
/// # Errors
/// When the terminal cannot be read or drawn on.
pub fn show(outline: &Outline, mut updates: UnboundedReceiver<Progress>) -> Result<()> {
    let mut state = State::new(outline);
    let mut terminal = ratatui::try_init()?;
    let result = (|| {
        loop {
            let ended = drain(&mut state, &mut updates);
            terminal.draw(|frame| draw::draw(frame, outline, &state, ended))?;
            if event::poll(FRAME)?
                && let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                    KeyCode::Right | KeyCode::Tab => state.turn(1),
                    KeyCode::Left | KeyCode::BackTab => state.turn(-1),
                    KeyCode::Down => state.choose_series(1),
                    KeyCode::Up => state.choose_series(-1),
                    _ => {}
                }
            }
        }
    })();
    ratatui::restore();
    result
}

/// Takes what has come; whether the run has ended.
fn drain(state: &mut State, updates: &mut UnboundedReceiver<Progress>) -> bool {
    loop {
        match updates.try_recv() {
            Ok(progress) => state.take(progress),
            Err(TryRecvError::Empty) => return false,
            Err(TryRecvError::Disconnected) => return true,
        }
    }
}

/// Where there is no terminal: a line for every finished tab.
pub async fn tell(outline: &Outline, mut updates: UnboundedReceiver<Progress>) {
    let mut state = State::new(outline);
    while let Some(progress) = updates.recv().await {
        let finished = match &progress {
            Progress::Point { tab, .. } => Some(*tab),
            _ => None,
        };
        state.take(progress);
        if let Some((tab, view)) =
            finished.and_then(|tab| Some((outline.tabs.get(tab)?, state.tabs.get(tab)?)))
        {
            eprintln!("{}: {} done, {} failed", tab.label, view.done, view.failed);
        }
    }
}
