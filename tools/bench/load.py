"""Closed-loop streaming load on /generate_stream: N clients, each sending its next request when the last one ended.

    load.py --url http://127.0.0.1:3000 --concurrency 16 --requests 64 --prompt-tokens 128 --output-tokens 64

Every prompt differs, so that the prefix cache cannot help; `truncate` makes it exactly as long as asked, and the
end-of-sequence token is ignored, so that every answer has exactly the tokens asked for. Prints one JSON object; times
are seconds seen by the client.
"""

import argparse
import asyncio
import json
import random
import sys
from itertools import pairwise
from pathlib import Path
from statistics import quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "integration-tests"))

from harness import load  # noqa: E402

WORDS = "river stone lamp winter garden ladder music harbour pencil thunder window basket copper meadow signal".split()


def prompt(seed: int, tokens: int) -> str:
    """Random text of at least `tokens` tokens; only its last `tokens` are used."""
    generator = random.Random(seed)
    return " ".join(f"{generator.choice(WORDS)} {generator.randrange(1000)}" for _ in range(tokens))


def body(seed: int, arguments: argparse.Namespace) -> dict:
    parameters = {
        "max_new_tokens": arguments.output_tokens,
        "truncate": arguments.prompt_tokens,
        "do_sample": False,
        "ignore_eos": True,
    }
    if arguments.adapters:
        parameters["adapter_id"] = arguments.adapters[seed % len(arguments.adapters)]
    return {"inputs": prompt(seed, arguments.prompt_tokens), "parameters": parameters}


async def run(arguments: argparse.Namespace) -> list[load.Stream]:
    seeds = iter(range(arguments.seed, arguments.seed + arguments.requests))
    records = []

    async def client(http):
        for seed in seeds:
            record = await load.stream(http, f"{arguments.url}/generate_stream", body(seed, arguments))
            if (
                record.status != 200
                or record.broken
                or record.error
                or len(record.event_times) != arguments.output_tokens
            ):
                raise SystemExit(
                    f"request {seed} failed: {record.status} {record.body} {record.broken} {record.error}, "
                    f"{len(record.event_times)} of {arguments.output_tokens} tokens"
                )
            records.append(record)

    async with load.session() as http:
        await asyncio.gather(*(client(http) for _ in range(arguments.concurrency)))
    return records


def percentiles(values: list[float]) -> dict[str, float]:
    cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
    return {"p50": round(cuts[49], 5), "p99": round(cuts[98], 5)}


def decode_rate(records: list[load.Stream]) -> float:
    """Tokens a second while every request was decoding: from the last first token to the first last token."""
    begin = max(record.event_times[0] for record in records)
    end = min(record.event_times[-1] for record in records)
    tokens = sum(begin < time <= end for record in records for time in record.event_times)
    return tokens / (end - begin)


def summary(records: list[load.Stream], arguments: argparse.Namespace) -> dict:
    begin = min(record.sent_at for record in records)
    end = max(record.ended_at for record in records)
    gaps = [later - sooner for r in records for sooner, later in pairwise(r.event_times)]
    result = {
        "concurrency": arguments.concurrency,
        "requests": len(records),
        "prompt_tokens": arguments.prompt_tokens,
        "output_tokens": arguments.output_tokens,
        "seconds": round(end - begin, 4),
        "output_tokens_per_s": round(sum(len(record.event_times) for record in records) / (end - begin), 2),
        "ttft_s": percentiles([record.event_times[0] - record.sent_at for record in records]),
        "itl_s": percentiles(gaps),
    }
    if len(records) == arguments.concurrency:
        result["decode_tokens_per_s"] = round(decode_rate(records), 2)
    return result


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--requests", type=int, help="in all; default: one per client")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt")
    parser.add_argument("--adapters", type=lambda names: names.split(","), help="names; each request has the next one")
    arguments = parser.parse_args()
    arguments.requests = arguments.requests or arguments.concurrency
    return arguments


if __name__ == "__main__":
    arguments = parse_arguments()
    print(json.dumps(summary(asyncio.run(run(arguments)), arguments)))
