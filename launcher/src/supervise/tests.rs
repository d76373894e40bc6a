use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use std::os::unix::process::{CommandExt, ExitStatusExt};

use super::policy::History;
use super::*;

/// A shell script in place of the router. Each life appends a line to a log, which is how a test sees what ran.
struct Script {
    folder: tempfile::TempDir,
    script: &'static str,
    ready: bool,
    /// Sent once, when the script is found to be up.
    once_up: Option<(Vec<Event>, Sender<Event>)>,
}

impl Script {
    fn new(script: &'static str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), script, ready: true, once_up: None }
    }

    fn lives(&self) -> usize {
        self.log().lines().filter(|line| *line == "start").count()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Service for Script {
    fn spawn(&mut self) -> io::Result<Child> {
        Command::new("/bin/sh")
            .arg("-c")
            .arg(format!("echo start >> log; {}", self.script))
            .current_dir(self.folder.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    fn is_ready(&mut self) -> bool {
        // A script says that it has got as far as its signal handlers by writing `up`.
        let up = self.log().lines().filter(|line| *line == "up").count();
        if up > 0
            && let Some((events, sender)) = self.once_up.take()
        {
            events.into_iter().for_each(|event| sender.send(event).unwrap());
        }
        self.ready && up > 0 && up == self.lives()
    }
}

fn policy() -> Policy {
    Policy {
        backoff: Duration::from_millis(1),
        longest_backoff: Duration::from_millis(2),
        ..Policy::with_drain(Duration::from_secs(30))
    }
}

#[test]
fn a_clean_exit_is_passed_on() {
    let (_sender, events) = channel();
    let mut service = Script::new("exit 0");
    assert_eq!(supervise(&mut service, &events, &policy()), 0);
    assert_eq!(service.lives(), 1);
}

#[test]
fn a_refusal_before_readiness_is_not_retried() {
    let (_sender, events) = channel();
    let mut service = Script::new("exit 1");
    assert_eq!(supervise(&mut service, &events, &policy()), 1);
    assert_eq!(service.lives(), 1);
}

#[test]
fn a_killed_child_is_restarted() {
    let (_sender, events) = channel();
    let mut service = Script::new("if [ -e once ]; then exit 0; fi; touch once; kill -9 $$");
    assert_eq!(supervise(&mut service, &events, &policy()), 0);
    assert_eq!(service.lives(), 2);
}

#[test]
fn a_stalled_child_is_restarted() {
    let (_sender, events) = channel();
    let mut service = Script::new("if [ -e once ]; then exit 0; fi; touch once; exit 75");
    assert_eq!(supervise(&mut service, &events, &policy()), 0);
    assert_eq!(service.lives(), 2);
}

#[test]
fn crashes_without_readiness_are_given_up() {
    let (_sender, events) = channel();
    let mut service = Script::new("echo last words; kill -9 $$");
    service.ready = false;
    assert_eq!(supervise(&mut service, &events, &policy()), 1);
    assert_eq!(service.lives(), 5);
}

#[test]
fn an_error_after_readiness_is_restarted() {
    let (_sender, events) = channel();
    // The first life is ready until told to fail by the file that the second life does not wait for.
    let mut service =
        Script::new("if [ -e once ]; then exit 0; fi; touch once; echo up >> log; sleep 0.5; exit 1");
    assert_eq!(supervise(&mut service, &events, &policy()), 0);
    assert_eq!(service.lives(), 2);
}

#[test]
fn sigterm_is_forwarded_and_waited_for() {
    let (sender, events) = channel();
    let mut service = Script::new(
        "trap 'echo drained >> log; exit 0' TERM; echo up >> log; while true; do sleep 0.05; done",
    );
    service.once_up = Some((vec![Event::Terminate], sender));
    assert_eq!(supervise(&mut service, &events, &policy()), 0);
    assert_eq!(service.log(), "start\nup\ndrained\n");
}

#[test]
fn a_child_that_does_not_end_is_killed() {
    let (sender, events) = channel();
    let mut service = Script::new("trap '' TERM; echo up >> log; while true; do sleep 0.05; done");
    service.once_up = Some((vec![Event::Terminate], sender));
    let hasty = Policy { drain: Duration::from_millis(100), margin: Duration::from_millis(100), ..policy() };
    assert_eq!(supervise(&mut service, &events, &hasty), 1);
    assert_eq!(service.lives(), 1);
}

#[test]
fn a_second_interrupt_kills_at_once() {
    let (sender, events) = channel();
    let mut service = Script::new("trap '' TERM; echo up >> log; while true; do sleep 0.05; done");
    service.once_up = Some((vec![Event::Interrupt, Event::Interrupt], sender));
    // Long enough that this test would not end if the second one did nothing.
    let patient = Policy { drain: Duration::from_secs(3600), ..policy() };
    assert_eq!(supervise(&mut service, &events, &patient), 1);
}

#[test]
fn a_stop_ends_the_back_off() {
    let (sender, events) = channel();
    sender.send(Event::ChildChanged).unwrap();
    sender.send(Event::Terminate).unwrap();
    assert!(stop_asked_within(&events, Duration::from_secs(3600)));
    assert!(!stop_asked_within(&events, Duration::from_millis(1)));
}

#[test]
fn the_last_lines_are_kept() {
    let mut child = Command::new("/bin/sh")
        .args(["-c", "for i in $(seq 1 60); do echo line $i; done; echo oops >&2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let tail = Tail::follow(&mut child);
    child.wait().unwrap();
    tail.finish();
    let lines = tail.last_lines();
    let expected: Vec<String> = (41..=60).map(|i| format!("line {i}")).chain(["oops".to_owned()]).collect();
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
}

const KILLED: i32 = 9;

fn exited(code: i32) -> ExitStatus {
    ExitStatus::from_raw(code << 8)
}

#[test]
fn the_back_off_grows_and_starts_anew_after_a_calm_time() {
    let policy = Policy::with_drain(Duration::from_secs(90));
    let mut history = History::default();
    let mut after = |lived: u64| match history.judge(
        ExitStatus::from_raw(KILLED),
        true,
        Duration::from_secs(lived),
        &policy,
    ) {
        Verdict::Restart { after } => after.as_millis(),
        other => panic!("{other:?}"),
    };
    let waits: Vec<u128> = (0..8).map(|_| after(1)).collect();
    assert_eq!(waits, [0, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    assert_eq!(after(61), 0);
    assert_eq!(after(1), 0);
    assert_eq!(after(1), 500);
}

#[test]
fn verdicts_follow_the_exit_status() {
    let policy = Policy::with_drain(Duration::from_secs(90));
    let second = Duration::from_secs(1);
    let first = |status| History::default().judge(status, false, second, &policy);
    assert_eq!(first(exited(0)), Verdict::Done);
    assert_eq!(first(exited(1)), Verdict::Refused { code: 1 });
    assert_eq!(first(exited(2)), Verdict::Refused { code: 2 });
    for crash in [exited(75), exited(101), ExitStatus::from_raw(KILLED), ExitStatus::from_raw(11)] {
        assert_eq!(first(crash), Verdict::Restart { after: Duration::ZERO }, "{crash:?}");
    }
    let mut history = History::default();
    assert!(matches!(history.judge(exited(1), true, second, &policy), Verdict::Restart { .. }));
    assert!(matches!(history.judge(exited(1), false, second, &policy), Verdict::Restart { .. }));
}

#[test]
fn readiness_in_between_starts_the_count_of_giving_up_anew() {
    let policy = Policy::with_drain(Duration::from_secs(90));
    let mut history = History::default();
    let killed = ExitStatus::from_raw(KILLED);
    for was_ready in [false, false, false, false, true, false, false, false, false] {
        let verdict = history.judge(killed, was_ready, Duration::from_secs(1), &policy);
        assert!(matches!(verdict, Verdict::Restart { .. }), "{verdict:?}");
    }
    let verdict = history.judge(killed, false, Duration::from_secs(1), &policy);
    assert_eq!(verdict, Verdict::GiveUp { crashes: 5 });
}
