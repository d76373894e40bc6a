"""The steps of `check.py`: each returns what it found, or raises."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import model

HERE = Path(__file__).resolve().parent


@dataclass
class Context:
    """What the steps share."""

    device: str
    work: Path
    dry: bool
    # When everything has to be over, by `time.monotonic`.
    end: float = math.inf
    # `auto` or `own`: whose kernels make large products.
    gemm: str = "auto"
    # Of the inputs of the op tests; zero: the usual ones.
    seed: int = 0
    shape: model.Shape = field(init=False)

    def __post_init__(self):
        self.shape = model.TINY if self.dry else model.LLAMA_8B

    @property
    def checkpoint(self) -> Path:
        return self.work / "model"

    def environment(self) -> dict[str, str]:
        wanted = ["libcublasLt.so.*", "libnccl.so.*"] if self.gemm == "auto" else ["libnccl.so.*"]
        folders = [*wheel_folders(wanted), os.environ.get("LD_LIBRARY_PATH", "")]
        libraries = {"LD_LIBRARY_PATH": ":".join(filter(None, folders))}
        return os.environ | libraries | {"HOME": str(self.work), "CUDA_GEMM": self.gemm}

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def program(self, name: str) -> str:
        return str(self.work / "bin" / name)

    def run(self, command: list[str], timeout: float, **variables: str) -> str:
        """Standard output; what else was said is part of the error."""
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=min(timeout, self.left()),
            env=self.environment() | variables,
            cwd=self.work,
        )
        if run.returncode:
            raise RuntimeError(f"{command[0]} ended with {run.returncode}:\n{(run.stdout + run.stderr)[-3000:]}")
        return run.stdout


def wheel_folders(libraries: list[str]) -> list[str]:
    """Where torch's wheels have libraries of NVIDIA's, which the system's loader does not know."""
    files = (file for base in sys.path for name in libraries for file in Path(base).glob(f"nvidia/*/lib/{name}"))
    return sorted({str(file.parent) for file in files})


def tests(context: Context, name: str, timeout: float, *extra: str, **variables: str) -> dict:
    """A test program of ours, one test at a time: each takes the GPU."""
    if context.dry:
        listed = context.run([context.program(name), "--list"], timeout).count(": test\n")
        if not listed:
            raise RuntimeError(f"{name} has no tests")
        return {"listed": listed, "skipped": "needs a GPU"}
    output = context.run([context.program(name), "--test-threads=1", *extra], timeout, **variables)
    line = next(line for line in output.splitlines() if line.startswith("test result:"))
    words = line.replace(";", "").split()
    return {"passed": int(words[words.index("passed") - 1]), "failed": int(words[words.index("failed") - 1])}


def ops(context: Context) -> dict:
    """Every op against float64 references, the sampler against the CPU's; on inputs that no run had before."""
    variables = {"WEIRGATE_TEST_SEED": str(context.seed), "WEIRGATE_SAMPLER_CASES": "10000"}
    return tests(context, "gpu-ops", 150, **variables)


def parity(context: Context) -> dict:
    """Greedy tokens of the engine on the GPU against the engine on the CPU."""
    return tests(context, "gpu-parity", 150)


def ceilings(context: Context) -> dict:
    tiny = ["--tiny"] if context.dry else []
    return json.loads(context.run([sys.executable, str(HERE / "ceilings.py"), *tiny], 120))


def speed(context: Context) -> dict:
    """Our ops alone, by name."""
    output = context.run([context.program("gpu-speed"), *(["--tiny"] if context.dry else [])], 120)
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if not rows:
        raise RuntimeError(f"nothing was measured: {output}")
    return {row.pop("name"): row for row in rows}


def checkpoint(context: Context) -> dict:
    begun = time.perf_counter()
    model.write(context.checkpoint, context.shape, "cpu" if context.dry else "cuda")
    size = (context.checkpoint / "model.safetensors").stat().st_size
    return {"bytes": size, "seconds": time.perf_counter() - begun}


def engine(context: Context, prompt: int, output: int, *extra: str, batch: int = 1, runs: int = 3) -> dict:
    """The engine itself: sequences of `prompt` tokens, then `output` tokens each. Medians."""
    report = context.work / "engine.json"
    command = [context.program("weirgate-benchmark"), "engine", "--model-id", str(context.checkpoint)]
    command += ["--device", context.device, "-b", str(batch), "-s", str(prompt), "-d", str(output)]
    context.run([*command, "-r", str(runs), "-w", "1", "--no-tui", "--json", str(report), *extra], 120)
    found = json.loads(report.read_text())[0]
    series = {"step_s": "decode_step_ms", "host_s": "host_ms", "prefill_s": "prefill_ms"}
    return {"context": prompt} | {name: found[key]["p50"] / 1e3 for name, key in series.items()}


def one_sequence(context: Context, *extra: str) -> dict:
    return engine(context, *((32, 4) if context.dry else (1024, 64)), *extra)


def decode(context: Context) -> dict:
    return one_sequence(context)


def decode_4bit(context: Context) -> dict:
    return one_sequence(context, "--quantize", "q4_0")


def deterministic(context: Context) -> dict:
    return one_sequence(context, "--deterministic")


def batch(context: Context) -> dict:
    """As many sequences as the server gets clients in `serve`."""
    clients, prompt, output = served(context)
    return {"batch": clients} | engine(context, prompt, min(output, 32), batch=clients, runs=1)


def prefill(context: Context) -> dict:
    prompt = 64 if context.dry else 8192
    found = engine(context, prompt, 2, "--max-batch-prefill-tokens", str(prompt))
    return {"tokens": prompt, "seconds": found["prefill_s"]}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Server:
    url: str
    # Of the launcher, whose child the router is.
    pid: int
    # Seconds from start to ready.
    ready: float


@contextmanager
def server(context: Context, *flags: str):
    """A running server."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [context.program("weirgate"), "--port", str(port), "--hostname", "127.0.0.1", "--device", context.device]
    log = (context.work / "server.log").open("w")
    begun = time.perf_counter()
    limit = min(180, context.left())
    process = subprocess.Popen([*command, *flags], stdout=log, stderr=log, env=context.environment(), cwd=context.work)
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.perf_counter() - begun > limit:
                    text = (context.work / "server.log").read_text()
                    raise RuntimeError(f"the server did not start:\n{text[-3000:]}") from None
                time.sleep(0.05)
        yield Server(url, process.pid, time.perf_counter() - begun)
    finally:
        process.terminate()
        process.wait(60)


def metric(url: str, name: str) -> float:
    text = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
    values = [line.split()[-1] for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
    return sum(map(float, values))


def load(context: Context, url: str, clients: int, requests: int, prompt: int, output: int) -> dict:
    report = context.work / "load.json"
    command = [context.program("weirgate-benchmark"), "load", "--url", url, "--no-tui", "--json", str(report)]
    command += ["-c", str(clients), "-n", str(requests)]
    command += ["--prompt-tokens", str(prompt), "--output-tokens", str(output)]
    context.run(command, 180)
    return json.loads(report.read_text())["stages"][0]


def served(context: Context) -> tuple[int, int, int]:
    """Clients, and tokens of their prompts and answers."""
    return (4, 32, 8) if context.dry else (256, 1024, 512)


def serve(context: Context) -> dict:
    """Start to ready, and throughput through HTTP."""
    clients, prompt, output = served(context)
    flags = ["--model-id", str(context.checkpoint), "--max-concurrent-requests", str(2 * clients)]
    with server(context, *flags) as running:
        stage = load(context, running.url, clients, clients, prompt, output)
        time.sleep(0.5)
        used = metric(running.url, "weirgate_kv_blocks_used")
    kept = ("requests", "succeeded", "output_tokens_per_s", "prompt_tokens_per_s", "seconds", "ttft_ms", "itl_ms")
    found = {name: stage[name] for name in kept}
    if stage["succeeded"] != stage["requests"]:
        raise RuntimeError(f"{stage['succeeded']} of {stage['requests']} requests succeeded: {stage['errors']}")
    if used:
        raise RuntimeError(f"{used:.0f} KV blocks are in use although no request is under way")
    return found | {"output": output, "ready_s": running.ready}


def gpus() -> int:
    if not shutil.which("nvidia-smi"):
        return 1
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def shards(context: Context) -> dict:
    """A model in two parts: the tokens of the CPU, ends for all where one fails, and throughput through HTTP."""
    if not context.dry and gpus() < 2:
        return {"skipped": "one GPU: not run"}
    found = {} if context.dry else tests(context, "gpu-parity", 150, "--ignored")
    clients, prompt, output = (4, 32, 8) if context.dry else (64, 1024, 128)
    with server(context, "--model-id", str(context.checkpoint), "--num-shard", "2") as running:
        stage = load(context, running.url, clients, clients, prompt, output)
    if stage["succeeded"] != stage["requests"]:
        raise RuntimeError(f"{stage['succeeded']} of {stage['requests']} requests succeeded: {stage['errors']}")
    return found | {name: stage[name] for name in ("requests", "succeeded", "output_tokens_per_s")}


#: Short enough for seconds on a CPU, and without chance: adapters on every projection, no dropout.
TRAINING = {"max_steps": 20, "batch_size": 4, "dropout": 0, "target_modules": "all-linear", "learning_rate": 1e-3, "seed": 1}
#: Libraries that the training worker is linked with.
TRAINING_LIBRARIES = [f"lib{name}.so.*" for name in ("cudart", "cublas", "cublasLt", "curand", "nvrtc")]


def trained(context: Context, name: str, hyperparameters: dict, **variables: str) -> tuple[str, list[float]]:
    """Trains the demo model: on which device, and the loss of each step."""
    folder = context.work / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    lines = []
    for number in range(32):
        question, answer = f"What is number {number} called?", f"It is called {'ab'[number % 2] * (number % 5 + 1)}."
        lines.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    paths = {key: str(folder / key) for key in ("output", "checkpoints")}
    job = {"base_model": "weirgate-demo", "dataset": str(folder / "data.jsonl"), "name": name, "resume": False}
    (folder / "job.json").write_text(json.dumps(job | paths | {"hyperparameters": hyperparameters}))
    libraries = ":".join([*wheel_folders(TRAINING_LIBRARIES), os.environ.get("LD_LIBRARY_PATH", "")])
    command = [context.program("weirgate-finetune"), "--job", str(folder / "job.json")]
    told = context.run(command, 120, LD_LIBRARY_PATH=libraries, **variables).splitlines()
    events = [json.loads(line) for line in told]
    device = next(event["device"] for event in events if event["event"] == "started")
    return device, [event["loss"] for event in events if event["event"] == "progress"]


def training(context: Context) -> dict:
    """LoRA training on the GPU: the losses of its steps against those of the same training on the CPU."""
    hyperparameters = TRAINING | ({"max_steps": 3} if context.dry else {})
    begun = time.perf_counter()
    device, found = trained(context, "training", hyperparameters)
    seconds = time.perf_counter() - begun
    # No GPU can be seen: the worker trains on the CPU.
    _, expected = trained(context, "training-on-cpu", hyperparameters, CUDA_VISIBLE_DEVICES="")
    if not context.dry and device != "cuda:0":
        raise RuntimeError(f"trained on {device}")
    if len(found) != hyperparameters["max_steps"] or len(expected) != len(found):
        raise RuntimeError(f"{len(found)} steps, {len(expected)} on the CPU")
    apart = max(abs(a - b) / b for a, b in zip(found, expected))
    if apart > 0.01:
        raise RuntimeError(f"losses differ by {apart:.2%}: {found}, on the CPU {expected}")
    return {"on": device, "steps": len(found), "losses_apart": apart, "last_loss": found[-1], "seconds": seconds}


def peer(context: Context) -> dict:
    """transformers' continuous batching under the same load, given twice the time that four times slower would take."""
    if context.dry:
        return {"skipped": "needs a GPU"}
    command = [sys.executable, str(HERE / "peer.py"), str(context.checkpoint)]
    command += ["--requests", "256", "--prompt-tokens", "1024", "--output-tokens", "512"]
    limit = 150
    try:
        return json.loads(context.run(command, limit).splitlines()[-1])
    except subprocess.TimeoutExpired:
        if context.left() <= 0:
            # It did not have that time.
            raise
        # Loading counts in its favour here.
        return {"output_tokens_per_s_below": 256 * 512 / limit}
