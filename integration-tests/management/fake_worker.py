"""Stands in for `weirgate-finetune`: speaks its protocol, counts instead of training, and writes an adapter of random
matrices for the demo model.

Every run is a line of `runs.log` beside the job's description: `begin <pid> <step>`, `end <pid> <how>`, or `OVERLAP`
where another run of the same job was under way. Hyper-parameters: `max_steps`, `step_seconds`, `fail_at`, `exit_at`.
"""

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path


def tell(**event):
    print(json.dumps(event), flush=True)


def locked(lock) -> bool:
    # A process that was killed lets go of its files a moment after it has gone from the table of processes.
    for _ in range(10):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.01)
    return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=Path, required=True)
    path = parser.parse_args().job
    job = json.loads(path.read_text())
    lock = open(path.with_name("lock"), "w")
    log = open(path.with_name("runs.log"), "a", buffering=1)
    if not locked(lock):
        log.write("OVERLAP\n")
        tell(event="failed", message="two at the same time")
        sys.exit(1)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    os.nice(job["nice"])
    values = job["hyperparameters"]
    steps = values.get("max_steps", 1000 if job["name"] == "My Adapter Training" else 5)
    pause = values.get("step_seconds", 0.02)
    conversations = Path(job["dataset"]).read_text().splitlines()
    checkpoint = Path(job["checkpoints"]) / "step"
    step = int(checkpoint.read_text()) if job["resume"] and checkpoint.exists() else 0
    log.write(f"begin {os.getpid()} {step}\n")
    tell(event="started", device="cpu", total_steps=steps, trainable_parameters=1000, tokens=10 * len(conversations))
    while step < steps:
        time.sleep(pause)
        step += 1
        if step == values.get("fail_at"):
            log.write(f"end {os.getpid()} failed\n")
            tell(event="failed", message="the loss is no number")
            sys.exit(1)
        if step == values.get("exit_at"):
            print("no memory left", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        tell(
            event="progress",
            step=step,
            total_steps=steps,
            epoch=step / steps,
            loss=2 / step,
            learning_rate=1e-4,
            grad_norm=1.0,
            tokens_per_s=123.0,
            eta_s=(steps - step) * pause,
        )
        part = checkpoint.with_suffix(".part")
        part.write_text(str(step))
        part.rename(checkpoint)
        tell(event="checkpoint", step=step, path=str(checkpoint))
        if stopped:
            log.write(f"end {os.getpid()} interrupted\n")
            tell(event="interrupted", step=step)
            return
    write_adapter(Path(job["output"]), job["name"])
    log.write(f"end {os.getpid()} finished\n")
    tell(event="finished", adapter=job["output"], curve=str(Path(job["output"]) / "loss.svg"))


def write_adapter(output: Path, name: str):
    from harness.adapters import random_adapter, write_peft

    part = output.with_suffix(".part")
    write_peft(part, random_adapter(seed=sum(name.encode()), strength=0.3))
    (part / "loss.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    part.rename(output)


main()
