"""Several models on one server: what loads cost those that answer, and a mixed load with everything that can happen to
models. Prints Markdown; exits with 1 where a limit is exceeded.

    prove_residency.py [--seconds 300] [--clients 24]

First, streams of a model of 75 million weights are measured alone and beside another one that is loaded and unloaded
all the time; the order changes from round to round. Then clients use three models of a store and the one that is always
there, while models expire, make room, are replaced, copied, deleted while they answer, and pulled. Greedy answers must
be those of a quiet server; in the end nothing is loaded, no KV block is used, and memory is what it was.
"""

import argparse
import asyncio
import itertools
import json
import random
import struct
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import ollama as library  # noqa: E402
from harness import metrics  # noqa: E402
from harness.checkpoints import copy_of_demo, edit_json  # noqa: E402
from harness.client import Client  # noqa: E402
from harness.gguf_files import quantize  # noqa: E402
from harness.registry import Registry  # noqa: E402
from harness.server import Server, resident_bytes, wait_for  # noqa: E402

LIMIT_RATIO, LIMIT_GAP, LIMIT_GROWTH = 1.5, 0.5, 64 << 20
STREAMS, ROUNDS = 6, 6
MODELS = ("alpha", "beta", "gamma", "weirgate-demo")
PROMPTS = [f"The number {number} is" for number in range(12)]
HEAVY = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 8, "num_attention_heads": 12}


def heavy_folder(folder: Path) -> Path:
    """A model of 75 million random weights with the demo model's tokenizer."""
    copy_of_demo(folder)
    config = json.loads((folder / "config.json").read_text())
    vocabulary, hidden, wide = config["vocab_size"], HEAVY["hidden_size"], HEAVY["intermediate_size"]
    edit_json(folder / "config.json", **HEAVY, num_key_value_heads=12, head_dim=64, tie_word_embeddings=True)
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(HEAVY["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": (wide, hidden) for name in ("gate", "up")}
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, wide)
        shapes |= {f"{prefix}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    header, offset, rng = {}, 0, np.random.default_rng(0)
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            file.write((rng.standard_normal(shape, dtype=np.float32) * 0.02).astype(np.float16).tobytes())
    return folder


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


async def measured(port: int, seconds: float, loading: bool) -> tuple[float, float, int]:
    """Median over streams of the 99th percentile between tokens; the longest gap; how often the heavy model came."""
    end, loads = time.monotonic() + seconds, 0

    async def load():
        nonlocal loads
        while time.monotonic() < end:
            body = {"model": "heavy", "prompt": "", "stream": False, "keep_alive": 0.01}
            (answer,) = await lines(port, "/api/generate", body)
            assert answer[1]["done_reason"] == "load", answer
            loads += 1
            await asyncio.sleep(0.05)

    async def stream(number: int):
        gaps = []
        while time.monotonic() < end:
            options = {"num_predict": 60, "seed": number, "stop": []}
            format = {"type": "array", "items": {"type": "integer"}, "minItems": 1000}
            body = {"model": "steady", "prompt": f"Stream {number}:", "options": options, "format": format}
            times = [at for at, _ in await lines(port, "/api/generate", body)]
            gaps += [later - sooner for sooner, later in itertools.pairwise(times[1:])]
        return gaps

    background = [asyncio.create_task(load())] if loading else []
    records = await asyncio.gather(*(stream(number) for number in range(STREAMS)))
    await asyncio.gather(*background)
    return (
        median(quantiles(record, n=100, method="inclusive")[98] for record in records),
        max(map(max, records)),
        loads,
    )


async def loads_beside_streams(port: int, seconds: float) -> bool:
    rounds = []
    await measured(port, 1, False)
    for number in range(ROUNDS):
        order = (False, True) if number % 2 == 0 else (True, False)
        found = {loading: await measured(port, seconds / ROUNDS / 2, loading) for loading in order}
        rounds.append((found[False], found[True]))
    print("| round | alone: p99, longest gap | beside loads: p99, longest gap | loads | ratio of p99 |")
    print("|---:|---:|---:|---:|---:|")
    for number, (alone, beside) in enumerate(rounds, 1):
        cells = [f"{one[0] * 1000:.1f} ms, {one[1] * 1000:.0f} ms" for one in (alone, beside)]
        print(f"| {number} | {cells[0]} | {cells[1]} | {beside[2]} | {beside[0] / alone[0]:.2f} |")
    ratio = median(beside[0] / alone[0] for alone, beside in rounds)
    gap = max(beside[1] for _, beside in rounds)
    print(f"\nMedian ratio {ratio:.2f} (limit {LIMIT_RATIO}); longest gap beside loads {gap:.3f} s (limit {LIMIT_GAP}).\n")
    return ratio <= LIMIT_RATIO and gap <= LIMIT_GAP


class Mixed:
    """Clients and everything that happens to models at the same time."""

    def __init__(self, server: Server, remote: str, seconds: float):
        self.server, self.remote = server, remote
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

    def check(self, model: str, prompt: str, text: str):
        if text != self.expected[model, prompt]:
            self.wrong.append(f"{model} {prompt!r}: {text!r}")

    async def user(self, number: int):
        rng = random.Random(number)
        while time.monotonic() < self.end:
            model, prompt = rng.choice(MODELS), rng.choice(PROMPTS)
            keep = rng.choice(["100ms", "1s", "5s"])
            if rng.random() < 0.2:
                # Gone in the middle.
                stream = await self.client.generate(model, prompt, stream=True, keep_alive=keep)
                await anext(stream)
                await stream.aclose()
                self.count("streams that were left")
                continue
            self.check(model, prompt, await self.answer(model, prompt, keep_alive=keep))
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
        users = [self.user(number) for number in range(clients)]
        await asyncio.gather(*users, self.deleter(), self.maker(), self.puller())


def mixed(server: Server, remote: str, arguments) -> bool:
    client = Client(server.port)
    idle = lambda: metrics.engine(client.get("/metrics").text).idle  # noqa: E731
    empty = lambda: len(client.get("/api/ps").json()["models"]) == 1  # noqa: E731
    sizes = []
    wrong, counts = [], {}
    # Twice: what the first half leaves behind is warmth, what the second one adds would be a leak.
    for _ in range(2):
        run = Mixed(server, remote, arguments.seconds / 2)
        asyncio.run(run.run(arguments.clients))
        wrong += run.wrong
        counts = {what: counts.get(what, 0) + count for what, count in run.counts.items()}
        wait_for(lambda: empty() and idle(), 90, "all models have left and no block is used", 0.2)
        sizes.append(resident_bytes(server.router_pid()))
    growth = sizes[1] - sizes[0]
    print("| | |\n|---|---:|")
    for what, count in sorted(counts.items()):
        print(f"| {what} | {count} |")
    print(f"| wrong answers | {len(wrong)} |")
    print(f"| memory after the first half, after the second | {sizes[0] >> 20} MiB, {sizes[1] >> 20} MiB |")
    for text in wrong[:5]:
        print(f"\n    {text}")
    return not wrong and growth <= LIMIT_GROWTH


def prepare(server: Server, folder: Path, registry: Registry) -> str:
    client = library.Client(server.url)
    quantize(folder / "demo.gguf", "Q8_0")
    blob = client.create_blob(folder / "demo.gguf")
    for name in ("alpha", "beta", "gamma"):
        client.create(name, files={"demo.gguf": blob})
    quantize(folder / "heavy.gguf", "F16", heavy_folder(folder / "heavy"))
    for name in ("heavy", "steady"):
        client.create(name, files={"heavy.gguf": client.create_blob(folder / "heavy.gguf")})
    remote = f"{registry.host}/library/remote"
    client.copy("heavy", remote)
    client.push(remote, insecure=True)
    client.delete(remote)
    return remote


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=24)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options = ["--model-store", str(folder / "models"), "--max-loaded-models", "3"]
        options += ["--max-concurrent-requests", "256"]
        server = Server(folder / "log", *options, env={"REGISTRY_PRIVATE_HOST": "127.0.0.1", "OLLAMA_KEEP_ALIVE": "2s"})
        registry = Registry(folder)
        try:
            registry.start()
            server.start()
            remote = prepare(server, folder, registry)
            steady = asyncio.run(loads_beside_streams(server.port, arguments.seconds / 2))
            sound = mixed(server, remote, arguments)
            server.stop()
        finally:
            server.kill()
            registry.kill()
    return 0 if steady and sound else 1


if __name__ == "__main__":
    sys.exit(main())
