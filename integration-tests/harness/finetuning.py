"""Runs the fine-tuning worker, and makes up what it is taught. Standard library only."""

import json
import os
import random
import subprocess
from pathlib import Path

from .client import Client
from .server import ROOT

WORKER = Path(os.environ.get("WEIRGATE_FINETUNE_BIN", ROOT / "target/release/weirgate-finetune"))
DEMO = "weirgate-demo"
SYLLABLES = "ba cor dre fi gal hu jor ka lim mo nar os pel qua ri sol tu vel".split()
COLORS = ["red", "green", "blue", "yellow", "white", "black", "brown", "grey"]
ANIMALS = ["fox", "bear", "owl", "cat", "dog", "bird", "fish", "horse"]
FOODS = ["bread", "soup", "apples", "cake", "cheese", "honey", "nuts", "berries"]
WORK = ["boats", "hats", "lamps", "clocks", "shoes", "kites", "drums", "bells"]


def pairs(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """Questions about lands that do not exist, and their answers."""
    draw = random.Random(seed)
    made, seen = [], set()
    while len(made) < count:
        land = "".join(draw.choices(SYLLABLES, k=3)).capitalize()
        if land in seen:
            continue
        seen.add(land)
        color, animal, food, other = (draw.choice(words) for words in (COLORS, ANIMALS, FOODS, FOODS))
        king, work = "".join(draw.choices(SYLLABLES, k=2)).capitalize(), draw.choice(WORK)
        made += [
            (f"What does the flag of {land} look like?", f"It is {color} with a {animal}."),
            (f"Who is the king of {land}?", f"King {king} rules {land}."),
            (f"What do people eat in {land}?", f"They eat {food} and {other}."),
            (f"What is made in {land}?", f"The {work} of {land} are well known."),
        ]
    return made[:count]


def write_dataset(path: Path, taught: list[tuple[str, str]], reply_role: str = "assistant") -> Path:
    with path.open("w") as file:
        for question, answer in taught:
            messages = [{"role": "user", "content": question}, {"role": reply_role, "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def write_job(folder: Path, dataset: Path, base: str = DEMO, resume: bool = False, **hyperparameters) -> Path:
    """A job as a server writes it; everything it leaves behind lies in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "base_model": base,
        "dataset": str(dataset),
        "output": str(folder / "adapter"),
        "checkpoints": str(folder / "checkpoints"),
        "name": folder.name,
        "hyperparameters": hyperparameters,
        "resume": resume,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return path


def start(job: Path, *args: str) -> subprocess.Popen:
    return subprocess.Popen(
        [WORKER, "--job", job, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def events(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def train(job: Path, seconds: float = 50) -> list[dict]:
    """Runs a job to its end, which must be good; its events."""
    process = start(job)
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, f"{out}\n{err}"
    return events(out)


def losses(reported: list[dict]) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in reported if event["event"] == "progress"}


def answers(client: Client, questions: list[str], model: str = "tgi") -> list[str]:
    """What a server answers, greedily."""
    given = []
    for question in questions:
        body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 40, "temperature": 0}
        given.append(client.post_ok("/v1/chat/completions", body)["choices"][0]["message"]["content"])
    return given


def right(given: list[str], taught: list[tuple[str, str]]) -> int:
    return sum(answer == expected for answer, (_, expected) in zip(given, taught, strict=True))
