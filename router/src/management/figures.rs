//! The training under way, for `/metrics`.

use std::fmt::Write;
use std::sync::Mutex;

use serde_json::Value;

use super::lock;

/// What the worker told last.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Step {
    /// What is trained.
    pub name: String,
    /// The worker's `progress` event.
    pub event: Value,
}

#[derive(Default)]
pub(super) struct Figures(Mutex<Option<Step>>);

impl Figures {
    /// `None`: nothing is trained.
    pub fn set(&self, step: Option<Step>) {
        *lock(&self.0) = step;
    }

    pub fn render(&self) -> String {
        let mut text = String::new();
        let Some(Step { name, event }) = lock(&self.0).clone() else { return text };
        let name = name.replace('\\', "\\\\").replace('"', "\\\"");
        for (key, series, help) in [
            ("step", "weirgate_training_step", "Steps of the training under way."),
            ("total_steps", "weirgate_training_steps", "Steps that it will take."),
            ("loss", "weirgate_training_loss", "Mean loss per learned token of its last step, in nats."),
            ("learning_rate", "weirgate_training_learning_rate", "Learning rate of its last step."),
            ("tokens_per_s", "weirgate_training_tokens_per_second", "Tokens per second of its last step."),
            ("eta_s", "weirgate_training_eta_seconds", "Seconds until its end."),
        ] {
            if let Some(value) = event.get(key).and_then(Value::as_f64) {
                // Writing into a string cannot fail.
                let _ = write!(
                    text,
                    "# HELP {series} {help}\n# TYPE {series} gauge\n{series}{{adapter=\"{name}\"}} {value}\n"
                );
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_training_has_series_as_long_as_it_runs() {
        let figures = Figures::default();
        assert_eq!(figures.render(), "");
        let event = json!({"step": 3, "loss": 1.5, "epoch": 0.1});
        figures.set(Some(Step { name: "My \"A\"".into(), event }));
        let text = figures.render();
        assert!(text.contains("\nweirgate_training_step{adapter=\"My \\\"A\\\"\"} 3\n"), "{text}");
        assert!(text.contains("# TYPE weirgate_training_loss gauge\n"), "{text}");
        assert_eq!(text.lines().count(), 6);
        figures.set(None);
        assert_eq!(figures.render(), "");
    }
}
