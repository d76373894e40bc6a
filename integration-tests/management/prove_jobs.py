"""A server that is killed at random moments while it downloads, trains and deploys, with both databases. Prints
Markdown; exits with 1 where a job was lost, or done twice at the same time.

    prove_jobs.py [--kills 100] [--seed 0]
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.postgres import Postgres  # noqa: E402
from restarts import KINDS, play  # noqa: E402

RESUMED = "downloads resumed", "trainings resumed"
COLUMNS = "database", "kills", "downloads", "trainings", "deployments", *RESUMED, "lost", "twice", "seconds"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    failed = False
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    with tempfile.TemporaryDirectory() as folder, Postgres(Path(folder) / "postgres") as postgres:
        for name, args in (("SQLite", ()), ("PostgreSQL", ("--state-database", postgres.url("jobs")))):
            root = Path(folder) / name
            root.mkdir()
            begun = time.monotonic()
            try:
                played = play(root, random.Random(given.seed), given.kills, args)
            except AssertionError as error:
                failed = True
                print(f"\n**{name}: {error}**\n")
                continue
            seconds = time.monotonic() - begun
            kinds = [played.known[kind] for kind in KINDS]
            resumed = [played.resumed[kind] for kind in ("DOWNLOAD", "FT")]
            figures = (played.kills, *kinds, *resumed, len(played.lost), len(played.twice), f"{seconds:.0f}")
            print(f"| {name} | {' | '.join(map(str, figures))} |")
            failed |= bool(played.lost or played.twice)
    sys.exit(failed)


main()
