"""The worker that trains, under a server that is killed, and with less memory than it needs."""

import json
import os
import signal
from pathlib import Path

import pytest
from harness import finetuning
from harness.server import wait_for
from managed import Managed, progress

TRAINING = {"max_steps": 40, "save_steps": 5, "batch_size": 4, "rank": 4, "dropout": 0.1, "learning_rate": 1e-3}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("killed", ["server", "both"])
def test_a_training_goes_on_from_its_checkpoint_as_if_its_server_had_not_been_killed(manage, tmp_path, killed):
    server = manage(trains=True)
    content = finetuning.write_dataset(tmp_path / "pairs.jsonl", finetuning.pairs(24)).read_text()
    dataset = server.api.add_dataset(content)
    # Of names that are as long, so that the pictures of their losses can be compared.
    whole = server.api.train("whole", dataset, **TRAINING)
    server.api.until(whole, "FINISHED", 60)
    cut = server.api.train("twice", dataset, **TRAINING)
    wait_for(lambda: progress(server.api, cut).get("step", 0) >= 12, 30, "it trains")
    (worker,) = server.workers()
    if killed == "both":
        # So that it does not notice, and save what it has, before it is killed.
        os.kill(worker, signal.SIGSTOP)
    server.crash()
    if killed == "both":
        os.kill(worker, signal.SIGKILL)
    # The worker by itself notices; what it has by then is a checkpoint.
    wait_for(lambda: worker not in server.survivors(), 20, "the worker is gone")
    server.start()
    server.api.until(cut, "FINISHED", 60)
    begun = [event for event in events(server, cut) if event["event"] == "started"]
    assert len(begun) == 2, begun
    # The first step of each run is told to the log.
    first, second = [steps[0] for steps in runs(server, cut)]
    assert first == 1 and second <= 40, (first, second)
    if killed == "both":
        assert second > 10 and second % TRAINING["save_steps"] == 1, f"behind one it had saved on its way: {second}"
    else:
        assert second > 12, second
    curves = [server.api.request("GET", f"finetune/{job['id']}/curve/").text for job in (whole, cut)]
    assert curves[0].count("whole") == 1 and curves[0].replace("whole", "twice") == curves[1]
    weights = [adapter(server, job).read_bytes() for job in (whole, cut)]
    assert weights[0] == weights[1], "to the last bit"


def test_a_wrong_hyper_parameter_is_what_its_training_fails_of(manage):
    server = manage(trains=True)
    dataset = server.api.add_dataset()
    for name, given, error in (
        ("narrow", {"rank": 0}, "`rank` is 0, expected an integer from 1 to 1024"),
        ("hasty", {"warmup_steps": 3, "max_steps": 2}, "`warmup_steps` is 3, more than the 2 steps of the training"),
    ):
        job = server.api.until(server.api.train(name, dataset, **given), "FAILED")
        assert job["error"] == error
    assert [model["model_id"] for model in server.api.ok("GET", "models/")] == ["weirgate-demo"]


MEMORY = 400_000_000
#: Of everything that a server does beside answering.
NICE = 13


@pytest.mark.timeout(120)
def test_a_training_that_needs_more_memory_fails_alone(manage, tmp_path):
    server = manage("--training-memory", str(MEMORY), trains=True)
    content = finetuning.write_dataset(tmp_path / "pairs.jsonl", finetuning.pairs(80)).read_text()
    dataset = server.api.add_dataset(content)
    # The activations of a large batch, kept for the way back.
    large = {"max_steps": 1, "batch_size": 80, "gradient_checkpointing": False}
    job = server.api.until(server.api.train("large", dataset, **large), "FAILED", 60)
    assert job["error"] == (
        f"the training's process needs more than the {MEMORY} bytes of --training-memory; a smaller `batch_size` or "
        "`max_length`, `gradient_checkpointing` or `quantized` need less"
    ), job
    assert server.workers() == []
    assert server.api.chat("Compressa-LLM")
    # The same, with a layer's activations computed again when its turn comes.
    frugal = server.api.train("frugal", dataset, **(large | {"gradient_checkpointing": True}))
    server.api.until(frugal, "FINISHED", 60)
    # One that fits is trained; the limit is the worker's own.
    small = server.api.train("small", dataset, max_steps=4, batch_size=2)
    (worker,) = wait_for(server.workers, 20, "the worker is there", interval=0.001)
    wait_for(lambda: limit(worker) == MEMORY, 20, "it is confined", interval=0.001)
    assert os.getpriority(os.PRIO_PROCESS, worker) == NICE
    server.api.until(small, "FINISHED", 60)
    assert {"model_id": "small", "adapter": True, "base_model_id": "weirgate-demo"} in server.api.ok("GET", "models/")


def limit(process: int) -> int | None:
    """Bytes that a process may allocate; `None`: any number."""
    lines = Path(f"/proc/{process}/limits").read_text().splitlines()
    soft = next(line.split()[3] for line in lines if line.startswith("Max data size"))
    return int(soft) if soft.isdigit() else None


def events(server: Managed, job: dict) -> list[dict]:
    lines = [line["line"] for line in server.api.ok("GET", f"jobs/{job['id']}/logs/")]
    return [json.loads(line) for line in lines if line.startswith("{")]


def runs(server: Managed, job: dict) -> list[list[int]]:
    """The steps that each run of the worker told."""
    found = []
    for event in events(server, job):
        if event["event"] == "started":
            found.append([])
        elif event["event"] == "progress":
            found[-1].append(event["step"])
    return found


def adapter(server: Managed, job: dict) -> Path:
    return server.state / "adapters" / job["id"] / "adapter_model.safetensors"
