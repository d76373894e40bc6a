"""From what the steps found to the table of figures."""

import model


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"


def figures(found: dict, shape: model.Shape) -> list[tuple[str, str, str]]:
    """`(figure, at least, found)`: fractions of the ceilings that torch reached in the same run."""
    chip = found.get("ceilings", {})
    copy, matmul = chip.get("copy_bytes_per_s"), chip.get("matmul_flops")
    rows = []

    def add(name: str, floor: str, step: str, value):
        rows.append((name, floor, value(found[step]) if measured(found, step, copy) else "not measured"))

    def weights(bits: float, decode: dict) -> float:
        return shape.decode_weights() * bits / 8 + decode["context"] * shape.kv_bytes_per_token()

    add("decode, batch 1, bf16, 1k context", "85 % of copy bandwidth", "decode",
        lambda d: f"{share(weights(16, d) / d['step_s'], copy)} ({d['step_s'] * 1e3:.2f} ms)")
    add("decode, batch 1, 4-bit weights", "65 % of copy bandwidth, 2.5 × bf16's tokens/s", "decode_4bit",
        lambda d: f"{share(weights(4.5, d) / d['step_s'], copy)}, {faster(found, d)} ({d['step_s'] * 1e3:.2f} ms)")
    op = found.get("speed", {})
    decode, prefill = op.get("attention_decode"), op.get("attention_prefill")
    rows.append(("paged decode attention alone (batch 64, 4k context)", "85 % of copy bandwidth",
                 share(decode["bytes"] / decode["seconds"], copy) if decode and copy else "not measured"))
    rows.append(("prefill attention alone (8k, causal)", "60 % of the matmul ceiling",
                 share(prefill["operations"] / prefill["seconds"], matmul) if prefill and matmul else "not measured"))
    add("whole prefill, 8k prompt", "65 % of the matmul ceiling", "prefill",
        lambda p: f"{share(shape.prefill_operations(p['tokens']) / p['seconds'], matmul)} ({p['seconds']:.3f} s)")
    add("host time that the GPU waits for, batch 256", "≤ 3 % of the step", "batch",
        lambda b: f"{share(b['host_s'], b['step_s'])} of {b['step_s'] * 1e3:.2f} ms")
    add("server, 256 concurrent, 1k in / 512 out, HTTP", "4 × transformers' continuous batching", "serve",
        lambda s: f"{s['output_tokens_per_s']:.0f} tokens/s{against(found.get('peer', {}), s)}")
    add("the same, of what the engine's step times predict", "85 %", "serve",
        lambda s: predicted(s, found["batch"]) if measured(found, "batch", copy) else "not measured")
    add("start to ready, 16 GB of safetensors in page cache", "≤ 10 s", "serve", lambda s: f"{s['ready_s']:.1f} s")
    add("cost of `--deterministic`, batch 1, 1k prompt", "to be told", "deterministic",
        lambda d: cost(d, found["decode"]) if measured(found, "decode", copy) else "not measured")
    return rows


def predicted(served: dict, batch: dict) -> str:
    """Tokens per second as the server gave them, of those of prompts computed together and then all decode steps."""
    seconds = batch["prefill_s"] + (served["output"] - 1) * batch["step_s"]
    return share(served["output_tokens_per_s"], batch["batch"] * served["output"] / seconds)


def cost(deterministic: dict, plain: dict) -> str:
    prompt, step = (deterministic[name] / plain[name] for name in ("prefill_s", "step_s"))
    return f"prompts {prompt:.2f} ×, decode steps {step:.2f} × as long"


def measured(found: dict, step: str, ceiling) -> bool:
    return bool(ceiling) and isinstance(found.get(step), dict) and "error" not in found[step]


def faster(found: dict, quantized: dict) -> str:
    step = found.get("decode", {}).get("step_s")
    return f"{step / quantized['step_s']:.1f} × bf16's" if step else "bf16 not measured"


def against(peer: dict, ours: dict) -> str:
    if "output_tokens_per_s" in peer:
        return f", {ours['output_tokens_per_s'] / peer['output_tokens_per_s']:.1f} ×"
    if "output_tokens_per_s_below" in peer:
        return f", more than {ours['output_tokens_per_s'] / peer['output_tokens_per_s_below']:.1f} ×"
    return ", peer not measured"


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


def markdown(result: dict, shape: model.Shape) -> str:
    found = result["steps"]
    facts = [(name, value) for name, value in result.items() if name != "steps"]
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
            "## Figures\n", table(["figure", "at least", "found"], figures(found, shape)),
            "## Steps\n", table(["step", "took", "result"], steps),
            "## Ops alone\n", table(["op", "median", "bytes", "operations"], ops),
        ]
    )
