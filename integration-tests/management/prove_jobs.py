"""A server that is killed at random moments while it downloads and trains, with both databases. Prints Markdown; exits
with 1 where a job was lost, or done twice at the same time.

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
from restarts import play  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    failed = False
    print("| database | kills | jobs taken in | workers begun | of them from a checkpoint | lost | twice | seconds |")
    print("|---|---|---|---|---|---|---|---|")
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
            figures = (played.kills, len(played.jobs), played.begun, played.resumed, 0, 0, f"{seconds:.0f}")
            print(f"| {name} | {' | '.join(map(str, figures))} |")
    sys.exit(failed)


main()
