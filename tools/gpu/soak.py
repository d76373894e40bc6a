"""Mixed load on one server for nine minutes: no error, flat memory, no block used at the end.

    soak.py [--device cuda:0] [--seconds 540]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import check  # noqa: E402
import steps  # noqa: E402

# Clients, prompt and output tokens: short chats, long prompts, long answers.
MIXES = [(64, "16-256", "8-128"), (16, "1000-3000", "16-64"), (128, "normal:200:100", "200-400"), (1, "64", "64")]
TINY_MIXES = [(4, "8-32", "2-8"), (1, "16", "4")]
# What a server may grow by after the first round, in MiB: the allocator's and the driver's slack.
SLACK = 64


def used_mib(device: str, pid: int) -> int:
    """Of the GPU; of a process and its children, where there is none."""
    if device != "cpu" and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    texts = [Path(f"/proc/{process}/status").read_text() for process in [str(pid), *children]]
    return sum(int(text.split("VmRSS:")[1].split()[0]) for text in texts) // 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=540)
    arguments = parser.parse_args()
    dry = arguments.device == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        check.unpack(work)
        context = steps.Context(arguments.device, work, dry)
        steps.checkpoint(context)
        with steps.server(context, "--model-id", str(context.checkpoint)) as server:
            return soak(context, server, arguments)


def soak(context: steps.Context, server: steps.Server, arguments: argparse.Namespace) -> int:
    end = time.monotonic() + arguments.seconds
    rounds, failed, first = 0, 0, None
    while time.monotonic() < end or rounds == 0:
        for clients, prompt, output in TINY_MIXES if context.dry else MIXES:
            stage = steps.load(context, server.url, clients, 4 * clients, prompt, output)
            failed += stage["requests"] - stage["succeeded"]
        rounds += 1
        memory = used_mib(arguments.device, server.pid)
        first = first or memory
        print(f"round {rounds}: {memory} MiB, {failed} failed", flush=True)
    time.sleep(1)
    used = steps.metric(server.url, "weirgate_kv_blocks_used")
    print(f"{rounds} rounds, {failed} requests failed, {first} → {memory} MiB, {used:.0f} KV blocks used at the end")
    return int(failed > 0 or memory > first + SLACK or used > 0)


if __name__ == "__main__":
    sys.exit(main())
