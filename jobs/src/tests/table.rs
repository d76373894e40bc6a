use serde_json::json;

use super::{Setup, in_slot, names, new, on_both};
use crate::{Adapter, DatasetRow, Id, JobsError, Kind, Order, Page, Status, Table, Whose};

on_both!(
    a_job_is_as_it_was_inserted,
    a_slot_has_one_live_job,
    a_replaced_job_is_killed_by_the_same_step,
    only_live_jobs_are_killed,
    a_job_is_claimed_once,
    a_job_is_its_servers_alone,
    a_job_that_gets_nowhere_is_given_up,
    lists_are_cut_and_turned,
    a_hundred_thousand_jobs_are_listed_in_pages,
    logs_are_kept_in_their_order,
    adapters_have_one_name_each,
    each_server_sees_what_it_can_open,
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
    table.insert(&new(Kind::Train, "ends")).unwrap();
    let job = table.claim(Kind::Train, &[]).unwrap().unwrap();
    assert!(table.end(&job.id, Status::Finished, None).unwrap());
    assert_eq!(table.kill(&job.id).unwrap().status, Status::Finished);
    assert!(!table.end(&job.id, Status::Failed, Some("again")).unwrap());
    let waits = table.insert(&new(Kind::Train, "waits")).unwrap();
    let killed = table.kill(&waits.id).unwrap();
    assert_eq!(killed.status, Status::Killed);
    assert!(killed.ended.is_some());
    assert_eq!(table.claim(Kind::Train, &[]).unwrap(), None);
    assert!(matches!(table.kill(&Id::random()), Err(JobsError::NotFound(_))));
}

fn a_job_is_claimed_once(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    let jobs = [0, 1, 2].map(|n| table.insert(&new(Kind::Download, &n.to_string())).unwrap().id);
    table.insert(&new(Kind::Train, "of another kind")).unwrap();
    let mut under_way: Vec<Id> = Vec::new();
    for id in &jobs {
        let job = table.claim(Kind::Download, &under_way).unwrap().unwrap();
        assert_eq!((&job.id, job.status, job.attempts), (id, Status::Running, 1));
        under_way.push(job.id);
    }
    assert_eq!(table.claim(Kind::Download, &under_way).unwrap(), None);
    assert_eq!(table.running().unwrap().len(), 3);
    // A server that begins anew is at none of them.
    let again = table.claim(Kind::Download, &[]).unwrap().unwrap();
    assert_eq!((&again.id, again.attempts), (&jobs[0], 2));
}

fn a_job_is_its_servers_alone(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    let other = setup.beside("b");
    let waits = table.insert(&in_slot("deployment", "of a")).unwrap();
    let theirs = other.insert(&in_slot("deployment", "of b")).unwrap();
    assert_eq!(other.live("deployment").unwrap().unwrap().id, theirs.id, "each has slots of its own");
    assert_eq!(other.claim(Kind::Deploy, &[]).unwrap().unwrap().id, theirs.id);
    assert_eq!(
        other.claim(Kind::Deploy, std::slice::from_ref(&theirs.id)).unwrap(),
        None,
        "it waits for its own server"
    );
    let mine = table.claim(Kind::Deploy, &[]).unwrap().unwrap();
    assert_eq!(mine.id, waits.id);
    // Its server ends; whoever else looks finds nothing, however long it is away.
    assert_eq!(other.claim(Kind::Deploy, std::slice::from_ref(&theirs.id)).unwrap(), None);
    assert_eq!(other.running().unwrap(), std::slice::from_ref(&theirs.id));
    let replaced = other.replace(&in_slot("deployment", "the next of b")).unwrap();
    assert_eq!(table.get(&mine.id).unwrap().status, Status::Running);
    // All see all of them, and may kill them.
    let everybodys = ["of a", "of b", "the next of b"];
    for table in [&table, &other] {
        assert_eq!(names(&table.list(&Page::default()).unwrap()), everybodys);
    }
    let own = Page { of: Whose::Own, kind: Some(Kind::Deploy), ..Page::default() };
    assert_eq!(names(&table.list(&own).unwrap()), ["of a"]);
    assert_eq!(names(&other.list(&own).unwrap()), ["of b", "the next of b"]);
    assert_eq!(table.kill(&replaced.id).unwrap().status, Status::Killed);
    // Back again, it goes on.
    assert_eq!(table.claim(Kind::Deploy, &[]).unwrap().unwrap().id, waits.id);
}

fn a_job_that_gets_nowhere_is_given_up(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    let job = table.insert(&new(Kind::Deploy, "ends its server")).unwrap();
    let mut begun = 0;
    while table.claim(Kind::Deploy, &[]).unwrap().is_some() {
        begun += 1;
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
        INSERT INTO jobs (id, owner, kind, name, status, subject, created, attempts)
        SELECT '00000000-0000-4000-8000-' || substr('000000000000' || i, length('' || i) + 1), $1, 'download', 'J' || i,
               CASE WHEN i % 1000 = 0 THEN 'FAILED' ELSE 'FINISHED' END, '{}', 0, 1 FROM n";
    table.database.query(many, vec![table.owner.as_str().into()]).unwrap();
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
    // Whoever looks for work or for a part does not look through all that has ended.
    let (explain, searches) = match setup.url {
        None => ("EXPLAIN QUERY PLAN", "SEARCH"),
        Some(_) => {
            table.database.query("ANALYZE jobs", Vec::new()).unwrap();
            ("EXPLAIN", "Index")
        }
    };
    for query in [
        "owner = 'a' AND kind = 'download' AND status IN ('CREATED', 'RUNNING')",
        "owner = 'a' AND slot = 's' AND status IN ('CREATED', 'RUNNING')",
        "owner = 'a' AND status = 'RUNNING'",
        "owner = 'a' AND kind = 'train'",
        "status = 'FAILED'",
        "number > 90000",
    ] {
        let plan = format!("{explain} SELECT id FROM jobs WHERE {query} ORDER BY number LIMIT 1");
        let plan = format!("{:?}", table.database.query(&plan, Vec::new()).unwrap());
        assert!(plan.contains(searches) && !plan.contains("Seq Scan"), "{query}: {plan}");
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
    assert_eq!((known.base.as_str(), &known.job), ("org/m", &job));
    assert_eq!(table.adapter("my adapter").unwrap(), None);
    assert_eq!(table.adapters().unwrap().len(), 1);
    // Removed, by the training that it is of, it leaves its name to others.
    let other = Id::random();
    table.add_adapter(&adapter("Another", &other)).unwrap();
    table.remove_adapter(&known.job).unwrap();
    table.remove_adapter(&known.job).unwrap();
    let left = table.adapters().unwrap();
    assert_eq!(left.iter().map(|adapter| adapter.name.as_str()).collect::<Vec<_>>(), ["Another"]);
    table.add_adapter(&adapter("My Adapter", &Id::random())).unwrap();
}

fn each_server_sees_what_it_can_open(setup: &Setup) {
    let (_folder, table) = setup.server("a");
    let other = setup.beside("b");
    let adapter = |table: &Table, name: &str| Adapter {
        name: name.into(),
        base: "org/m".into(),
        job: Id::random(),
        path: format!("/{}/{name}", table.owner).into(),
        created: chrono::Utc::now(),
    };
    for table in [&table, &other] {
        table.add_adapter(&adapter(table, "support")).unwrap();
    }
    table.add_adapter(&adapter(&table, "of a")).unwrap();
    let called =
        |table: &Table| table.adapters().unwrap().into_iter().map(|known| known.name).collect::<Vec<_>>();
    assert_eq!(called(&table), ["support", "of a"]);
    assert_eq!(called(&other), ["support"]);
    for table in [&table, &other] {
        let known = table.adapter("support").unwrap().unwrap();
        assert_eq!(known.path, std::path::PathBuf::from(format!("/{}/support", table.owner)));
    }
    assert_eq!(other.adapter("of a").unwrap(), None);
    // On the disk of one, and in a bucket.
    let [local, everybodys] = [Some(table.owner.clone()), None].map(|owner| {
        let (id, name, created) = (Id::random(), "f".to_owned(), chrono::Utc::now());
        let row = DatasetRow { id, owner, name, description: None, created, metadata: json!({}) };
        table.add_dataset(&row).unwrap();
        row.id
    });
    let listed = |table: &Table| table.datasets().unwrap().into_iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(listed(&table), [local.clone(), everybodys.clone()]);
    assert_eq!(listed(&other), std::slice::from_ref(&everybodys));
    assert_eq!(other.dataset(&local).unwrap(), None);
    assert_eq!(table.dataset(&local).unwrap().unwrap().owner, Some(table.owner.clone()));
    assert_eq!(other.dataset(&everybodys).unwrap().unwrap().owner, None);
}
