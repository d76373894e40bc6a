"""The README's examples: what is run and what it must print.

A block is run when the line before its ```sh fence is `<!-- test -->` or `<!-- test: contains -->`; the fenced block
that follows it (```text or ```json) is what it prints. `contains` asks only that each of its lines occurs in it.
"""

import re
from dataclasses import dataclass

EXAMPLE = re.compile(
    r"^<!-- test(?P<contains>: contains)? -->\n"
    r"```sh\n(?P<command>.*?)^```\n+"
    r"```(?:text|json)\n(?P<expected>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
MARK = re.compile(r"^<!-- test.*-->$", re.MULTILINE)


@dataclass
class Example:
    command: str
    expected: str
    contains: bool

    @property
    def name(self) -> str:
        return next((word for word in self.command.split() if "://" in word), self.command.split()[0])

    def check(self, output: str):
        if self.contains:
            missing = [line for line in self.expected.splitlines() if normal(line) not in normal(output)]
            assert not missing, f"{self.command}\nprinted\n{output}\nwithout {missing}"
        else:
            assert normal(output) == normal(self.expected), self.command


def normal(text: str) -> str:
    return " ".join(text.split())


def examples(markdown: str) -> list[Example]:
    found = [
        Example(match["command"], match["expected"], match["contains"] is not None)
        for match in EXAMPLE.finditer(markdown)
    ]
    assert len(found) == len(MARK.findall(markdown)), "a marked block is not followed by its expected output"
    return found
