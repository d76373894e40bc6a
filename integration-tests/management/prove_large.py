"""A data set of a gigabyte, taken in and given back, and a list of 100,000 jobs. Prints Markdown; exits with 1 where a
limit is exceeded.

    prove_large.py [--bucket moto|s3s-fs]
"""

import argparse
import contextlib
import sqlite3
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from buckets import S3S_FS, Bucket, stored_in  # noqa: E402
from harness.postgres import Postgres  # noqa: E402
from large import Peak, download, upload  # noqa: E402
from managed import Managed, seconds_of  # noqa: E402

SIZE, MEMORY = 1_000_000_000, 100_000_000
JOBS = 100_000
#: Of ended jobs, one in a thousand failed.
FILL = """INSERT INTO jobs (id, owner, kind, name, status, subject, created, ended, attempts)
SELECT '00000000-0000-4000-8000-' || substr('000000000000' || i, length('' || i) + 1), '{owner}', 'download',
'DOWNLOAD_acme/m' || i, CASE WHEN i % 1000 = 0 THEN 'FAILED' ELSE 'FINISHED' END, '{{}}', i, i, 1 FROM n"""
NUMBERS = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {JOBS})\n"
MIDDLE = f"00000000-0000-4000-8000-{JOBS // 2:012}"
#: What is asked for, how many it is, and the seconds that it may take.
LISTS = (
    ("jobs/", JOBS, 5),
    ("jobs/?limit=100", 100, 0.05),
    ("jobs/?limit=100&order=desc", 100, 0.05),
    (f"jobs/?limit=100&after={MIDDLE}", 100, 0.05),
    ("jobs/?status=FAILED", JOBS // 1000, 0.05),
    ("jobs/?status=RUNNING", 0, 0.05),
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bucket", choices=["moto", "s3s-fs"], default="s3s-fs" if S3S_FS.exists() else "moto")
    given = parser.parse_args()
    exceeded = []
    with tempfile.TemporaryDirectory() as folder:
        exceeded += data_sets(Path(folder), given.bucket)
    print()
    with tempfile.TemporaryDirectory() as folder:
        exceeded += lists(Path(folder))
    for what in exceeded:
        print(f"\n**{what}**")
    sys.exit(bool(exceeded))


@contextlib.contextmanager
def running(server: Managed):
    try:
        yield server.start()
        server.stop()
    finally:
        server.kill()


def data_sets(folder: Path, kind: str) -> list[str]:
    """Prints a table; the limits that were exceeded."""
    exceeded = []
    print(f"| {SIZE:,} bytes | kept in | seconds | memory grew by at most |\n|---|---|---|---|")
    with Bucket(kind, folder) as bucket:
        stores = (("the folder", (), {}), (f"a bucket ({kind})", ("--dataset-store", "s3://sets"), stored_in(bucket)))
        for number, (store, args, more) in enumerate(stores):
            with running(Managed(folder, *args, name=f"state{number}", **more)) as server:
                server.api.add_dataset()
                pid, sent = server.router_pid(), []
                moves = (
                    ("taken in", lambda: sent.extend(upload(server, SIZE))),
                    ("given back", lambda: sent.append(download(server, sent[0]))),
                )
                for move, work in moves:
                    with Peak(pid) as peak:
                        seconds = seconds_of(work)
                    print(f"| {move} | {store} | {seconds:.1f} | {peak.grown / 1e6:.0f} MB |")
                    if peak.grown > MEMORY:
                        exceeded.append(f"{move}, {store}: {peak.grown:,} bytes are more than {MEMORY:,}")
                if sent[1] != sent[2]:
                    exceeded.append(f"{store}: {sent[1]} came back as {sent[2]}")
    return exceeded


def lists(folder: Path) -> list[str]:
    """The same of lists of jobs."""
    exceeded = []
    print(f"| of {JOBS:,} jobs | database | jobs | milliseconds, the median of 5 |\n|---|---|---|---|")
    with Postgres(folder / "postgres") as postgres:
        for name, args in (("SQLite", ()), ("PostgreSQL", ("--state-database", postgres.url("jobs")))):
            server = Managed(folder, *args, name=name)
            # It makes the tables, and says whose they are.
            with running(server):
                pass
            statement = NUMBERS + FILL.format(owner=(server.state / "owner").read_text())
            if name == "SQLite":
                with contextlib.closing(sqlite3.connect(server.state / "jobs.sqlite")) as database, database:
                    database.execute(statement)
            else:
                for text in (statement, "ANALYZE"):
                    postgres.run("jobs", text)
            with running(server):
                for path, count, limit in LISTS:
                    times = sorted(seconds_of(lambda path=path: check(server, path, count)) for _ in range(5))
                    print(f"| `GET {path}` | {name} | {count:,} | {times[2] * 1000:.1f} |")
                    if times[2] > limit:
                        exceeded.append(f"{name}, {path}: {times[2]:.3f} s are more than {limit} s")
    return exceeded


def check(server: Managed, path: str, count: int):
    assert len(server.api.ok("GET", path)) == count, path


main()
