"""Looser wordings of a question: other words for some, small words left out. What matters in a question stays."""

import random
import re

# Words that may stand for each other in the questions of facts.py without changing what is asked.
ALIKE = [
    "route endpoint path address", "which what", "show give display", "get obtain receive", "use call", "start launch run",
    "choose pick select", "big large", "explain describe", "needed required necessary", "need require", "support offer handle",
    "answer reply response", "crashes dies fails breaks", "client user caller", "full exhausted", "write produce", "tell show",
    "server program service", "check verify test", "find see", "allowed possible permitted", "begin start", "send post submit",
    "requests calls queries", "text words output", "stop end quit", "stops ends quits", "work function", "works functions", "busy overloaded loaded",
    "covers applies governs", "private closed", "own different other", "another different", "job task role purpose", "parts components pieces",
    "kind type sort", "written programmed coded made", "limit maximum cap", "number amount count", "like enjoy", "learn know", "learned knew",
    "reach contact", "runs operates", "inside within", "speaking talking", "default standard usual", "command instruction", "meant understood",
    "good useful", "called named", "define explain", "example sample", "listen wait", "streams sends", "generates makes creates",
    "generate make create", "happens occurs", "while when", "same equal", "contain hold have", "contains holds has", "build compile", "download fetch",
]  # fmt: skip
_OTHERS = {word: [other for other in group.split() if other != word] for group in ALIKE for word in group.split()}
# Words whose loss leaves a question understandable.
SMALL = set("the a an do does did is are can could you i me please of to for with it this that my your in on at by be have has will would should".split())


def loosen(rng: random.Random, ask: str) -> str:
    """`ask` with a few words exchanged or left out."""
    words = []
    for place, piece in enumerate(ask.split(" ")):
        bare = re.sub(r"[^A-Za-z]", "", piece)
        low = bare.lower()
        if low in SMALL and place and rng.random() < 0.15:
            if not piece[-1:].isalpha() and words:
                words[-1] += re.sub(r"[A-Za-z]", "", piece)
            continue
        if low in _OTHERS and bare.isalpha() and piece.startswith(bare) and rng.random() < 0.2:
            other = rng.choice(_OTHERS[low])
            piece = piece.replace(bare, other.capitalize() if bare[0].isupper() else other)
        words.append(piece)
    if rng.random() < 0.1:
        words.insert(rng.randint(1, len(words)) if len(words) > 1 else 1, rng.choice(["actually", "exactly", "now", "here", "really", "then"]))
        words = [w.rstrip("?") if w.endswith("?") and i < len(words) - 1 else w for i, w in enumerate(words)]
    return " ".join(words)
