"""One stream on both sides, and the rate that memory is read with around ours. What these machines' memory gives changes
within minutes, since others' machines share it: so turns are short, and what is compared lies side by side."""

from dataclasses import dataclass
from statistics import median

from ceilings import sustained_read
from models import Model
from sides import Pin, our_decode, peer_decode

TURNS, TURN_OUTPUT = 5, 32


@dataclass(frozen=True)
class Ours:
    tokens_per_s: float
    bytes_per_s: float
    """All weights once a token."""
    read_per_s: float
    """Bytes: the mean of what memory was read with before and after."""

    @property
    def share(self) -> float:
        return self.bytes_per_s / self.read_per_s


def ours(pin: Pin, model: Model) -> Ours:
    before = sustained_read(pin)
    speed = our_decode(pin, model.path, (1,), TURN_OUTPUT)["decode 1"]
    return Ours(speed, speed * model.read_bytes, (before + sustained_read(pin)) / 2)


def one_stream(pin: Pin, model: Model) -> dict[str, dict[str, float]]:
    """By side: tokens per second in the turn whose ratio is the median of all turns'; ours with the median share of the
    memory's rate."""
    sides = [
        ("llama.cpp", lambda: peer_decode(pin, model.path, (1,), TURN_OUTPUT)["decode 1"]),
        ("weirgate", lambda: ours(pin, model)),
    ]
    turns = [{side: run() for side, run in sides[:: -1 if turn % 2 else 1]} for turn in range(TURNS)]
    middle = sorted(turns, key=lambda turn: turn["weirgate"].tokens_per_s / turn["llama.cpp"])[TURNS // 2]
    share = median(turn["weirgate"].share for turn in turns)
    mine = {"decode 1": middle["weirgate"].tokens_per_s, "share": share}
    return {"llama.cpp": {"decode 1": middle["llama.cpp"]}, "weirgate": mine}
