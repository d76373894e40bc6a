"""A server that is killed at random moments while it takes jobs in, downloads over a slow line, trains and deploys:
nothing that it took in is lost, and nothing is done twice at the same time."""

import http.client
import itertools
import os
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness import fake_hub
from harness.server import DEMO_MODEL, wait_for
from harness.slow_line import SlowLine
from managed import Managed

#: What a download brings, at how many bytes a second: some three seconds, so that kills find it under way.
WEIGHTS, PACE = 400_000, 130_000
KINDS = ("DOWNLOAD", "FT", "DEPLOY")


@dataclass
class Played:
    kills: int = 0
    #: Those that the server said it took in.
    jobs: list[dict] = field(default_factory=list)
    #: Of each kind, those that the server knows in the end.
    known: dict[str, int] = field(default_factory=dict)
    #: Ids of those that it did not know after a kill.
    lost: set[str] = field(default_factory=set)
    #: Ids of those that were begun while they were under way.
    twice: set[str] = field(default_factory=set)
    #: Downloads that went on behind their first byte, trainings that went on behind their first step.
    resumed: dict[str, int] = field(default_factory=dict)


class Hub:
    """Repositories behind a slow line; a new one whenever it is asked for."""

    def __init__(self, stack: ExitStack):
        self.hub = stack.enter_context(fake_hub.serving("acme/demo0", DEMO_MODEL))
        self.hub.files["model.safetensors"] = os.urandom(WEIGHTS)
        self.line = stack.enter_context(closing(SlowLine(self.hub.server_address[1])))
        self.line.bytes_per_second = PACE

    def new(self, number: int) -> str:
        self.hub.repositories.append(f"acme/demo{number}")
        return self.hub.repositories[-1]

    def resumed(self) -> int:
        return sum(begin > 0 for _, begin in self.hub.sent)

    def is_whole(self, folder: Path, model: str) -> bool:
        snapshot = folder / "hf/hub" / f"models--{model.replace('/', '--')}" / "snapshots" / fake_hub.COMMIT
        needed = ("config.json", "tokenizer.json", "model.safetensors")
        return all((snapshot / name).read_bytes() == self.hub.files[name] for name in needed)


def play(folder: Path, chance: random.Random, kills: int, args: tuple[str, ...] = ()) -> Played:
    """Asserts that all jobs end as they have to; what happened."""
    played = Played()
    with ExitStack() as stack:
        hub = Hub(stack)
        server = Managed(folder, *args, env={"HF_ENDPOINT": f"http://{hub.line.host}"})
        stack.callback(server.kill)
        killer = stack.enter_context(ThreadPoolExecutor(1))
        server.start()
        dataset, numbers = server.api.add_dataset(), itertools.count(1)
        # Longer than a life of the server, so that kills hit a training behind a checkpoint, whatever chance says.
        played.jobs.append(server.api.train("adapter 0", dataset, max_steps=100, step_seconds=0.03))
        #: Where the log of each life of the server ends.
        ends = []
        while played.kills < kills:
            crash = killer.submit(crash_after, server, chance.uniform(0.05, 2))
            while not crash.done():
                played.jobs += some_job(server, hub, chance, dataset, next(numbers))
                time.sleep(chance.uniform(0, 0.3))
            crash.result()
            played.kills += 1
            ends.append(len(server.output()))
            server.start()
            known = {job["id"] for job in server.api.ok("GET", "jobs/")}
            played.lost |= {job["id"] for job in played.jobs} - known
        jobs = settled(server, 60 + 2 * len(played.jobs))
        lives = [server.output()[begin:end] for begin, end in itertools.pairwise([0, *ends, None])]
        played.twice = set().union(*map(begun_twice, lives))
        played.known = {kind: sum(job["name"].startswith(kind + "_") for job in jobs) for kind in KINDS}
        played.resumed["DOWNLOAD"] = hub.resumed()
        check_what_came_of_it(server, hub, folder, jobs, played)
        server.stop()
    return played


def crash_after(server: Managed, seconds: float):
    time.sleep(seconds)
    server.crash()


def some_job(server: Managed, hub: Hub, chance: random.Random, dataset: str, number: int) -> list[dict]:
    """A job that the server said it took in; none where it was killed meanwhile."""
    kind = chance.random()
    with suppress(OSError, http.client.HTTPException):
        if kind < 0.3:
            model = hub.new(number) if kind < 0.25 else hub.hub.repositories[-1]
            return [server.api.ok("POST", f"models/add/?model_id={model}")]
        if kind < 0.45:
            adapters = [model["model_id"] for model in server.api.ok("GET", "models/") if model["adapter"]]
            adapters = chance.sample(adapters, min(len(adapters), chance.randint(0, 2)))
            return [server.api.ok("POST", "deploy/", {"model_id": "weirgate-demo", "adapter_ids": adapters})]
        return [server.api.train(f"adapter {number}", dataset, max_steps=chance.randint(1, 12), step_seconds=0.03)]
    return []


def settled(server: Managed, seconds: float) -> list[dict]:
    """All jobs once they have ended: finished, but for deployments, of which the last one runs and no other."""

    def wanted(jobs: list[dict]) -> list[str]:
        last = [job["id"] for job in jobs if job["name"].startswith("DEPLOY_")][-1:]
        live = {True: "RUNNING", False: "KILLED"}
        return [live[job["id"] in last] if job["name"].startswith("DEPLOY_") else "FINISHED" for job in jobs]

    def reached():
        jobs = server.api.ok("GET", "jobs/")
        return [job["status"] for job in jobs] == wanted(jobs) and jobs

    try:
        return wait_for(reached, seconds, "all jobs are as they have to be", interval=0.2)
    except AssertionError:
        jobs = server.api.ok("GET", "jobs/")
        bad = [job for job, status in zip(jobs, wanted(jobs), strict=True) if job["status"] != status]
        details = [server.api.ok("GET", f"jobs/{job['id']}/") for job in bad[:5]]
        raise AssertionError(f"{details}\n{server.output()[-3000:]}") from None


def begun_twice(log: str) -> set[str]:
    """Jobs that one life of a server began while it was at them, by its log."""
    under_way, twice = set(), set()
    for verb, job in re.findall(r"\b(begins|ends) job=([0-9a-f-]{36})", log):
        if verb == "begins":
            twice |= {job} & under_way
            under_way.add(job)
        else:
            under_way.discard(job)
    return twice


def check_what_came_of_it(server: Managed, hub: Hub, folder: Path, jobs: list[dict], played: Played):
    resumed, trained = 0, set()
    for job in jobs:
        kind, _, subject = job["name"].partition("_")
        if kind == "DOWNLOAD":
            assert hub.is_whole(folder, subject), subject
        if kind == "FT":
            log = (server.state / "trainings" / job["id"] / "runs.log").read_text().splitlines()
            # Another worker was at the same training.
            played.twice |= {job["id"]} if "OVERLAP" in log else set()
            assert sum(line.endswith("finished") for line in log) == 1, log
            resumed += sum(line.startswith("begin") and not line.endswith(" 0") for line in log)
            trained.add(job["id"])
    played.resumed["FT"] = resumed
    adapters = [model["model_id"] for model in server.api.ok("GET", "models/") if model["adapter"]]
    assert len(adapters) == len(set(adapters)) == len(trained)
    for name in server.api.ok("GET", "deploy/")["adapter_ids"]:
        answers = {"model": name, "prompt": "x", "max_tokens": 1}
        wait_for(lambda answers=answers: server.api.request("POST", "completions", answers).status == 200, 20, name)
