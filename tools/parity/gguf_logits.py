"""Logits of every GGUF type against f64 arithmetic on the dequantized weights, beside llama.cpp's own.

    .venv/peer/bin/python tools/parity/gguf_logits.py

The files are the demo model, quantized by llama.cpp's own `llama-quantize` (MXFP4 and F32 by the `gguf` package). Prints
Markdown and exits with 1 where our error is more than `MOST` times llama.cpp's, where the most likely token is another
although its margin exceeds both errors together, or where greedy tokens of an F32 or F16 file differ and the f64
arithmetic does not take our side at the first difference. `make prove-gguf` writes
docs/evidence/gguf-logits.md.
"""

import json
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tools/bench/peer"), str(ROOT / "integration-tests")]

from build import build  # noqa: E402
from harness.gguf_files import quantize, requantize  # noqa: E402
from harness.server import free_port  # noqa: E402
from paths import OUR_BIN, PEER_BIN  # noqa: E402
from sides import Pin, serving  # noqa: E402

VOCABULARY = 4096
THREADS = 2
MOST = 1.1
PREFIXES = 4
GREEDY = ("F32", "F16")
GREEDY_TOKENS = 64
# Our name of a type → what llama-quantize calls it.
BY_PEER = {name: name for name in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q6_K", "IQ4_NL", "IQ4_XS")}
BY_PEER |= {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
BY_PACKAGE = {"F32": Kind.F32, "MXFP4": Kind.MXFP4}
PROMPTS = (
    "Once upon a time there was a little fox who lived by the river",
    "Tom and Anna went to the park and saw a big red balloon in the sky",
    "The old man had a small boat and every morning he rowed out to the lake",
    "One day a bird came to the window and sang a song about the summer",
    "Mia wanted to bake a cake for her mother but there was no sugar left",
    "Ben found a shiny stone on the beach and put it in his pocket",
    "The rain fell all day long so the children played inside the house",
    "There was a tree in the garden that was taller than the church",
    "Lily was sad because her kitten had run away into the dark forest",
    "The king asked the three brothers to bring him the most beautiful flower",
    "A frog sat on a leaf and looked at the moon over the pond",
    "Sam liked to read books about trains, ships and the stars",
    "In the middle of the night they heard a strange sound on the roof",
    "The baker gave the hungry dog a piece of bread and smiled",
    "When the snow came, the two friends built a house of ice",
    "Every evening grandmother told a story about a clever mouse",
    "The blue car did not want to start, so they walked to school",
    "Nina had a secret box under her bed with a key of gold",
    "The wind took the hat of the farmer and carried it over the hill",
    "At the end of the street there lived a man who could talk to bees",
)


def main() -> int:
    build()
    rows, wrong = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for name, path in files(Path(temporary)):
            row = compare(name, path)
            rows.append(row)
            wrong += row.wrong()
            print(row.line(), file=sys.stderr, flush=True)
    print(
        f"Relative error (norm, centred) of the log-probabilities of all {VOCABULARY} tokens after {len(PROMPTS)} texts of\n"
        f"{PREFIXES} lengths each, demo model, against f64 arithmetic on the dequantized weights; root mean square over the\n"
        "texts. Decided: after how many texts the most likely token leads by more than both sides' largest errors together,\n"
        "and how many of these both sides name. Greedy: prompts whose tokens are the same on both sides, up to\n"
        f"{GREEDY_TOKENS} tokens; where they differ, whose token the f64 arithmetic finds at the first difference.\n"
    )
    print("| type | Weirgate | llama.cpp | ratio | decided, the same | greedy |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        print(row.line())
    print(f"\nAt most {MOST} × llama.cpp's error, and no other token where it is decided: {'met' if not wrong else 'not met'}")
    for problem in wrong:
        print(f"- {problem}")
    return 1 if wrong else 0


def files(folder: Path):
    """One file at a time."""
    source = folder / "demo-bf16.gguf"
    quantize(source, "BF16")
    for name in ("F32", *BY_PEER, "MXFP4"):
        path = folder / f"{name}.gguf"
        if name in BY_PACKAGE:
            requantize(source, path, BY_PACKAGE[name])
        else:
            command = [PEER_BIN / "llama-quantize", "--allow-requantize", "--pure", source, path, BY_PEER[name], str(THREADS)]
            subprocess.run(command, check=True, capture_output=True)
        yield name, path
        path.unlink()


@dataclass
class Row:
    name: str
    ours: np.ndarray
    theirs: np.ndarray
    """Relative errors, one for each text."""
    decided: int
    same: int
    greedy: list[str] | None
    """For each prompt `same`, `ours` or `theirs`: whose token is right where they first differ."""

    def ratio(self) -> float:
        return rms(self.ours) / rms(self.theirs)

    def line(self) -> str:
        greedy = ""
        if self.greedy:
            greedy = f"{self.greedy.count('same')} of {len(self.greedy)}"
            greedy += "".join(f", {self.greedy.count(side)} {side}" for side in ("ours", "theirs") if side in self.greedy)
        figures = f"{rms(self.ours):.2e} | {rms(self.theirs):.2e} | {self.ratio():.2f}"
        return f"| {self.name} | {figures} | {self.same} of {self.decided} | {greedy} |"

    def wrong(self) -> list[str]:
        found = []
        if self.ratio() > MOST:
            found.append(f"{self.name}: the error is {self.ratio():.2f} × llama.cpp's")
        if self.same != self.decided:
            found.append(f"{self.name}: {self.decided - self.same} decided tokens differ")
        if self.greedy and "theirs" in self.greedy:
            found.append(f"{self.name}: {self.greedy.count('theirs')} greedy continuations leave the right one")
        return found


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def compare(name: str, path: Path) -> Row:
    texts = [" ".join(words[: max(2, len(words) * n // PREFIXES)]) for words in map(str.split, PROMPTS) for n in range(1, PREFIXES + 1)]
    wanted = range(PREFIXES - 1, len(texts), PREFIXES) if name in GREEDY else []
    pin = Pin("0-63", THREADS)
    port = free_port()
    with serving(pin, [OUR_BIN / "weirgate", "--model-id", path, "--threads", THREADS, "--hostname", "127.0.0.1",
                       "--port", port, "--max-top-n-tokens", VOCABULARY, "--enable-prefill-logprobs"], port):  # fmt: skip
        answers = [our_answer(port, text) for text in texts]
        our_greedy = [our_tokens(port, texts[at]) for at in wanted]
    with serving(pin, [PEER_BIN / "llama-server", "-m", path, "-t", THREADS, "-c", 2048, "-np", 1, "--host", "127.0.0.1",
                       "--port", port, "--no-ui"], port):  # fmt: skip
        theirs = [their_answer(port, ids) for ids, _ in answers]
        their_greedy = [their_tokens(port, answers[at][0]) for at in wanted]
    model = Reference(path)
    errors, decided, same = [[], []], 0, 0
    for (ids, ours), peers in zip(answers, theirs, strict=True):
        exact = centred(model.logits(ids))
        sides = [centred(ours), centred(peers)]
        for found, side in zip(errors, sides, strict=True):
            found.append(np.linalg.norm(side - exact) / np.linalg.norm(exact))
        second, first = np.sort(exact)[-2:]
        if first - second > sum(np.abs(side - exact).max() for side in sides):
            decided += 1
            same += all(side.argmax() == exact.argmax() for side in sides)
    greedy = [
        right(model, answers[at][0], a, b) for at, a, b in zip(wanted, our_greedy, their_greedy, strict=True)
    ]
    return Row(name, np.array(errors[0]), np.array(errors[1]), decided, same, greedy)


def right(model: "Reference", prompt: list[int], ours: list[int], theirs: list[int]) -> str:
    """Which side's token is the most likely where they first differ."""
    if ours == theirs:
        return "same"
    at = next((n for n, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    best = int(model.logits(prompt + ours[:at]).argmax())
    return "ours" if ours[at : at + 1] == [best] else "theirs"


def centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean()


def post(port: int, route: str, body: dict) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{route}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def filled(pairs) -> np.ndarray:
    """Log-probabilities by token id; every token must be there."""
    values = np.full(VOCABULARY, np.nan)
    for token, logprob in pairs:
        values[token] = logprob
    if np.isnan(values).any():
        raise RuntimeError(f"{int(np.isnan(values).sum())} tokens have no log-probability")
    return values


def our_answer(port: int, text: str) -> tuple[list[int], np.ndarray]:
    parameters = {"max_new_tokens": 1, "details": True, "decoder_input_details": True, "top_n_tokens": VOCABULARY}
    details = post(port, "/generate", {"inputs": text, "parameters": parameters})["details"]
    pairs = ((token["id"], token["logprob"]) for token in details["top_tokens"][0])
    return [token["id"] for token in details["prefill"]], filled(pairs)


def our_tokens(port: int, text: str) -> list[int]:
    body = {"inputs": text, "parameters": {"max_new_tokens": GREEDY_TOKENS, "details": True}}
    return [token["id"] for token in post(port, "/generate", body)["details"]["tokens"]]


def their_answer(port: int, ids: list[int]) -> np.ndarray:
    body = {"prompt": ids, "n_predict": 1, "n_probs": VOCABULARY, "temperature": 0.0}
    place = post(port, "/completion", body)["completion_probabilities"][0]
    return filled((token["id"], token["logprob"]) for token in place["top_logprobs"])


def their_tokens(port: int, ids: list[int]) -> list[int]:
    body = {"prompt": ids, "n_predict": GREEDY_TOKENS, "temperature": 0.0, "return_tokens": True}
    return post(port, "/completion", body)["tokens"]


class Reference:
    """A Llama in f64 on dequantized weights, as the GGUF file has them: rotation of neighbouring pairs, tied head."""

    def __init__(self, path: Path):
        reader = gguf.GGUFReader(path)
        field = lambda name: reader.get_field(f"llama.{name}").contents()  # noqa: E731
        self.weights = {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
            for tensor in reader.tensors
        }
        self.layers, self.heads, self.kv_heads = (
            field("block_count"),
            field("attention.head_count"),
            field("attention.head_count_kv"),
        )
        self.epsilon, self.base = field("attention.layer_norm_rms_epsilon"), field("rope.freq_base")

    def logits(self, ids: list[int]) -> np.ndarray:
        """f64 `[vocabulary]` after the last of `ids`."""
        w = self.weights
        x = w["token_embd.weight"][ids]
        for layer in range(self.layers):
            part = lambda name, layer=layer: w[f"blk.{layer}.{name}.weight"]  # noqa: E731
            h = self.norm(x, part("attn_norm"))
            q, k, v = (
                (h @ part(f"attn_{name}").T).reshape(len(ids), heads, -1)
                for name, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads))
            )
            q, k = self.rotated(q), self.rotated(k)
            k, v = (np.repeat(a, self.heads // self.kv_heads, axis=1) for a in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
            scores += np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            x = x + np.einsum("hqk,khd->qhd", weights, v).reshape(len(ids), -1) @ part("attn_output").T
            h = self.norm(x, part("ffn_norm"))
            gate = h @ part("ffn_gate").T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ part("ffn_up").T)) @ part("ffn_down").T
        return w["token_embd.weight"] @ self.norm(x[-1], w["output_norm.weight"])

    def norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.epsilon) * weight

    def rotated(self, x: np.ndarray) -> np.ndarray:
        """`x`: `[tokens, heads, size]`."""
        size = x.shape[-1]
        angles = np.outer(np.arange(len(x)), self.base ** (-np.arange(0, size, 2) / size))[:, None, :]
        even, odd = x[..., 0::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., 0::2] = even * np.cos(angles) - odd * np.sin(angles)
        out[..., 1::2] = even * np.sin(angles) + odd * np.cos(angles)
        return out


if __name__ == "__main__":
    sys.exit(main())
