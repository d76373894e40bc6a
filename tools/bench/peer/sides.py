"""Both sides' programs: each function runs one measurement and returns its figures by name."""

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paths import OUR_BIN, OUT, PEER_BIN, ROOT

sys.path.insert(0, str(ROOT / "integration-tests"))

from harness.server import clean_environment, free_port  # noqa: E402

PROMPT = 512
CONTEXT, OUTPUT = 128, 64
BATCHES = (8,)
SLOTS = 16
# Of a run against a server.
REQUESTS = 3 * SLOTS
# Seconds in which the clients of the second load begin, so that prompts come while others decode.
RAMP_UP = 16
# Tokens that one slot of the peer's server has room for.
SLOT = 256
PATIENCE = 1200
READY = 180


@dataclass(frozen=True)
class Pin:
    """Both sides' processors, the load generator's too."""

    cores: str
    threads: int

    def command(self, *command) -> list[str]:
        return ["taskset", "-c", self.cores, *map(str, command)]

    def output(self, *command) -> str:
        done = subprocess.run(
            self.command(*command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=PATIENCE
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout


def peer_engine(pin: Pin, model: Path) -> dict[str, float]:
    bench = ("-m", model, "-t", pin.threads, "-p", PROMPT, "-n", 0, "-r", 1, "-o", "json")
    figures = {"prompt": json.loads(pin.output(PEER_BIN / "llama-bench", *bench))[0]["avg_ts"]}
    return figures | peer_decode(pin, model, BATCHES, OUTPUT)


def peer_decode(pin: Pin, model: Path, batches: tuple[int, ...], output: int) -> dict[str, float]:
    sizes = ("-c", max(batches) * SLOT, "-npp", CONTEXT, "-ntg", output, "-npl", ",".join(map(str, batches)))
    batched = ("-m", model, "-t", pin.threads, *sizes, "--output-format", "jsonl")
    lines = pin.output(PEER_BIN / "llama-batched-bench", *batched).splitlines()
    results = [json.loads(line) for line in lines if line.startswith("{")]
    return {f"decode {result['pl']}": result["speed_tg"] for result in results}


def our_engine(pin: Pin, model: Path) -> dict[str, float]:
    figures = {"prompt": our_measure(pin, model, (1,), (PROMPT, 2))[0]["prefill_tokens_per_s"]["p50"]}
    return figures | our_decode(pin, model, BATCHES, OUTPUT)


def our_decode(pin: Pin, model: Path, batches: tuple[int, ...], output: int) -> dict[str, float]:
    # The first token comes with the prompt.
    results = our_measure(pin, model, batches, (CONTEXT, output + 1))
    return {f"decode {batch['batch_size']}": batch["decode_tokens_per_s"]["p50"] for batch in results}


def our_measure(pin: Pin, model: Path, batches: tuple[int, ...], lengths: tuple[int, int]) -> list[dict]:
    length, decode = lengths
    command = ["engine", "-t", model, "-b", ",".join(map(str, batches)), "-s", length, "-d", decode]
    command += ["--runs", 1, "--threads", pin.threads, "--no-tui", "--json", "-"]
    return json.loads(pin.output(OUR_BIN / "weirgate-benchmark", *command))


def peer_server(pin: Pin, model: Path, vocabulary: int, requests: int) -> dict[str, float]:
    port = free_port()
    command = [PEER_BIN / "llama-server", "-m", model, "-t", pin.threads, "-np", SLOTS, "-cb", "-c", SLOTS * SLOT]
    command += ["--host", "127.0.0.1", "--port", port, "--no-ui"]
    with serving(pin, command, port):
        return loads(pin, port, vocabulary, requests)


def our_server(pin: Pin, model: Path, vocabulary: int, requests: int) -> dict[str, float]:
    port = free_port()
    command = [OUR_BIN / "weirgate", "--model-id", model, "--threads", pin.threads]
    command += ["--hostname", "127.0.0.1", "--port", port]
    with serving(pin, command, port):
        return loads(pin, port, vocabulary, requests)


@contextmanager
def serving(pin: Pin, command: list, port: int):
    with open(OUT / "server.log", "w") as log:
        server = subprocess.Popen(
            pin.command(*command), env=clean_environment({}), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + READY
        while not healthy(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not serve: {(OUT / 'server.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def loads(pin: Pin, port: int, vocabulary: int, requests: int) -> dict[str, float]:
    """Clients that all begin at once, and clients that begin one after the other."""
    at_once = load(pin, port, vocabulary, requests, ramp_up=0)
    return at_once | {f"{row}, in turn": value for row, value in load(pin, port, vocabulary, requests, RAMP_UP).items()}


def load(pin: Pin, port: int, vocabulary: int, requests: int, ramp_up: float) -> dict[str, float]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [OUR_BIN / "weirgate-benchmark", "load", "--url", f"http://127.0.0.1:{port}", "--api", "completions"]
        command += ["--concurrency", SLOTS, "--ramp-up", ramp_up, "--requests", requests, "--warmup", 1]
        # Prompts of their own, which no prefix cache knows.
        command += ["--token-ids", vocabulary, "--seed", ramp_up]
        command += ["--prompt-tokens", CONTEXT, "--output-tokens", OUTPUT, "--no-tui", "--json", file.name]
        pin.output(*command)
        stage = json.load(open(file.name))["stages"][0]
    if stage["errors"]:
        raise RuntimeError(f"requests failed: {stage['errors']}")
    if stage["output_tokens"] != requests * OUTPUT:
        raise RuntimeError(f"{stage['output_tokens']} tokens came, not {requests} × {OUTPUT}")
    return {
        "server": stage["output_tokens_per_s"],
        "first token": stage["ttft_ms"]["p99"],
        "between tokens": stage["itl_ms"]["p99"],
    }
