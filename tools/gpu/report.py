"""From what the steps found to the table of figures."""

from dataclasses import dataclass

import model

NOT_MEASURED = "not measured"
NO_ROOFLINE = "–"


@dataclass(frozen=True)
class Figure:
    figure: str
    at_least: str
    found: str
    # What the ceilings of the same run allow: the roofline.
    at_best: str
    # `None`: not measured, nothing to reach, or a dry run.
    passed: bool | None


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"


def figures(found: dict, shape: model.Shape, dry: bool) -> list[Figure]:
    """Fractions of the ceilings that torch reached in the same run. Floors are those of a GPU."""
    chip = found.get("ceilings", {})
    copy, matmul = chip.get("copy_bytes_per_s"), chip.get("matmul_flops")
    rows = []

    def add(name: str, floor: str, value: tuple[str, bool | None] | None, at_best: str | None = None):
        text, passed = value or (NOT_MEASURED, None)
        rows.append(Figure(name, floor, text, at_best or NO_ROOFLINE, None if dry else passed))

    def of(step: str):
        """What a step measured, where there is a ceiling to compare it with."""
        return found[step] if copy and matmul and step in found and not {"error", "skipped"} & set(found[step]) else None

    def read(bits: float, decode: dict) -> float:
        """Bytes that a decode step reads."""
        return shape.decode_weights() * bits / 8 + decode["context"] * shape.kv_bytes_per_token()

    decode, quantized, prefill, batch, serve = map(of, ["decode", "decode_4bit", "prefill", "batch", "serve"])
    ops, deterministic = of("speed") or {}, of("deterministic")
    add("decode, batch 1, bf16, 1k context", "85 % of copy bandwidth",
        decode and at_least(0.85, read(16, decode) / decode["step_s"], copy, f" ({milliseconds(decode['step_s'])})"),
        decode and milliseconds(read(16, decode) / copy))
    add("decode, batch 1, 4-bit weights", "65 % of copy bandwidth, 2.5 × bf16's tokens/s",
        quantized and four_bits(quantized, decode, read(4.5, quantized) / quantized["step_s"], copy),
        quantized and milliseconds(read(4.5, quantized) / copy))
    alone = ops.get("attention_decode")
    add("paged decode attention alone (batch 64, 4k context)", "85 % of copy bandwidth",
        alone and at_least(0.85, alone["bytes"] / alone["seconds"], copy, f" ({milliseconds(alone['seconds'])})"),
        alone and milliseconds(alone["bytes"] / copy))
    alone = ops.get("attention_prefill")
    add("prefill attention alone (8k, causal)", "60 % of the matmul ceiling",
        alone and at_least(0.60, alone["operations"] / alone["seconds"], matmul, f" ({milliseconds(alone['seconds'])})"),
        alone and milliseconds(alone["operations"] / matmul))
    add("whole prefill, 8k prompt", "65 % of the matmul ceiling",
        prefill and at_least(0.65, shape.prefill_operations(prefill["tokens"]) / prefill["seconds"], matmul,
                             f" ({milliseconds(prefill['seconds'])})"),
        prefill and milliseconds(shape.prefill_operations(prefill["tokens"]) / matmul))
    add("host time that the GPU waits for, batch 256", "≤ 3 % of the step",
        batch and (f"{percent(batch['host_s'], batch['step_s'])} of {milliseconds(batch['step_s'])}",
                   batch["host_s"] <= 0.03 * batch["step_s"]))
    add("server, 256 concurrent, 1k in / 512 out, HTTP", "4 × transformers' continuous batching",
        serve and against(found.get("peer", {}), serve))
    add("the same, of what the engine's step times predict", "85 %",
        serve and batch and at_least(0.85, serve["output_tokens_per_s"], predicted(serve, batch)),
        serve and batch and f"{predicted(serve, batch):.0f} tokens/s")
    add("start to ready, 16 GB of safetensors in page cache", "≤ 10 s",
        serve and (f"{serve['ready_s']:.1f} s", serve["ready_s"] <= 10))
    add("cost of `--deterministic`, batch 1, 1k prompt", "to be told",
        deterministic and decode and (cost(deterministic, decode), None))
    return rows


def at_least(floor: float, part: float, whole: float, more: str = "") -> tuple[str, bool]:
    return percent(part, whole) + more, part >= floor * whole


def predicted(served: dict, batch: dict) -> float:
    """Tokens per second, if prompts are computed together and then all decode steps."""
    seconds = batch["prefill_s"] + (served["output"] - 1) * batch["step_s"]
    return batch["batch"] * served["output"] / seconds


def cost(deterministic: dict, plain: dict) -> str:
    prompt, step = (deterministic[name] / plain[name] for name in ("prefill_s", "step_s"))
    return f"prompts {prompt:.2f} ×, decode steps {step:.2f} × as long"


def four_bits(quantized: dict, plain: dict | None, rate: float, copy: float) -> tuple[str, bool | None]:
    share, enough = at_least(0.65, rate, copy)
    time = f" ({milliseconds(quantized['step_s'])})"
    if not plain:
        return f"{share}, bf16 not measured{time}", None if enough else False
    faster = plain["step_s"] / quantized["step_s"]
    return f"{share}, {faster:.1f} × bf16's{time}", enough and faster >= 2.5


def against(peer: dict, ours: dict) -> tuple[str, bool | None]:
    rate = ours["output_tokens_per_s"]
    text = f"{rate:.0f} tokens/s"
    for name, least in (("output_tokens_per_s", ""), ("output_tokens_per_s_below", "more than ")):
        if name in peer:
            return f"{text}, {least}{rate / peer[name]:.1f} ×", rate >= 4 * peer[name]
    return f"{text}, peer not measured", None


def table(head: list[str], rows: list) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def outcome(result: dict) -> str:
    if "error" in result:
        return "FAILED: " + result["error"].strip().splitlines()[-1][:200].replace("|", "/")
    return result.get("skipped") or ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in result.items()
        if not isinstance(value, dict) and name != "took_s"
    )


def markdown(result: dict) -> str:
    """Of the JSON that `check.py` writes."""
    found = result["steps"]
    facts = [(name, value) for name, value in result.items() if name not in ("figures", "steps")]
    words = {True: "yes", False: "NO", None: "–"}
    columns = ("figure", "at_least", "found", "at_best")
    figures = [(*(row[name] for name in columns), words[row["passed"]]) for row in result["figures"]]
    steps = [(name, f"{step['took_s']:.0f} s", outcome(step)) for name, step in found.items()]
    speed = {name: row for name, row in found.get("speed", {}).items() if isinstance(row, dict)}
    ops = [
        (name, f"{row['seconds'] * 1e6:.1f} µs", f"{row['bytes'] / row['seconds'] / 1e9:.0f} GB/s",
         f"{row['operations'] / row['seconds'] / 1e12:.1f} TFLOP/s")
        for name, row in speed.items()
    ]
    return "\n".join(
        [
            "# On a GPU\n", table(["", ""], facts),
            "## Figures\n", table(["figure", "at least", "found", "at the ceiling", "reached"], figures),
            "## Steps\n", table(["step", "took", "result"], steps),
            "## Ops alone\n", table(["op", "median", "bytes", "operations"], ops),
        ]
    )
