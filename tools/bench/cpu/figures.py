"""The measurements, each a function that returns its figures by name."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / folder) for folder in ("tools/bench", "tools/bench/peer", "integration-tests")]

import make_random_model  # noqa: E402
import null_model  # noqa: E402
from harness.server import Server, resident_bytes  # noqa: E402
from models import SHAPES, describe  # noqa: E402
from one_stream import TURNS, ours  # noqa: E402
from paths import MODELS, OUR_BIN  # noqa: E402
from sides import Pin  # noqa: E402

QUANTIZED = MODELS / "llama-3.2-1b-q4_k_m.gguf"
PROMPT = 512
CHAT = 2000
KV_TOKENS = 8192
STREAMS = 1000
PACE = 100
# So many tokens that each stream's first gap, while others begin, and its last, while others end, are well below a
# hundredth of all.
PACED_OUTPUT = 512
BARE_LOOP = Path(__file__).with_name("bare_loop.py")
BENCHMARK = OUR_BIN / "weirgate-benchmark"


@contextmanager
def serving(model: Path, *flags, cores: str | None = None):
    """A server, on `cores` alone where they are given."""
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(Path(scratch) / "log", "--model-id", str(model), *map(str, flags))
        if cores:
            server.args = ["taskset", "-c", cores, *server.args]
        try:
            yield server.start(ready_seconds=180)
            server.stop()
        finally:
            server.kill()


def benchmark(*arguments, cores: str | None = None):
    """What the benchmark tool measures, as it writes it."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [*(["taskset", "-c", cores] if cores else []), BENCHMARK, *arguments, "--no-tui", "--json", file.name]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        return json.load(open(file.name))


def load(url: str, streams: int, requests: int, output: int, cores: str | None = None) -> dict:
    """One stage of `streams` clients with short prompts."""
    lengths = ("--prompt-tokens", 16, "--output-tokens", output, "--warmup", 0)
    stage = benchmark(
        *("load", "--url", url, "--api", "tgi", "--concurrency", streams, "--requests", requests, *lengths), cores=cores
    )["stages"][0]
    if stage["errors"] or stage["output_tokens"] != requests * output:
        raise SystemExit(f"{stage['output_tokens']} tokens of {requests} × {output}; errors: {stage['errors']}")
    return stage


def prompts(threads: int, rounds: int) -> dict[str, float]:
    """Prompt tokens per second of one checkpoint, in turns: ours in bf16, torch in f32."""
    folder = make_random_model.main(make_random_model.FOLDER)
    ours, theirs = [], []
    for _ in range(rounds):
        engine = ("engine", "-t", folder, "-b", 1, "-s", PROMPT, "-d", 2, "--runs", 3, "--threads", threads)
        ours.append(benchmark(*engine)[0]["prefill_tokens_per_s"]["p50"])
        command = [sys.executable, ROOT / "tools/bench/transformers_decode.py", folder, "--batch", 1, "--repeats", 3]
        command += ["--threads", threads, "--prompt-tokens", PROMPT, "--output-tokens", 2, "--dtype", "float32"]
        done = subprocess.run(
            [str(part) for part in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        seconds = [json.loads(line)["ttft_s"]["p50"] for line in done.stdout.splitlines()]
        theirs.append(PROMPT / median(seconds))
    return {"ours": median(ours), "torch": median(theirs)}


def first_token(url: str, messages: list[dict]) -> tuple[float, str]:
    """Seconds until a streamed chat answer begins, and its text."""
    body = {"model": "model", "messages": messages, "max_tokens": 8, "stream": True, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    first, text = None, ""
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=300) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[len(b"data: ") :])
            content = event["choices"][0]["delta"].get("content") if event["choices"] else None
            if content:
                first = first or time.perf_counter() - started
                text += content
    if first is None:
        raise SystemExit("the answer has no text")
    return first, text


def second_turn(threads: int, rounds: int) -> dict[str, float]:
    """Seconds to the first token of a chat's first turn of 2,000 tokens, and of its second."""
    folder = make_random_model.main(make_random_model.FOLDER)
    firsts, seconds = [], []
    with serving(folder, "--threads", threads, "--max-batch-total-tokens", 4 * KV_TOKENS) as server:
        first_token(server.url, [{"role": "user", "content": "warm up"}])
        for number in range(rounds):
            # A character is a token; the chat template adds a few.
            question = f"{number} " * (CHAT // len(f"{number} "))
            messages = [{"role": "user", "content": question}]
            spent, answer = first_token(server.url, messages)
            firsts.append(spent)
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And then?"}]
            seconds.append(first_token(server.url, messages)[0])
    return {"first": median(firsts), "second": median(seconds)}


def cpu_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def overhead(server_core: str, client_cores: str, rounds: int) -> dict[str, float]:
    """Of a model that computes nothing: processor microseconds of the server for each streamed token, and what
    `paced_round` finds when the engine begins a step each `PACE` milliseconds."""
    folder = null_model.main()
    room = ("--max-concurrent-requests", 2 * STREAMS, "--max-batch-size", STREAMS)
    room += ("--max-batch-total-tokens", STREAMS * (PACED_OUTPUT + 64), "--threads", 1, "--fault-echo")
    # All prompts fit into a step: streams that begin one after the other are not there at once.
    room += ("--max-batch-prefill-tokens", STREAMS * 64)
    micros = {}
    with serving(folder, *room, cores=server_core) as server:
        load(server.url, 16, 64, 64, client_cores)
        for streams, output in ((16, 512), (128, 256), (STREAMS, 128)):
            spent = []
            for _ in range(rounds):
                before = cpu_seconds(server.survivors())
                stage = load(server.url, streams, 2 * streams, output, client_cores)
                spent.append((cpu_seconds(server.survivors()) - before) / stage["output_tokens"] * 1e6)
            micros[streams] = median(spent)
    with serving(folder, *room, "--fault-step-milliseconds", PACE, cores=server_core) as server:
        paced = [paced_round(server, server_core, client_cores) for _ in range(rounds)]
    figures = {f"micros {streams}": value for streams, value in micros.items()}
    return figures | {name: median(found[name] for found in paced) for name in paced[0]}


def paced_round(server: Server, server_core: str, client_cores: str) -> dict[str, float]:
    """Milliseconds: the gaps between the tokens of 1,000 streams, the processor time of the server for a step, and the
    gaps of a bare loop of that pace and processor time on the same core, right after."""
    before = cpu_seconds(server.survivors())
    gaps = load(server.url, STREAMS, STREAMS, PACED_OUTPUT, client_cores)["itl_ms"]
    work = 1000 * (cpu_seconds(server.survivors()) - before) / PACED_OUTPUT
    command = ["taskset", "-c", server_core, sys.executable, BARE_LOOP, PACE, work, PACED_OUTPUT]
    bare = json.loads(subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE).stdout)
    return {"p50": gaps["p50"], "p99": gaps["p99"], "work": work, "bare p50": bare["p50"], "bare p99": bare["p99"]}


def memory_and_start(threads: int, rounds: int) -> dict[str, float]:
    """Bytes resident after a request, and seconds from the start to readiness with the file in the page cache."""
    with open(QUANTIZED, "rb") as file:
        size = sum(map(len, iter(lambda: file.read(1 << 24), b"")))
    shape = next(shape for shape in SHAPES if shape.name == "Llama-3.2-1B")
    kv = KV_TOKENS * shape.layers * 2 * shape.kv_heads * (shape.hidden // shape.heads) * 2
    ready, resident = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        with serving(QUANTIZED, "--threads", threads, "--max-batch-total-tokens", KV_TOKENS) as server:
            ready.append(time.perf_counter() - started)
            load(server.url, 4, 8, 16)
            resident.append(sum(map(resident_bytes, server.survivors())))
    return {"size": size, "kv": kv, "resident": median(resident), "ready": median(ready)}


def decode(cores: str, threads: int, rounds: int) -> dict[str, float]:
    """Bytes per second that one stream's weights are read with, and that memory is read with around it."""
    pin, model = Pin(cores, threads), describe(SHAPES[0], "Q4_K_M", QUANTIZED)
    turns = [ours(pin, model) for _ in range(rounds * TURNS)]
    rate, ceiling = (median(getattr(turn, name) for turn in turns) for name in ("bytes_per_s", "read_per_s"))
    return {"rate": rate, "ceiling": ceiling, "share": median(turn.share for turn in turns)}
