"""Interrupting acts within a second, whatever a job is at."""

import time
from contextlib import closing

import pytest
import schemas
from buckets import Bucket, stored_in
from harness import fake_hub, finetuning, metrics
from harness.client import Client
from harness.server import DEMO_MODEL, wait_for
from harness.slow_line import SlowLine
from managed import Api, Managed, progress


def interrupt(api: Api, job: dict) -> float:
    """Asks for a job's end; when."""
    begun = time.monotonic()
    reply = api.ok("POST", f"jobs/{job['id']}/interrupt/")
    schemas.check(reply, schemas.JOB)
    assert reply["status"] == "KILLED"
    return begun


def test_a_place_is_free_at_once(manage):
    server = manage()
    api = server.api
    job = api.train("long", api.add_dataset(), max_steps=10_000, step_seconds=0.05)
    wait_for(lambda: progress(api, job).get("step", 0) >= 2, 20, "it trains")
    told = progress(api, job)["step"]
    series = training_series(server, "long")
    # What `fake_worker.py` tells.
    step = series["step"]
    assert told <= step, "the job's progress is written down every half second"
    assert (series["steps"], series["loss"], series["tokens_per_second"]) == (10_000, 2 / step, 123)
    assert (series["learning_rate"], series["eta_seconds"]) == (1e-4, pytest.approx((10_000 - step) * 0.05))
    wait_for(lambda: progress(api, job)["step"] >= step, 2, "the job has it, too")
    waits = api.train("waits", api.add_dataset(), max_steps=1)
    interrupt(api, job)
    api.until(waits, "FINISHED")
    assert training_series(server, "long") == training_series(server, "waits") == {}
    assert api.ok("POST", f"jobs/{job['id']}/interrupt/")["status"] == "KILLED", "a second time changes nothing"


def training_series(server: Managed, adapter: str) -> dict[str, float]:
    """What `/metrics` says of the training under way."""
    samples = metrics.parse(Client(server.port).get("/metrics").text)
    begin, end = "weirgate_training_", f'{{adapter="{adapter}"}}'
    return {key[len(begin) : -len(end)]: value for key, value in samples.items() if key.startswith(begin) and end in key}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("at", ["preparing", "training"])
def test_the_worker_that_trains_is_gone_within_a_second(manage, tmp_path, at):
    server = manage(trains=True)
    api = server.api
    # What takes the worker seconds to read and to encode, or next to none.
    count, times = (30_000, 40) if at == "preparing" else (8, 1)
    pairs = [(f"{number} {'What is it? ' * times}", "It is this.") for number in range(count)]
    content = finetuning.write_dataset(tmp_path / "pairs.jsonl", pairs).read_text()
    job = api.train("long", api.add_dataset(content), max_steps=100_000)
    (worker,) = wait_for(server.workers, 20, "the worker is there", interval=0.001)
    if at == "training":
        wait_for(lambda: progress(api, job).get("step", 0) >= 2, 40, "it trains")
    else:
        time.sleep(0.3)
    assert server.workers() == [worker]
    begun = interrupt(api, job)
    wait_for(lambda: worker not in server.workers(), 5, "the worker is gone")
    taken = time.monotonic() - begun
    assert taken < 1, f"{taken:.2f} s"
    told = [line["line"] for line in api.ok("GET", f"jobs/{job['id']}/logs/")]
    assert any('"started"' in line for line in told) == (at == "training"), told
    training = server.state / "trainings" / job["id"]
    wait_for(lambda: not (training / "checkpoints").exists(), 5, "its checkpoints are gone")
    assert list((server.state / "adapters").iterdir()) == [] and api.ok("GET", f"jobs/{job['id']}/")["error"] is None


@pytest.mark.parametrize("line_is", ["slow", "dead"])
def test_a_download_ends_within_a_second(manage, tmp_path, line_is):
    with fake_hub.serving("acme/demo", DEMO_MODEL) as hub:
        line = SlowLine(hub.server_address[1])
        server = manage(env={"HF_ENDPOINT": f"http://{line.host}"})
        api = server.api
        line.bytes_per_second = 200_000
        job = api.ok("POST", "models/add/?model_id=acme/demo")
        wait_for(lambda: progress(api, job).get("completed", 0) > 0, 20, "it downloads")
        if line_is == "dead":
            line.bytes_per_second = 0
        begun = interrupt(api, job)
        ended = f"ends job={job['id']}"
        wait_for(lambda: ended in server.output(), 5, "its work has ended")
        taken = time.monotonic() - begun
        assert taken < 1, f"{taken:.2f} s"
        # From a line that is alive nothing more is taken.
        time.sleep(0.5)
        here = size(tmp_path)
        assert here > 0
        time.sleep(0.5)
        assert size(tmp_path) == here and here < (DEMO_MODEL / "model.safetensors").stat().st_size
        assert api.status(job) == "KILLED"
        line.bytes_per_second = None
        server.stop()
        line.close()


def test_a_bucket_that_falls_silent_keeps_no_place(manage, tmp_path):
    """The only place for trainings is free again, though the data set never came."""
    with Bucket("moto", tmp_path) as bucket, closing(SlowLine(int(bucket.endpoint.rpartition(":")[2]))) as line:
        server = manage("--dataset-store", "s3://sets", **stored_in(bucket, AWS_ENDPOINT_URL=f"http://{line.host}"))
        api = server.api
        dataset = api.add_dataset('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 9000)
        for at in ("its content", "its head"):
            # Within the first piece of the answer, or before it.
            line.bytes_per_second = 100_000 if at == "its content" else 0
            job = api.train(at.split()[-1], dataset, max_steps=1)
            part = server.state / "trainings" / job["id"]
            wait_for(lambda: api.status(job) == "RUNNING", 10, "it waits for the bucket")
            if at == "its content":
                wait_for(lambda: any(path.stat().st_size for path in part.glob("**/partial")), 10, "some of it came")
                line.bytes_per_second = 0
            begun = interrupt(api, job)
            wait_for(lambda: f"ends job={job['id']}" in server.output(), 5, "its work has ended")
            taken = time.monotonic() - begun
            assert taken < 1, f"{taken:.2f} s"
        line.bytes_per_second = None
        api.until(api.train("last", dataset, max_steps=1), "FINISHED")


def size(root) -> int:
    """Bytes of what is on its way here."""
    return sum(path.stat().st_size for path in (root / "hf").glob("**/*.incomplete"))
