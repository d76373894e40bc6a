"""Renders every chat template with every conversation by transformers and by the binary's own template process,
compares the texts, and writes docs/evidence/templates.md. `make prove-templates`."""

import difflib
import json
import os
import socket
import struct
import subprocess
import sys

import jinja2
import transformers

import make_goldens
from make_goldens import GOLDENS, ROOT, SPECIAL_TOKENS

DIFFERENCES = json.loads((make_goldens.DATA / "differences.json").read_text())
BINARY = ROOT / "target" / "release" / "weirgate"
EVIDENCE = ROOT / "docs" / "evidence" / "templates.md"
SHOWN_LINES = 20


class TemplateProcess:
    """`weirgate template-worker`, spoken to as the server does: frames of JSON over its standard input, a socket."""

    def __init__(self, template: str):
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen([BINARY, "template-worker"], stdin=theirs, env={"TZ": os.environ.get("TZ", "")})
        self.broken = self.ask({"templates": [["default", template]], "special_tokens": list(SPECIAL_TOKENS.items())})

    def ask(self, message):
        payload = json.dumps(message).encode()
        self.socket.sendall(struct.pack("<I", len(payload)) + payload)
        (length,) = struct.unpack("<I", self.read(4))
        return json.loads(self.read(length))

    def read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise SystemExit("the template process ended")
            data += part
        return bytes(data)

    def render(self, conversation: dict) -> tuple[str | None, str]:
        reply = self.ask({key: value for key, value in conversation.items() if key != "name"})
        return reply.get("text"), reply.get("error", "")

    def close(self):
        self.socket.close()
        if self.process.wait(10) != 0:
            raise SystemExit("the template process did not end well")


def compare(name: str, theirs: dict) -> tuple[int, int, int, list[str]]:
    """Texts equal, both refused, differing on purpose, and what differs otherwise."""
    process = TemplateProcess(make_goldens.templates()[name])
    deliberate = DIFFERENCES.get(name, {"conversations": []})["conversations"]
    equal, refused, different = 0, 0, []
    for conversation in make_goldens.conversations():
        expected, reason = theirs[conversation["name"]]
        text, error = process.render(conversation)
        if conversation["name"] in deliberate:
            assert text != expected, f"{name} / {conversation['name']} differs no longer"
        elif text != expected:
            lines = difflib.unified_diff(
                (expected or f"refused: {reason}").splitlines(), (text or f"refused: {error}").splitlines(), lineterm=""
            )
            different.append(f"{name} / {conversation['name']}:\n" + "\n".join(list(lines)[2:SHOWN_LINES]))
        elif text is None:
            refused += 1
        else:
            equal += 1
    process.close()
    return equal, refused, len(deliberate), different


def evidence(rows: list[tuple[str, int, int, int]]) -> str:
    command = [ROOT / "tools" / "prove" / "header.sh", "Chat templates against transformers"]
    header = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    total = sum(equal + refused for _, equal, refused, _ in rows)
    lines = [
        header.rstrip("\n"),
        f"| transformers | {transformers.__version__}, Jinja {jinja2.__version__} |",
        "",
        f"{len(rows)} templates with {len(make_goldens.conversations())} conversations each, rendered by the binary's own"
        f" template process: {total} prompts are equal to the byte to what `apply_chat_template` returns, or both refuse;"
        f" {sum(row[3] for row in rows)} differ on purpose.",
        "",
        "| template | equal | both refuse | differ on purpose |",
        "|---|--:|--:|--:|",
        *(f"| {name} | {equal} | {refused} | {deliberate} |" for name, equal, refused, deliberate in rows),
        "",
        *(f"- {name}: {difference['why']}." for name, difference in DIFFERENCES.items()),
    ]
    return "\n".join(lines) + "\n"


def main():
    rendered = make_goldens.render_all()
    if make_goldens.digests(rendered) != json.loads(GOLDENS.read_text()):
        raise SystemExit(f"{GOLDENS.relative_to(ROOT)} is not what transformers renders; make_goldens.py writes it anew")
    rows, different = [], []
    for name, theirs in rendered.items():
        equal, refused, deliberate, differences = compare(name, theirs)
        rows.append((name, equal, refused, deliberate))
        different += differences
    if different:
        print("\n\n".join(different))
        sys.exit(f"{len(different)} prompts differ")
    EVIDENCE.write_text(evidence(rows))
    print(f"wrote {EVIDENCE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
