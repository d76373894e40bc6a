"""Reads of a Dockerfile what a container engine needs to start a container: environment, entry point, command."""

import json
import shlex
from dataclasses import dataclass, field


@dataclass
class Image:
    base: str
    env: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)

    def start(self, arguments: list[str]) -> list[str]:
        """What is run for `docker run IMAGE ARGUMENTS...`."""
        return self.entrypoint + (arguments or self.command)


def read(text: str) -> dict[str, Image]:
    """The stages by name; each has what it takes from the stages below."""
    images: dict[str, Image] = {}
    current = None
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            below = images.get(base, Image(base))
            current = Image(base, dict(below.env), below.entrypoint, below.command, list(below.runs))
            images[name] = current
        elif word == "ENV":
            current.env |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "ENTRYPOINT":
            current.entrypoint = json.loads(rest)
        elif word == "CMD":
            current.command = json.loads(rest)
        elif word == "RUN":
            current.runs.append(rest.split("  ")[-1].strip())
    return images
