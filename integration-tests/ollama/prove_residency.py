"""Several models on one server: what loads cost those that answer, and a mixed load with everything that can happen to
models. Prints Markdown; exits with 1 where a limit is exceeded.

    prove_residency.py [--loads-seconds 300] [--seconds 300] [--clients 24]

First, streams of a model of 75 million weights are measured alone and beside another one that is loaded and unloaded
all the time; the order changes from round to round. Then clients use three models of a store, each of weights of its own,
and the one that is always there, while models expire, make room, are replaced, copied, deleted while they answer, and
pulled with all of their weights. Greedy answers must be those of a quiet server, which no two models share; in the end of
each part nothing is loaded, no KV block is used, and memory, threads and open files stop growing. Between the parts the same
clients use a second server, where all models stay: the gaps between tokens of the model that is always there, of both.
"""

import argparse
import asyncio
import itertools
import json
import random
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ollama as library  # noqa: E402
from harness import metrics  # noqa: E402
from harness.checkpoints import random_llama  # noqa: E402
from harness.client import Client  # noqa: E402
from harness.gguf_files import quantize  # noqa: E402
from harness.registry import Registry  # noqa: E402
from harness.server import Server, resident_bytes, wait_for  # noqa: E402
from harness.slow_line import SlowLine  # noqa: E402
from harness.threads import LowPriorityTime  # noqa: E402

LIMIT_RATIO, LIMIT_GAP, LIMIT_CORES = 1.5, 0.5, 1.0
#: Of the bytes of all that is pulled, how many have to be brought.
LEAST_PULLED = 0.9
#: The mixed load's, and by how much the last half of them may end with more memory than the first half.
PARTS, LIMIT_GROWTH = 6, 32 << 20
STREAMS, ROUNDS, LEAST_LOADS = 6, 12, 2
KINDS = {"alpha": "Q8_0", "beta": "F16", "gamma": "Q4_0"}
STAYS = "weirgate-demo"
MODELS = (*KINDS, STAYS)
PROMPTS = [f"The number {number} is" for number in range(12)]
HEAVY = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 8, "num_attention_heads": 12}
LIGHT = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}


async def lines(port: int, path: str, body: dict):
    """When each line of an answer came, and what it says."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        text = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n"
        writer.write(head.encode() + text)
        found = []
        while line := await reader.readline():
            if line.startswith(b"{"):
                found.append((time.monotonic(), json.loads(line)))
        return found
    finally:
        writer.close()


def p99(gaps: list[float]) -> float:
    return quantiles(gaps, n=100, method="inclusive")[98]


@dataclass
class Phase:
    """Streams for a while, alone or beside loads."""

    p99: float
    """Seconds between tokens: the median of the streams' own."""
    gap: float
    """The longest one."""
    loads: list[float]
    """How long each took, in seconds."""
    cores: float
    """Processors that threads of low priority used."""


async def measured(server: Server, seconds: float, loading: bool) -> Phase:
    end, loads = time.monotonic() + seconds, []

    async def load():
        while (begun := time.monotonic()) < end:
            body = {"model": "heavy", "prompt": "", "stream": False, "keep_alive": 0.01}
            (answer,) = await lines(server.port, "/api/generate", body)
            assert answer[1]["done_reason"] == "load", answer
            loads.append(time.monotonic() - begun)
            await asyncio.sleep(0.05)

    async def stream(number: int):
        gaps = []
        while time.monotonic() < end or (background and not background.done()):
            options = {"num_predict": 60, "seed": number, "stop": []}
            format = {"type": "array", "items": {"type": "integer"}, "minItems": 1000}
            body = {"model": "steady", "prompt": f"Stream {number}:", "options": options, "format": format}
            times = [at for at, _ in await lines(server.port, "/api/generate", body)]
            gaps += [later - sooner for sooner, later in itertools.pairwise(times[1:])]
        return gaps

    background = asyncio.create_task(load()) if loading else None
    with LowPriorityTime(server.router_pid()) as low:
        records = await asyncio.gather(*(stream(number) for number in range(STREAMS)))
        if background:
            await background
    return Phase(median(map(p99, records)), max(map(max, records)), loads, low.seconds / low.wall)


async def loads_beside_streams(server: Server, seconds: float) -> bool:
    rounds = []
    await measured(server, 1, False)
    for number in range(ROUNDS):
        order = (False, True) if number % 2 == 0 else (True, False)
        found = {loading: await measured(server, seconds / ROUNDS / 2, loading) for loading in order}
        rounds.append((found[False], found[True]))
    print("| round | alone: p99, longest gap | beside loads: p99, longest gap | loads, median time | cores | ratio of p99 |")
    print("|---:|---:|---:|---:|---:|---:|")
    for number, (alone, beside) in enumerate(rounds, 1):
        cells = [f"{one.p99 * 1000:.1f} ms, {one.gap * 1000:.0f} ms" for one in (alone, beside)]
        loads = f"{len(beside.loads)}, {median(beside.loads):.2f} s"
        print(f"| {number} | {cells[0]} | {cells[1]} | {loads} | {beside.cores:.2f} | {beside.p99 / alone.p99:.2f} |")
    ratio = median(beside.p99 / alone.p99 for alone, beside in rounds)
    gap = max(beside.gap for _, beside in rounds)
    cores = max(beside.cores for _, beside in rounds)
    fewest = min(len(beside.loads) for _, beside in rounds)
    print(f"\nMedian ratio {ratio:.2f} (limit {LIMIT_RATIO}); longest gap beside loads {gap:.3f} s (limit {LIMIT_GAP}); at most")
    print(f"{cores:.2f} processors for loads, all of low priority (limit {LIMIT_CORES}); at least {fewest} loads a round.\n")
    return ratio <= LIMIT_RATIO and gap <= LIMIT_GAP and cores <= LIMIT_CORES and fewest >= LEAST_LOADS


class Mixed:
    """Clients and, where models come and go, everything that happens to models at the same time."""

    def __init__(self, server: Server, remote: str, seconds: float, changing: bool):
        self.port, self.remote, self.changing = server.port, remote, changing
        self.gaps: list[float] = []
        """Seconds between tokens of the model that is always there."""
        self.client = library.AsyncClient(server.url)
        self.end = time.monotonic() + seconds
        self.counts: dict[str, int] = {}
        self.wrong: list[str] = []
        self.expected: dict[tuple[str, str], str] = {}

    def count(self, what: str):
        self.counts[what] = self.counts.get(what, 0) + 1

    async def answer(self, model: str, prompt: str, **more) -> str:
        options = {"temperature": 0, "num_predict": 24}
        return (await self.client.generate(model, prompt, options=options, **more)).response

    async def learn(self):
        for model in MODELS:
            for prompt in PROMPTS:
                self.expected[model, prompt] = await self.answer(model, prompt)
        for prompt in PROMPTS:
            assert len({self.expected[model, prompt] for model in MODELS}) == len(MODELS), f"models agree on {prompt!r}"

    def check(self, model: str, prompt: str, text: str):
        if text != self.expected[model, prompt]:
            self.wrong.append(f"{model} {prompt!r}: {text!r}")

    async def user(self, number: int):
        rng = random.Random(number)
        while time.monotonic() < self.end:
            model, prompt = rng.choice(MODELS), rng.choice(PROMPTS)
            keep = rng.choice(["100ms", "1s", "5s"]) if self.changing else "1h"
            if rng.random() < 0.2:
                # Gone in the middle.
                stream = await self.client.generate(model, prompt, stream=True, keep_alive=keep)
                await anext(stream)
                await stream.aclose()
                self.count("streams that were left")
                continue
            options = {"temperature": 0, "num_predict": 24}
            body = {"model": model, "prompt": prompt, "options": options, "keep_alive": keep}
            found = await lines(self.port, "/api/generate", body)
            self.check(model, prompt, "".join(part["response"] for _, part in found))
            if model == STAYS:
                times = [at for at, part in found if not part["done"]]
                self.gaps += [later - sooner for sooner, later in itertools.pairwise(times)]
            self.count("answers")

    async def deleter(self):
        """Copies a model, deletes the copy while it answers, and finds that it is gone."""
        while time.monotonic() < self.end:
            await self.client.copy("alpha", "doomed")
            options = {"temperature": 0, "num_predict": 24}
            stream = await self.client.generate("doomed", PROMPTS[0], options=options, stream=True)
            text = (await anext(stream)).response
            await self.client.delete("doomed")
            text += "".join([part.response async for part in stream])
            self.check("alpha", PROMPTS[0], text)
            try:
                await self.answer("doomed", PROMPTS[0])
                self.wrong.append("a deleted model answered")
            except library.ResponseError as error:
                if error.status_code != 404:
                    self.wrong.append(f"a deleted model: {error}")
            self.count("deletions of a model that answers")
            await asyncio.sleep(0.2)

    async def maker(self):
        """Makes a model over itself."""
        for number in itertools.count():
            if time.monotonic() >= self.end:
                return
            await self.client.create("changing", from_="beta", system=f"Number {number}.")
            text = await self.answer("changing", PROMPTS[1], raw=True)
            self.wrong += [] if text else ["an answer of nothing"]
            self.count("models made anew")
            await asyncio.sleep(0.3)

    async def puller(self):
        while time.monotonic() < self.end:
            progress = [part async for part in await self.client.pull(self.remote, insecure=True, stream=True)]
            if progress[-1].status != "success":
                self.wrong.append(f"a pull: {progress[-1]}")
            await self.client.delete(self.remote)
            self.count("pulls")
            await asyncio.sleep(0.2)

    async def run(self, clients: int):
        await self.learn()
        work = [self.user(number) for number in range(clients)]
        await asyncio.gather(*work, *([self.deleter(), self.maker(), self.puller()] if self.changing else []))


@dataclass
class Holding:
    """What a process holds."""

    memory: int
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int) -> "Holding":
        process = Path(f"/proc/{pid}")
        return cls(resident_bytes(pid), len(list((process / "task").iterdir())), len(list((process / "fd").iterdir())))


def logged(server: Server, message: str) -> int:
    return len(re.findall(rf"\b{message}\b", server.output()))


def mixed(server: Server, quiet: Server, remote: "Remote", arguments) -> bool:
    client = Client(server.port)
    idle = lambda: metrics.engine(client.get("/metrics").text).idle  # noqa: E731
    empty = lambda: len(client.get("/api/ps").json()["models"]) == 1  # noqa: E731
    parts, wrong, counts = [], [], {}
    loads, unloads, bytes_before = logged(server, "loaded"), logged(server, "unloaded"), remote.line.passed
    # What the first parts leave behind is warmth, what the later ones add would be a leak.
    for _ in range(PARTS):
        alone = Mixed(quiet, remote.name, arguments.seconds / PARTS / 2, changing=False)
        asyncio.run(alone.run(arguments.clients))
        run = Mixed(server, remote.name, arguments.seconds / PARTS, changing=True)
        with LowPriorityTime(server.router_pid()) as low:
            asyncio.run(run.run(arguments.clients))
        wrong += alone.wrong + run.wrong
        counts = {what: counts.get(what, 0) + count for what, count in run.counts.items()}
        wait_for(lambda: empty() and idle(), 90, "all models have left and no block is used", 0.2)
        parts.append((alone.gaps, run.gaps, low.seconds / low.wall, Holding.of(server.router_pid())))
    pulled = remote.line.passed - bytes_before
    counts["loads"] = logged(server, "loaded") - loads
    counts["models unloaded: expired, or to make room"] = logged(server, "unloaded") - unloads
    print("| | |\n|---|---:|")
    for what, count in sorted(counts.items()):
        print(f"| {what} | {count} |")
    print(f"| megabytes that the pulls brought | {pulled / 1e6:.0f} |")
    print(f"| wrong answers | {len(wrong)} |")
    print("\n| part | models stay: p99, longest gap | models come and go: p99, longest gap | ratio of p99 | cores for loads"
          " | then held: memory, threads, files |\n|---:|---:|---:|---:|---:|---:|")
    for number, (alone, among, cores, held) in enumerate(parts, 1):
        cells = [f"{p99(gaps) * 1000:.0f} ms, {max(gaps) * 1000:.0f} ms" for gaps in (alone, among)]
        ratio, holds = p99(among) / p99(alone), f"{held.memory >> 20} MiB, {held.threads}, {held.files}"
        print(f"| {number} | {cells[0]} | {cells[1]} | {ratio:.2f} | {cores:.2f} | {holds} |")
    ratio = median(p99(among) / p99(alone) for alone, among, _, _ in parts)
    gap, cores = max(max(among) for _, among, _, _ in parts), max(cores for _, _, cores, _ in parts)
    halves = parts[: PARTS // 2], parts[PARTS // 2 :]
    first, second = (Holding(*(max(getattr(held, what) for *_, held in half) for what in ("memory", "threads", "files"))) for half in halves)
    print(f"\nMedian ratio {ratio:.2f} (limit {LIMIT_RATIO}); longest gap {gap:.3f} s (limit {LIMIT_GAP}); at most {cores:.2f}")
    print(f"processors of low priority (limit {LIMIT_CORES}); the last {PARTS // 2} parts hold")
    print(f"{(second.memory - first.memory) / (1 << 20):.0f} MiB more than the first (limit {LIMIT_GROWTH >> 20}).")
    for text in wrong[:5]:
        print(f"\n    {text}")
    # Content that is deleted while somebody writes stays until that ends: a pull may find it.
    whole = pulled >= LEAST_PULLED * counts["pulls"] * remote.bytes
    if not whole:
        print(f"\n    {counts['pulls']} pulls of {remote.bytes} bytes each brought {pulled}")
    # Threads and connections end a little after what they were for.
    steady = second.threads <= first.threads + 8 and second.files <= first.files + 16
    kept = ratio <= LIMIT_RATIO and gap <= LIMIT_GAP and cores <= LIMIT_CORES
    return not wrong and whole and steady and kept and second.memory - first.memory <= LIMIT_GROWTH


@dataclass
class Remote:
    """A model of a registry, whose weights nobody else has."""

    name: str
    line: SlowLine
    bytes: int


def prepare(server: Server, folder: Path, registry: Registry) -> Remote:
    client = library.Client(server.url)

    def make(name: str, kind: str, seed: int, sizes: dict[str, int], *others: str) -> int:
        file = folder / f"{name}.gguf"
        quantize(file, kind, random_llama(folder / name, seed, **sizes))
        blob = client.create_blob(file)
        for each in (name, *others):
            client.create(each, files={file.name: blob})
        return file.stat().st_size

    for seed, (name, kind) in enumerate(KINDS.items()):
        make(name, kind, seed, LIGHT)
    make("heavy", "F16", 10, HEAVY, "steady")
    line = SlowLine(registry.port)
    size = make("local", "F16", 11, LIGHT)
    remote = f"{line.host}/library/remote"
    client.copy("local", remote)
    client.push(remote, insecure=True)
    for name in ("local", remote):
        client.delete(name)
    return Remote(remote, line, size)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads-seconds", type=float, default=300, help="of streams alone and beside loads")
    parser.add_argument("--seconds", type=float, default=300, help="of everything at once")
    parser.add_argument("--clients", type=int, default=24)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options = ["--model-store", str(folder / "models"), "--max-concurrent-requests", "256"]
        few = [*options, "--max-loaded-models", "3"]
        server = Server(folder / "log", *few, env={"REGISTRY_PRIVATE_HOST": "127.0.0.1", "OLLAMA_KEEP_ALIVE": "2s"})
        quiet = Server(folder / "quiet-log", *options)
        registry = Registry(folder)
        try:
            registry.start()
            server.start()
            remote = prepare(server, folder, registry)
            steady = asyncio.run(loads_beside_streams(server, arguments.loads_seconds))
            quiet.start()
            sound = mixed(server, quiet, remote, arguments)
            server.stop()
            quiet.stop()
        finally:
            server.kill()
            quiet.kill()
            registry.kill()
    return 0 if steady and sound else 1


if __name__ == "__main__":
    sys.exit(main())
