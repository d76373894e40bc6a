"""A server that is killed at random moments while it downloads and trains: nothing that it took in is lost, and nothing
is done twice at the same time."""

import random
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness import fake_hub
from harness.server import DEMO_MODEL, wait_for
from managed import Managed


@dataclass
class Played:
    kills: int = 0
    jobs: list[dict] = field(default_factory=list)
    begun: int = 0
    resumed: int = 0


def play(folder: Path, chance: random.Random, kills: int, args: tuple[str, ...] = ()) -> Played:
    """Asserts what has to hold; what happened."""
    played = Played()
    with ExitStack() as stack:
        hub = stack.enter_context(fake_hub.serving("acme/demo", DEMO_MODEL))
        server = Managed(folder, *args, env={"HF_ENDPOINT": hub.url})
        stack.callback(server.kill)
        server.start()
        dataset = server.api.add_dataset()
        while played.kills < kills:
            until = time.monotonic() + chance.uniform(0.05, 1.5)
            while time.monotonic() < until:
                played.jobs += some_job(server, chance, dataset, len(played.jobs))
                time.sleep(chance.uniform(0, 0.2))
            server.crash()
            played.kills += 1
            server.start()
            known = {job["id"]: job["status"] for job in server.api.ok("GET", "jobs/")}
            lost = [job for job in played.jobs if job["id"] not in known]
            assert not lost, f"lost after kill {played.kills}: {lost}"

        def all_ended():
            jobs = server.api.ok("GET", "jobs/")
            return all(job["status"] == "FINISHED" for job in jobs) and jobs

        try:
            jobs = wait_for(all_ended, 60 + 2 * len(played.jobs), "all jobs are finished", interval=0.2)
        except AssertionError:
            bad = [job for job in server.api.ok("GET", "jobs/") if job["status"] != "FINISHED"]
            details = [server.api.ok("GET", f"jobs/{job['id']}/") for job in bad[:5]]
            raise AssertionError(f"{details}\n{server.output()[-3000:]}") from None
        trained = {model["model_id"] for model in server.api.ok("GET", "models/") if model["adapter"]}
        for job in jobs:
            if job["name"].startswith("FT_"):
                log = (server.state / "trainings" / job["id"] / "runs.log").read_text().splitlines()
                assert "OVERLAP" not in log, log
                assert sum(line.endswith("finished") for line in log) == 1, log
                begun = [line for line in log if line.startswith("begin")]
                played.begun += len(begun)
                played.resumed += sum(not line.endswith(" 0") for line in begun)
        assert len(trained) == sum(job["name"].startswith("FT_") for job in jobs)
        server.stop()
    return played


def some_job(server: Managed, chance: random.Random, dataset: str, number: int) -> list[dict]:
    """A job that the server said it took in."""
    with suppress(OSError):
        if chance.random() < 0.3:
            return [server.api.ok("POST", "models/add/?model_id=acme/demo")]
        return [server.api.train(f"adapter {number}", dataset, max_steps=chance.randint(1, 12), step_seconds=0.03)]
    return []
