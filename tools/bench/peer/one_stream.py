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
    turns = []
    for turn in range(TURNS):
        if turn % 2:
            mine = ours(pin, model)
        theirs = peer_decode(pin, model.path, (1,), TURN_OUTPUT)["decode 1"]
        if not turn % 2:
            mine = ours(pin, model)
        turns.append((mine, theirs))
    mine, theirs = sorted(turns, key=lambda turn: turn[0].tokens_per_s / turn[1])[TURNS // 2]
    share = median(mine.share for mine, _ in turns)
    return {"llama.cpp": {"decode 1": theirs}, "weirgate": {"decode 1": mine.tokens_per_s, "share": share}}
