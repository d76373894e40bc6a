use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Setup, new, on_both};
use crate::{Context, Id, Job, Kind, Page, Runner, Status, Stopped, Table, Work, WorkError};

on_both!(
    every_job_is_done_once,
    a_killed_job_stops,
    a_job_that_was_killed_during_an_outage_stops,
    what_is_done_outlasts_an_outage_of_the_database,
    a_job_that_is_under_way_is_not_begun_again,
    what_fails_says_why_and_others_go_on,
    a_server_that_ends_goes_on_at_its_next_start,
    a_server_that_was_killed_goes_on_at_its_next_start,
    what_a_server_left_waits_for_it,
    kinds_have_their_places,
);

/// What several runners did.
#[derive(Default)]
struct Record {
    running: Mutex<HashSet<Id>>,
    begun: Mutex<HashMap<Id, usize>>,
    stopped: Mutex<Vec<(Id, Stopped)>>,
    most: Mutex<usize>,
}

/// Work that is what its job's name says: `short`, `long` (until it is stopped), `fail`, `panic`, `insist` (until the
/// table of adapters answers).
struct Scripted {
    kind: Kind,
    places: usize,
    record: Arc<Record>,
}

impl Work for Scripted {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn places(&self) -> usize {
        self.places
    }

    fn run(&self, job: &Job, context: &Context) -> Result<(), WorkError> {
        let record = &self.record;
        {
            let mut running = record.running.lock().unwrap();
            assert!(running.insert(job.id.clone()), "{} is done twice at the same time", job.name);
            let mut most = record.most.lock().unwrap();
            *most = running.len().max(*most);
        }
        *record.begun.lock().unwrap().entry(job.id.clone()).or_default() += 1;
        context.log("begun");
        context.progress(json!({"at": 1}));
        context.progress(json!({"at": 2}));
        let done = match job.name.as_str() {
            "fail" => Err(WorkError::Failed("on purpose".into())),
            "long" => {
                let reason = context.wait_for_stop(Duration::from_secs(60)).unwrap();
                record.stopped.lock().unwrap().push((job.id.clone(), reason));
                Err(WorkError::Stopped)
            }
            "insist" => context.insist(Table::adapters).map(drop),
            "slow" => {
                std::thread::sleep(Duration::from_millis(30));
                Ok(())
            }
            _ => Ok(()),
        };
        record.running.lock().unwrap().remove(&job.id);
        if job.name == "panic" {
            panic!("on purpose");
        }
        done
    }
}

fn start(table: &Arc<Table>, places: usize, record: &Arc<Record>) -> Runner {
    let work = Scripted { kind: Kind::Download, places, record: record.clone() };
    Runner::start(table.clone(), vec![Box::new(work)]).unwrap()
}

#[track_caller]
fn wait_for(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn status(table: &Table, id: &Id) -> Status {
    table.get(id).unwrap().status
}

/// A job that has begun.
#[track_caller]
fn begin(name: &str, table: &Table, runner: &Runner, record: &Record) -> Id {
    let id = table.insert(&new(Kind::Download, name)).unwrap().id;
    runner.nudge();
    wait_for("running", || record.begun.lock().unwrap().contains_key(&id));
    id
}

fn every_job_is_done_once(setup: &Setup) {
    let record = Arc::new(Record::default());
    let servers = if setup.url.is_some() { 3 } else { 1 };
    let servers: Vec<_> = (0..servers).map(|n| setup.server(&n.to_string())).collect();
    let runners: Vec<_> = servers.iter().map(|(_, table)| start(table, 2, &record)).collect();
    let table = &servers[0].1;
    let jobs: Vec<Id> = (0..60)
        .map(|n| {
            let server = n % runners.len();
            let job = servers[server].1.insert(&new(Kind::Download, "slow")).unwrap();
            runners[server].nudge();
            job.id
        })
        .collect();
    wait_for("all finished", || {
        table.list(&Page::default()).unwrap().iter().all(|job| job.status == Status::Finished)
    });
    runners.iter().for_each(|runner| runner.shut_down(Duration::from_secs(5)));
    let begun = record.begun.lock().unwrap();
    assert_eq!(begun.len(), 60);
    assert!(jobs.iter().all(|id| begun[id] == 1), "{begun:?}");
    let job = table.get(&jobs[0]).unwrap();
    assert_eq!(job.progress, json!({"at": 2}), "what was told last is written");
    assert_eq!(table.logs(&job.id, 0, 10).unwrap()[0].line, "begun");
}

fn a_killed_job_stops(setup: &Setup) {
    let record = Arc::new(Record::default());
    let (_folder, table) = setup.server("a");
    let runner = start(&table, 1, &record);
    let [long, waits] = ["long", "long"].map(|name| table.insert(&new(Kind::Download, name)).unwrap().id);
    runner.nudge();
    wait_for("running", || status(&table, &long) == Status::Running);
    // As another server would, which does not say so; there is none where the database is this one's own.
    let other = setup.url.is_some().then(|| setup.server("other"));
    let killer = other.as_ref().map_or(&table, |(_, table)| table);
    assert_eq!(killer.kill(&waits).unwrap().status, Status::Killed);
    assert_eq!(killer.kill(&long).unwrap().status, Status::Killed);
    if other.is_none() {
        runner.nudge();
    }
    wait_for("stopped", || !record.stopped.lock().unwrap().is_empty());
    assert_eq!(*record.stopped.lock().unwrap(), [(long.clone(), Stopped::Killed)]);
    let short = table.insert(&new(Kind::Download, "short")).unwrap().id;
    runner.nudge();
    wait_for("the next one", || status(&table, &short) == Status::Finished);
    runner.shut_down(Duration::from_secs(5));
    assert_eq!((status(&table, &long), status(&table, &waits)), (Status::Killed, Status::Killed));
    assert!(!record.begun.lock().unwrap().contains_key(&waits));
}

/// As long as a table is called otherwise, the database fails.
fn rename(table: &Table, from: &str, to: &str) {
    table.database.query(&format!("ALTER TABLE {from} RENAME TO {to}"), Vec::new()).unwrap();
}

fn a_job_that_was_killed_during_an_outage_stops(setup: &Setup) {
    let record = Arc::new(Record::default());
    let (_folder, table) = setup.server("a");
    let runner = start(&table, 1, &record);
    let long = begin("long", &table, &runner, &record);
    table.kill(&long).unwrap();
    rename(&table, "jobs", "away");
    runner.nudge();
    std::thread::sleep(Duration::from_millis(300));
    rename(&table, "away", "jobs");
    // Nobody says so a second time.
    wait_for("stopped", || !record.stopped.lock().unwrap().is_empty());
    assert_eq!(*record.stopped.lock().unwrap(), [(long, Stopped::Killed)]);
    runner.shut_down(Duration::from_secs(5));
}

fn what_is_done_outlasts_an_outage_of_the_database(setup: &Setup) {
    let record = Arc::new(Record::default());
    let (_folder, table) = setup.server("a");
    let runner = start(&table, 1, &record);
    rename(&table, "adapters", "away");
    let killed = begin("insist", &table, &runner, &record);
    table.kill(&killed).unwrap();
    runner.nudge();
    wait_for("stopped", || record.running.lock().unwrap().is_empty());
    let done = begin("insist", &table, &runner, &record);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(status(&table, &done), Status::Running);
    rename(&table, "away", "adapters");
    wait_for("done", || status(&table, &done) == Status::Finished);
    assert_eq!(status(&table, &killed), Status::Killed);
    runner.shut_down(Duration::from_secs(5));
}

fn a_job_that_is_under_way_is_not_begun_again(setup: &Setup) {
    let record = Arc::new(Record::default());
    let (_folder, table) = setup.server("a");
    let runner = start(&table, 2, &record);
    let long = begin("long", &table, &runner, &record);
    let short = table.insert(&new(Kind::Download, "short")).unwrap().id;
    runner.nudge();
    wait_for("the other one", || status(&table, &short) == Status::Finished);
    table.kill(&long).unwrap();
    runner.nudge();
    wait_for("stopped", || !record.stopped.lock().unwrap().is_empty());
    runner.shut_down(Duration::from_secs(5));
    assert_eq!(record.begun.lock().unwrap()[&long], 1);
}

fn what_fails_says_why_and_others_go_on(setup: &Setup) {
    let record = Arc::new(Record::default());
    let (_folder, table) = setup.server("a");
    let runner = start(&table, 1, &record);
    let [fail, panic, short] =
        ["fail", "panic", "short"].map(|name| table.insert(&new(Kind::Download, name)).unwrap().id);
    runner.nudge();
    wait_for("the last one", || status(&table, &short) == Status::Finished);
    runner.shut_down(Duration::from_secs(5));
    let failed = table.get(&fail).unwrap();
    assert_eq!((failed.status, failed.error.as_deref()), (Status::Failed, Some("on purpose")));
    assert!(failed.ended.is_some());
    assert_eq!(table.logs(&fail, 0, 10).unwrap().last().unwrap().line, "on purpose");
    let broken = table.get(&panic).unwrap();
    assert_eq!(broken.status, Status::Failed);
    assert!(broken.error.unwrap().contains("broke off"));
}

fn a_server_that_ends_goes_on_at_its_next_start(setup: &Setup) {
    let record = Arc::new(Record::default());
    let (_folder, table) = setup.server("a");
    let runner = start(&table, 1, &record);
    let long = begin("long", &table, &runner, &record);
    runner.shut_down(Duration::from_secs(5));
    assert_eq!(*record.stopped.lock().unwrap(), [(long.clone(), Stopped::ServerEnds)]);
    assert_eq!(status(&table, &long), Status::Running);
    let runner = start(&table, 1, &record);
    wait_for("running again", || record.begun.lock().unwrap()[&long] == 2);
    table.kill(&long).unwrap();
    runner.shut_down(Duration::from_secs(5));
}

fn a_server_that_was_killed_goes_on_at_its_next_start(setup: &Setup) {
    let record = Arc::new(Record::default());
    let (_folder, table) = setup.server("a");
    let [begun, waits] = ["short", "short"].map(|name| table.insert(&new(Kind::Download, name)).unwrap().id);
    // All that a killed server leaves is what the table says.
    assert_eq!(table.claim(Kind::Download, &[]).unwrap().unwrap().id, begun);
    let runner = start(&table, 1, &record);
    wait_for("both", || [&begun, &waits].iter().all(|id| status(&table, id) == Status::Finished));
    runner.shut_down(Duration::from_secs(5));
    assert_eq!(record.begun.lock().unwrap()[&begun], 1);
}

fn kinds_have_their_places(setup: &Setup) {
    let record = Arc::new(Record::default());
    let (_folder, table) = setup.server("a");
    let runner = start(&table, 2, &record);
    for _ in 0..10 {
        table.insert(&new(Kind::Download, "slow")).unwrap();
    }
    let other = table.insert(&new(Kind::Train, "nobody does this kind here")).unwrap().id;
    runner.nudge();
    wait_for("all", || record.begun.lock().unwrap().len() == 10 && record.running.lock().unwrap().is_empty());
    runner.shut_down(Duration::from_secs(5));
    assert_eq!(*record.most.lock().unwrap(), 2);
    assert_eq!(status(&table, &other), Status::Created);
}

fn what_a_server_left_waits_for_it(setup: &Setup) {
    let record = Arc::new(Record::default());
    let (_folder, table) = setup.server("a");
    let [begun, waits] = ["short", "short"].map(|name| table.insert(&new(Kind::Download, name)).unwrap().id);
    assert_eq!(table.claim(Kind::Download, &[]).unwrap().unwrap().id, begun);
    let other = setup.beside("b");
    let theirs = other.insert(&new(Kind::Download, "short")).unwrap().id;
    let runner = start(&other, 2, &record);
    wait_for("their own", || status(&other, &theirs) == Status::Finished);
    runner.nudge();
    std::thread::sleep(Duration::from_millis(500));
    runner.shut_down(Duration::from_secs(5));
    assert_eq!((status(&table, &begun), status(&table, &waits)), (Status::Running, Status::Created));
    let runner = start(&table, 2, &record);
    wait_for("both", || [&begun, &waits].iter().all(|id| status(&table, id) == Status::Finished));
    runner.shut_down(Duration::from_secs(5));
    assert!(record.begun.lock().unwrap().values().all(|times| *times == 1));
}
