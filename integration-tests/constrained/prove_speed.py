"""How fast constrained output is beside free output of the same model. Prints Markdown.

    prove_speed.py [--runs 9] [--model-id FOLDER]

One request at a time, free and constrained in turns. Where the grammar leaves one text only, its tokens are taken without
being drawn, several at once: so there are fewer engine steps than tokens, which the server's own counter says.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import metrics  # noqa: E402
from harness.client import Client  # noqa: E402
from harness.server import DEMO_MODEL, Server  # noqa: E402

NAMES = ["customer_identifier", "shipping_country", "is_returning_customer", "payment_method", "delivery_priority"]
ITEM = {
    "type": "object",
    "properties": {
        NAMES[0]: {"type": "integer", "minimum": 0, "maximum": 999},
        NAMES[1]: {"enum": ["Norway", "Peru", "Italy"]},
        NAMES[2]: {"type": "boolean"},
        NAMES[3]: {"enum": ["card", "invoice"]},
        NAMES[4]: {"enum": ["low", "normal", "high"]},
    },
    "required": NAMES,
    "additionalProperties": False,
}
TEXT = {"type": "object", "properties": {"text": {"type": "string", "minLength": 2000}}, "required": ["text"]}
GRAMMARS = {
    "free text": None,
    "JSON of a schema with fixed names": {"type": "array", "items": ITEM, "minItems": 20, "maxItems": 20},
    "JSON of a schema with one long string": TEXT | {"additionalProperties": False},
}
TOKENS = 200


@dataclass
class Sample:
    """One generation: its tokens, the engine's steps for them, and seconds."""

    tokens: int
    steps: float
    seconds: float


def steps(client: Client) -> float:
    return metrics.total(metrics.parse(client.get("/metrics").text), "tgi_batch_inference_count")


def generate(client: Client, number: int, schema: dict | None) -> Sample:
    parameters = {"max_new_tokens": TOKENS, "temperature": 1.0, "seed": number, "details": True}
    if schema is None:
        parameters["ignore_eos"] = True
    else:
        parameters["grammar"] = {"type": "json", "value": schema}
    before, begun = steps(client), time.perf_counter()
    answer = client.post_ok("/generate", {"inputs": f"{number} once upon a time", "parameters": parameters})
    seconds = time.perf_counter() - begun
    return Sample(answer["details"]["generated_tokens"], steps(client) - before, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--model-id", default=str(DEMO_MODEL))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        server = Server(Path(temporary) / "log", "--model-id", options.model_id)
        try:
            server.start()
            client = Client(server.port, timeout=120)
            samples: dict[str, list[Sample]] = {name: [] for name in GRAMMARS}
            # The first round warms up, and compiles the grammars.
            for number in range(options.runs + 1):
                for name, schema in GRAMMARS.items():
                    sample = generate(client, number, schema)
                    if number:
                        samples[name].append(sample)
            server.stop()
        finally:
            server.kill()
    name = "the demo model" if options.model_id == str(DEMO_MODEL) else Path(options.model_id).name
    print(
        f"{TOKENS} tokens of {name}, one request at a time, medians of {options.runs} runs in turns;"
        " the grammars are compiled already.\n"
    )
    print("| | tokens per second | tokens per engine step | beside free text |\n|---|---:|---:|---:|")
    free = None
    for name, runs in samples.items():
        speed = median(sample.tokens / sample.seconds for sample in runs)
        free = free or speed
        share = median(sample.tokens / sample.steps for sample in runs)
        print(f"| {name} | {speed:.0f} | {share:.2f} | {speed / free:.2f} × |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
