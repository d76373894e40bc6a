"""Several servers on one PostgreSQL: each goes on with its own jobs, and with nobody else's."""

import time

import pytest
from harness import fake_hub
from harness.postgres import Postgres
from harness.server import DEMO_MODEL, wait_for
from harness.slow_line import SlowLine
from managed import Managed, deployed, progress

#: A server that was away for so long used to lose its jobs.
AWAY = 12
WEIGHTS = "acme/demo/model.safetensors"


@pytest.mark.timeout(120)
def test_what_a_server_took_in_waits_for_it(manage, tmp_path):
    with Postgres(tmp_path / "postgres") as postgres, fake_hub.serving("acme/demo", DEMO_MODEL) as hub:
        line = SlowLine(hub.server_address[1])

        def server(name: str) -> Managed:
            env = {"HF_ENDPOINT": f"http://{line.host}", "HF_HOME": str(tmp_path / f"{name}-hf")}
            return manage("--state-database", postgres.url("jobs"), name=name, env=env)

        a, b = server("a"), server("b")
        dataset = a.api.add_dataset()
        a.api.until(a.api.train("support", dataset), "FINISHED")
        deployment = deployed(a.api, ["support"])
        answer = a.api.chat("support")
        line.bytes_per_second = 200_000
        download = a.api.ok("POST", "models/add/?model_id=acme/demo")
        training = a.api.train("long", dataset, max_steps=200, step_seconds=0.05)
        wait_for(lambda: progress(a.api, training).get("step", 0) >= 2, 20, "it trains")
        wait_for(lambda: progress(a.api, download).get("completed", 0) > 300_000, 20, "it downloads")

        # Both see all jobs, and only what they can open.
        assert b.api.ok("GET", "jobs/") == a.api.ok("GET", "jobs/")
        demo = {"model_id": "weirgate-demo", "adapter": False, "base_model_id": None}
        support = {"model_id": "support", "adapter": True, "base_model_id": "weirgate-demo"}
        assert b.api.ok("GET", "models/") == [demo]
        assert b.api.ok("GET", "datasets/") == []
        assert b.api.request("GET", f"datasets/{dataset}/").status == 404
        assert b.api.ok("GET", "deploy/") == {"model_id": None, "adapter_ids": []}
        assert b.api.request("GET", "finetune/status/").status == 404
        assert b.api.request("POST", "finetune/interrupt/").status == 404

        running = (deployment, training, download)
        assert [b.api.status(job) for job in running] == ["RUNNING"] * 3
        a.crash()
        gone = time.monotonic()
        sent = list(hub.sent)
        # The other one does what it is asked to, under the same names.
        own = b.api.until(b.api.train("support", b.api.add_dataset()), "FINISHED")
        assert b.api.ok("GET", "models/") == [demo, support]
        others = deployed(b.api, ["support"])
        waiting = AWAY - (time.monotonic() - gone)
        time.sleep(max(waiting, 0))
        assert [b.api.status(job) for job in running] == ["RUNNING"] * 3
        assert hub.sent == sent, "nobody else downloads it"
        assert not (b.state / "trainings" / training["id"]).exists()

        line.bytes_per_second = None
        a.start()
        a.api.until(download, "FINISHED")
        a.api.until(training, "FINISHED")
        assert any(name == WEIGHTS and begin > 0 for name, begin in hub.sent[len(sent) :]), hub.sent
        begun = [line for line in runs(a, training) if line.startswith("begin")]
        assert len(begun) == 2 and not begun[1].endswith(" 0"), begun
        wait_for(lambda: progress(a.api, deployment) == {"deployed": True}, 20, "deployed again")
        asked = {"model": "support", "prompt": "x", "max_tokens": 1}
        wait_for(lambda: a.api.request("POST", "completions", asked).status == 200, 20, "it answers")
        assert a.api.chat("support") == answer
        assert [job["id"] for job in b.api.ok("GET", "jobs/")][-2:] == [own["id"], others["id"]]
        assert b.api.ok("GET", "deploy/status/")["job"]["id"] == others["id"], "each has one of its own"
        # Whoever is asked ends a job of the other's, too.
        asked_at = time.monotonic()
        assert b.api.ok("POST", f"jobs/{deployment['id']}/interrupt/")["status"] == "KILLED"
        wait_for(lambda: a.api.ok("GET", "deploy/")["model_id"] is None, 5, "undeployed")
        wait_for(lambda: a.api.request("POST", "completions", asked).status == 404, 5, "unknown")
        taken = time.monotonic() - asked_at
        assert taken < 1, f"{taken:.2f} s"
        assert b.api.status(others) == "RUNNING" and b.api.chat("support")
        for server in (a, b):
            server.stop()
        line.close()


def runs(server: Managed, training: dict) -> list[str]:
    """What the worker noted of a training."""
    return (server.state / "trainings" / training["id"] / "runs.log").read_text().splitlines()
