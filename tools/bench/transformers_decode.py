"""Prefill and greedy decode speed of a checkpoint with transformers on CPU torch, in bf16 or `--dtype`.

    transformers_decode.py FOLDER --batch 1 --batch 16 --threads 2

Prints one JSON object for each batch size and repeat. The loop is the bare one (no `generate`, no sampling, no
stopping), which is the fastest form of this reference.
"""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM


@torch.inference_mode()
def measure(model, batch: int, prompt_tokens: int, output_tokens: int) -> dict:
    generator = torch.Generator().manual_seed(batch)
    # Ids below 256 are ordinary tokens in every vocabulary measured here.
    ids = torch.randint(0, 256, (batch, prompt_tokens), generator=generator)
    started = time.perf_counter()
    step = model(ids, use_cache=True, logits_to_keep=1)
    token = step.logits[:, -1].argmax(-1, keepdim=True)
    prefilled = time.perf_counter()
    for _ in range(output_tokens - 1):
        step = model(token, past_key_values=step.past_key_values, use_cache=True)
        token = step.logits[:, -1].argmax(-1, keepdim=True)
    ended = time.perf_counter()
    return {
        "concurrency": batch,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "ttft_s": {"p50": round(prefilled - started, 5)},
        "decode_tokens_per_s": round(batch * (output_tokens - 1) / (ended - prefilled), 2),
        "output_tokens_per_s": round(batch * output_tokens / (ended - started), 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--batch", type=int, action="append", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=getattr(torch, arguments.dtype)).eval()
    measure(model, 1, 16, 4)
    for batch in (batch for batch in arguments.batch for _ in range(arguments.repeats)):
        print(json.dumps(measure(model, batch, arguments.prompt_tokens, arguments.output_tokens)), flush=True)


if __name__ == "__main__":
    main()
