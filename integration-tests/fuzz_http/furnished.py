"""A server that has something of everything that requests can name: models in Jan's folder, a data set, jobs, adapters, a
deployment, a training under way; and what these are called."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.gguf_files import quantize
from harness.server import free_port, wait_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "management"))

from managed import LINE, Managed, deployed, progress  # noqa: E402

DEMO, ADAPTER = "weirgate-demo", "taught"
#: In Jan's folder: one that goes on from texts, and one that makes vectors, too.
MODELS = {"tiny": {"ctx_len": "96"}, "both": {"ctx_len": "96", "embedding": "true"}}
#: Brought by the user, so that a deletion takes their folders.
GOING = [f"going{number}" for number in range(8)]
#: Known, and not here.
LATER = "later"
#: Adapters that are deployed nowhere.
SPARE = [f"spare{number}" for number in range(3)]


@dataclass
class Furnished:
    server: Managed
    #: Values by the names of parameters and fields; behind a method or a path, for these alone.
    known: dict[str, list]


def jans_folder(folder: Path) -> Path:
    weights = folder / "demo.gguf"
    quantize(weights, "Q8_0")
    for name in (*MODELS, *GOING, LATER):
        model = folder / "jan" / name
        model.mkdir(parents=True)
        # Nothing is there to be fetched.
        document = {"source_url": "http://127.0.0.1:9/later.gguf", "settings": MODELS.get(name, {})}
        (model / "model.json").write_text(json.dumps(document | {"metadata": {"author": "User"}}))
        if name != LATER:
            shutil.copy(weights, model / "weights.gguf")
    return folder / "jan"


def furnished(folder: Path, *args: str) -> Furnished:
    """Starts a server in `folder`, beside a worker that counts in place of training. It fetches nothing from the hub."""
    env = {"HF_HUB_OFFLINE": "1", "JAN_MODELS": str(jans_folder(folder)), "JAN_HOST": f":{free_port()}"}
    server = Managed(folder, *args, env=env)
    server.start()
    api = server.api
    dataset = api.add_dataset()
    trained = [api.train(name, dataset, max_steps=2) for name in (ADAPTER, *SPARE)]
    for job in trained:
        api.until(job, "FINISHED")
    failed = api.train("fails", dataset, fail_at=1)
    api.until(failed, "FAILED")
    deployment = deployed(api, [ADAPTER])
    endless = api.train("endless", dataset, max_steps=1_000_000, step_seconds=0.1)
    wait_for(lambda: progress(api, endless), 10, "it trains")
    jobs = [job["id"] for job in (trained[0], failed, deployment)]
    models = [DEMO, *MODELS, ADAPTER]
    known = {
        "model": models,
        "id": [*models, *(f"{name}/{verb}" for name in MODELS for verb in ("start", "stop"))],
        "/v1/models/download/{id} id": [*MODELS, LATER],
        "DELETE id": GOING,
        "DELETE model": GOING,
        "model_id": [DEMO],
        "DELETE model_id": SPARE,
        "adapter_id": [ADAPTER],
        "adapter_ids": [[ADAPTER], []],
        "dataset_id": [dataset],
        "file": [LINE],
        "job_id": jobs,
        # The others have none.
        "/api/v1/finetune/{job_id}/curve/ job_id": jobs[:1],
        "after": jobs,
    }
    return Furnished(server, known)
