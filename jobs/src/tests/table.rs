use serde_json::json;

use super::{Setup, in_slot, names, new, on_both, owner};
use crate::database::Value;
use crate::{Adapter, Id, JobsError, Kind, Order, Page, Status, Table};

on_both!(
    a_job_is_as_it_was_inserted,
    a_slot_has_one_live_job,
    a_replaced_job_is_killed_by_the_same_step,
    only_live_jobs_are_killed,
    a_claimed_job_is_nobody_elses,
    jobs_of_those_who_have_gone_are_free_again,
    a_job_that_gets_nowhere_is_given_up,
    lists_are_cut_and_turned,
    a_hundred_thousand_jobs_are_listed_in_pages,
    logs_are_kept_in_their_order,
    adapters_have_one_name_each,
);

fn a_job_is_as_it_was_inserted(setup: &Setup) {
    let (folder, table) = setup.server("a");
    let job = table.insert(&new(Kind::Download, "DOWNLOAD_org/m")).unwrap();
    assert_eq!((job.kind, job.status, job.attempts), (Kind::Download, Status::Created, 0));
    assert_eq!(job.subject, json!({"name": "DOWNLOAD_org/m"}));
    assert_eq!((job.ended, job.error.as_deref(), &job.progress), (None, None, &json!(null)));
    assert!((chrono::Utc::now() - job.created).num_seconds() < 60);
    assert_eq!(table.get(&job.id).unwrap(), job);
    drop((table, folder));
    let (_folder, table) = setup.server("a");
    assert_eq!(table.get(&job.id).unwrap(), job, "it is there after a restart");
    assert!(matches!(table.get(&Id::random()), Err(JobsError::NotFound(_))));
}

fn a_slot_has_one_live_job(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    let first = table.insert(&in_slot("s", "first")).unwrap();
    assert!(matches!(table.insert(&in_slot("s", "second")), Err(JobsError::Conflict)));
    table.insert(&in_slot("t", "other")).unwrap();
    assert_eq!(table.live("s").unwrap().unwrap().id, first.id);
    table.kill(&first.id).unwrap();
    assert_eq!(table.live("s").unwrap(), None);
    table.insert(&in_slot("s", "second")).unwrap();
    assert_eq!(names(&table.list(&Page::default()).unwrap()), ["first", "other", "second"]);
}

fn a_replaced_job_is_killed_by_the_same_step(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    let first = table.replace(&in_slot("s", "first")).unwrap();
    let second = table.replace(&in_slot("s", "second")).unwrap();
    assert_eq!(table.get(&first.id).unwrap().status, Status::Killed);
    assert_eq!(table.live("s").unwrap().unwrap(), second);
    // From many threads at once, and in the end there is one.
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let table = &table;
            scope.spawn(move || {
                for round in 0..5 {
                    table.replace(&in_slot("s", &format!("{thread}.{round}"))).unwrap();
                }
            });
        }
    });
    let all = table.list(&Page::default()).unwrap();
    assert_eq!(all.len(), 42);
    assert_eq!(all.iter().filter(|job| job.status.is_live()).count(), 1);
}

fn only_live_jobs_are_killed(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    let me = owner();
    table.insert(&new(Kind::Train, "ends")).unwrap();
    let job = table.claim(Kind::Train, &me).unwrap().unwrap();
    assert!(table.end(&job.id, &me, Status::Finished, None).unwrap());
    assert_eq!(table.kill(&job.id).unwrap().status, Status::Finished);
    assert!(!table.end(&job.id, &me, Status::Failed, Some("again")).unwrap());
    let waits = table.insert(&new(Kind::Train, "waits")).unwrap();
    let killed = table.kill(&waits.id).unwrap();
    assert_eq!(killed.status, Status::Killed);
    assert!(killed.ended.is_some());
    assert_eq!(table.claim(Kind::Train, &me).unwrap(), None);
    assert!(matches!(table.kill(&Id::random()), Err(JobsError::NotFound(_))));
}

fn a_claimed_job_is_nobody_elses(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    for n in 0..40 {
        table.insert(&new(Kind::Download, &n.to_string())).unwrap();
    }
    table.insert(&new(Kind::Train, "of another kind")).unwrap();
    let claimed = std::thread::scope(|scope| {
        let claim = |table: &Table| {
            let me = owner();
            std::iter::from_fn(|| table.claim(Kind::Download, &me).unwrap())
                .map(|job| job.id)
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let setup = &setup;
                let table = &table;
                scope.spawn(move || {
                    // Of PostgreSQL each has a connection of its own, as servers have.
                    if setup.url.is_some() {
                        claim(&setup.server(&format!("other{n}")).1)
                    } else {
                        claim(table)
                    }
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let distinct: std::collections::HashSet<_> = claimed.iter().collect();
    assert_eq!((claimed.len(), distinct.len()), (40, 40));
}

fn jobs_of_those_who_have_gone_are_free_again(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    let (gone, other) = (owner(), owner());
    let job = table.insert(&new(Kind::Train, "t")).unwrap();
    assert_eq!(table.claim(Kind::Train, &gone).unwrap().unwrap().attempts, 1);
    assert_eq!(table.claim(Kind::Train, &other).unwrap(), None, "its lease runs");
    // The lease runs out.
    let expire = "UPDATE jobs SET lease = lease - 60000000";
    table.database.query(expire, Vec::new()).unwrap();
    let again = table.claim(Kind::Train, &other).unwrap().unwrap();
    assert_eq!((again.id.clone(), again.attempts), (job.id.clone(), 2));
    assert!(!table.end(&job.id, &gone, Status::Finished, None).unwrap(), "it is no longer theirs");
    // Leases of a database of one's own are not renewed.
    table.database.query(expire, Vec::new()).unwrap();
    assert_eq!(table.claim(Kind::Train, &other).unwrap(), None, "it is at it already");
    // A server that begins anew has its own at once.
    table.release_all(&other).unwrap();
    assert_eq!(table.get(&job.id).unwrap().status, Status::Running);
    assert_eq!(table.claim(Kind::Train, &gone).unwrap().unwrap().id, job.id);
}

fn a_job_that_gets_nowhere_is_given_up(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    let me = owner();
    let job = table.insert(&new(Kind::Deploy, "ends its server")).unwrap();
    let mut begun = 0;
    while table.claim(Kind::Deploy, &me).unwrap().is_some() {
        begun += 1;
        table.release_all(&me).unwrap();
        if begun == 10 {
            table.progress(&job.id, &json!({"bytes": 1})).unwrap();
        }
    }
    assert_eq!(begun, 30, "20 after it got somewhere");
    let job = table.get(&job.id).unwrap();
    assert_eq!(job.status, Status::Failed);
    assert!(job.error.unwrap().contains("20 times"));
}

fn lists_are_cut_and_turned(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    for n in 0..6 {
        let kind = if n % 2 == 0 { Kind::Download } else { Kind::Train };
        table.insert(&new(kind, &n.to_string())).unwrap();
    }
    let list = |page: Page| table.list(&page).unwrap();
    assert_eq!(names(&list(Page::default())), ["0", "1", "2", "3", "4", "5"]);
    let two = list(Page { limit: Some(2), ..Page::default() });
    assert_eq!(names(&two), ["0", "1"]);
    let next = list(Page { limit: Some(2), after: Some(two[1].number), ..Page::default() });
    assert_eq!(names(&next), ["2", "3"]);
    let newest = list(Page { order: Order::NewestFirst, limit: Some(2), ..Page::default() });
    assert_eq!(names(&newest), ["5", "4"]);
    let before = list(Page { order: Order::NewestFirst, after: Some(newest[1].number), ..Page::default() });
    assert_eq!(names(&before), ["3", "2", "1", "0"]);
    assert_eq!(names(&list(Page { kind: Some(Kind::Train), ..Page::default() })), ["1", "3", "5"]);
    table.kill(&two[1].id).unwrap();
    let killed = Page { status: Some(Status::Killed), kind: Some(Kind::Train), ..Page::default() };
    assert_eq!(names(&list(killed)), ["1"]);
}

fn a_hundred_thousand_jobs_are_listed_in_pages(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
        INSERT INTO jobs (id, kind, name, status, subject, created, attempts)
        SELECT '00000000-0000-4000-8000-' || substr('000000000000' || i, length('' || i) + 1), 'download', 'J' || i,
               CASE WHEN i % 1000 = 0 THEN 'FAILED' ELSE 'FINISHED' END, '{}', 0, 1 FROM n";
    table.database.query(many, Vec::new()).unwrap();
    assert_eq!(table.list(&Page::default()).unwrap().len(), 100_000);
    let (mut seen, mut after) = (0, None);
    loop {
        let page = table.list(&Page { after, limit: Some(5000), ..Page::default() }).unwrap();
        let Some(last) = page.last() else { break };
        assert_eq!(page[0].name, format!("J{}", seen + 1));
        seen += page.len();
        after = Some(last.number);
    }
    assert_eq!(seen, 100_000);
    let failed = Page { status: Some(Status::Failed), ..Page::default() };
    assert_eq!(table.list(&failed).unwrap().len(), 100);
    // Whoever looks for work does not look through all that has ended.
    if setup.url.is_none() {
        for query in
            ["kind = 'download' AND status IN ('CREATED', 'RUNNING')", "status = 'FAILED'", "number > 90000"]
        {
            let plan =
                format!("EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE {query} ORDER BY number LIMIT 1");
            let plan = table.database.query(&plan, Vec::new()).unwrap();
            let uses =
                |row: &Vec<Value>| matches!(row.last(), Some(Value::Text(text)) if text.contains("SEARCH"));
            assert!(plan.iter().any(uses), "{query}: {plan:?}");
        }
    }
}

fn logs_are_kept_in_their_order(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    let [one, two] = ["one", "two"].map(|name| table.insert(&new(Kind::Train, name)).unwrap().id);
    for n in 0..5 {
        table.log(&one, &format!("line {n} with a NUL: \0")).unwrap();
        table.log(&two, "of another job").unwrap();
    }
    let lines = table.logs(&one, 0, 3).unwrap();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2].line, "line 2 with a NUL: \u{fffd}");
    let rest = table.logs(&one, lines[2].number, 100).unwrap();
    assert_eq!(rest.iter().map(|line| &line.line[..6]).collect::<Vec<_>>(), ["line 3", "line 4"]);
}

fn adapters_have_one_name_each(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    let adapter = |name: &str, job: &Id| Adapter {
        name: name.into(),
        base: "org/m".into(),
        job: job.clone(),
        path: "/state/adapters/1".into(),
        created: chrono::Utc::now(),
    };
    let job = Id::random();
    table.add_adapter(&adapter("My Adapter", &job)).unwrap();
    table.add_adapter(&adapter("My Adapter", &job)).unwrap();
    assert!(matches!(table.add_adapter(&adapter("My Adapter", &Id::random())), Err(JobsError::Conflict)));
    let known = table.adapter("My Adapter").unwrap().unwrap();
    assert_eq!((known.base.as_str(), known.job), ("org/m", job));
    assert_eq!(table.adapter("my adapter").unwrap(), None);
    assert_eq!(table.adapters().unwrap().len(), 1);
}
