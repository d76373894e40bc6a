"""Tokens per second of transformers' continuous batching on a checkpoint. Prints one JSON object.

    peer.py FOLDER --requests 256 --prompt-tokens 1024 --output-tokens 512
"""

import argparse
import json
import random
import time


def load(folder: str):
    """The fastest paged attention that this installation has."""
    import torch
    from transformers import AutoModelForCausalLM

    errors = []
    for attention in ("flash_attention_3", "flash_attention_2", "paged|sdpa", "sdpa"):
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.bfloat16, device_map="cuda", attn_implementation=attention
            )
            return model.eval(), attention
        except (ImportError, ValueError, KeyError) as error:
            errors.append(f"{attention}: {error}")
    raise SystemExit("\n".join(errors))


def generate(model, prompts: list[list[int]], output_tokens: int) -> tuple[int, float]:
    """Tokens and seconds of one batch of requests."""
    from transformers import GenerationConfig

    settings = GenerationConfig(max_new_tokens=output_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    begun = time.perf_counter()
    outputs = model.generate_batch(inputs=prompts, generation_config=settings, progress_bar=False)
    taken = time.perf_counter() - begun
    return sum(len(output.generated_tokens) for output in outputs.values()), taken


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--prompt-tokens", type=int, required=True)
    parser.add_argument("--output-tokens", type=int, required=True)
    arguments = parser.parse_args()
    model, attention = load(arguments.folder)
    generator = random.Random(0)
    prompts = [
        [generator.randrange(256, 100_000) for _ in range(arguments.prompt_tokens)] for _ in range(arguments.requests)
    ]
    # What is compiled and captured at first use is not counted.
    generate(model, [prompt[:64] for prompt in prompts[:8]], 8)
    tokens, taken = generate(model, prompts, arguments.output_tokens)
    result = {"output_tokens": tokens, "seconds": taken, "output_tokens_per_s": tokens / taken}
    print(json.dumps(result | {"requests": arguments.requests, "attention": attention}))


if __name__ == "__main__":
    main()
