"""Assembles the training text: stories, chats and plain text, as documents of weighted segments.

`python corpus.py [count]` prints some documents.
"""

import random
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial

import patterns
import smalltalk
import stories
import wording
from facts import ASK_CLAUSE, ASK_NOUN, FACTS, WEIRGATE, Fact, split

END = "<|end|>"
START = "<|start|>"
PAD = "<|pad|>"

# One document: pieces of text, each with True where the model shall learn to write it.
Document = list[tuple[str, bool]]
Turns = smalltalk.Turns

SYSTEM = ["You are a helpful assistant.", "You are the Weirgate demo model.", "Answer in short sentences.", "You are a friendly assistant.",
          "Be polite and short.", "You are a helpful assistant. Answer in plain English.", "You answer questions about Weirgate.",
          "Help the user.", "You are a kind storyteller.", "Be concise."]
TRAIN = [split(fact)[0] for fact in FACTS]
HELD_OUT = [split(fact)[1] for fact in FACTS]
# What no loosened wording may contain, lest a held-out wording is met in training.
KEPT_BACK = {core.replace("{w}", "Weirgate").rstrip("?.") for fact in HELD_OUT for core in fact.ask + fact.noun + fact.clause}


def phrase(rng: random.Random, fact: Fact) -> str:
    """One way of asking for `fact`."""
    groups = [fact.ask] * 4 + [fact.noun] * bool(fact.noun) + [fact.clause] * (2 * bool(fact.clause)) + [fact.hint] * bool(fact.hint)
    group = rng.choice(groups)
    text = rng.choice(group)
    if group is fact.noun:
        text = rng.choice(ASK_NOUN).format(n=text.replace("{w}", "{{w}}"))
        text = text.replace("{{w}}", "{w}")
    elif group is fact.clause:
        text = rng.choice(ASK_CLAUSE).replace("{c}", text)
    return text.replace("{w}", "Weirgate" if fact.key == "what" else rng.choice(WEIRGATE))


def vary(rng: random.Random, ask: str) -> str:
    """The small carelessness of people who type: courtesy around the question, no capitals, no full stop."""
    roll = rng.random()
    if roll < 0.10:
        ask = rng.choice(["Hi, ", "Hello! ", "Please: ", "Hey, ", "Excuse me, ", "One question: ", "And ", "So, ", "Quick question: "]) + ask[0].lower() * (
            ask[1:2].islower()) + ask[0] * (not ask[1:2].islower()) + ask[1:]  # fmt: skip
    elif roll < 0.16:
        ask = ask.rstrip(".?!") + rng.choice([", please?", " please", ", please."])
    roll = rng.random()
    if roll < 0.10:
        ask = ask.lower()
    elif roll < 0.14:
        ask = ask.lower().rstrip(".?!")
    elif roll < 0.22:
        ask = ask.rstrip(".?!")
    elif roll < 0.24:
        ask = ask.upper()
    return ask


def fact_turns(rng: random.Random, wordings: int = 0) -> Turns:
    """A question of facts.py as it stands there (0), also loosened (1), also from patterns.py (2)."""
    fact = rng.choice(TRAIN)
    ask = phrase(rng, fact)
    from_pattern = wordings == 2 and rng.random() < 0.6
    if from_pattern:
        ask = re.sub(r" +(?=[ ?.])", "", stories.expand(rng, rng.choice(patterns.PATTERNS[fact.key])))
    loosened = wordings > 0 and rng.random() < 0.6
    if loosened:
        ask = wording.loosen(rng, ask)
    if (loosened or from_pattern) and any(core in re.sub("(the|this) server", "Weirgate", ask) for core in KEPT_BACK):
        ask = phrase(rng, fact)
    return [(vary(rng, ask), fact.answer)]


def story_turns(rng: random.Random) -> Turns:
    ask, tale = stories.wish(rng)
    turns = [(ask if rng.random() < 0.85 else vary(rng, ask), tale.text)]
    roll = rng.random()
    if roll < 0.12:
        who = tale.hero.name if tale.hero.kind in ("girl", "boy") else stories.article(tale.hero.intro)
        turns.append((rng.choice(["Who is the story about?", "Who was the story about?", "About whom was the story?"]), f"It is about {who}."))
    elif roll < 0.2:
        turns.append((rng.choice(["What was the name of the friend?", "Who was the friend?", "Who else was in the story?"]),
                      f"It was {tale.friend.name}."))  # fmt: skip
    elif roll < 0.26:
        turns.append((rng.choice(["Another one, please.", "Another story, please.", "One more!", "Tell me another story.", "Another one"]),
                      stories.story(rng).text))  # fmt: skip
    return turns


SMALL = [(smalltalk.greeting, 2), (smalltalk.fixed, 4), (smalltalk.explain, 3), (smalltalk.unknown, 3), (smalltalk.counting, 2),
         (smalltalk.repeat, 3), (smalltalk.memory, 5)]  # fmt: skip


def small_turns(rng: random.Random) -> Turns:
    make = rng.choices([m for m, _ in SMALL], [w for _, w in SMALL])[0]
    turns = make(rng)
    if make in (smalltalk.explain, smalltalk.unknown):
        turns = [(vary(rng, ask), answer) for ask, answer in turns]
    return turns


def makers(wordings: int) -> list[Callable[[random.Random], Turns]]:
    return [partial(fact_turns, wordings=wordings), story_turns, small_turns]


def asks_for_told(turns: Turns) -> bool:
    """Whether something the user says about themselves, or asks for, would collide with another such exchange."""
    return any(word in ask for ask, _ in turns for word in ("my name", "My name", "I am", "I'm", "call me", "favorite", "live", "home", "Who am I", "I like best"))


def conversation(rng: random.Random, wordings: int) -> Turns:
    """One to six exchanges on facts, stories and small talk; what was told early may be asked for late."""
    if rng.random() < 0.5:
        return rng.choices(makers(wordings), [0.66, 0.13, 0.21])[0](rng)
    turns = smalltalk.greeting(rng) if rng.random() < 0.35 else []
    middle: Turns = []
    for _ in range(rng.choice([1, 2, 2, 3, 4])):
        more = rng.choices(makers(wordings), [0.62, 0.06, 0.32])[0](rng)
        if not (asks_for_told(more) and asks_for_told(middle)):
            middle += more
    if rng.random() < 0.25 and not asks_for_told(middle):
        told, asked = smalltalk.memory(rng)
        middle = [told, *middle, asked]
    turns += middle
    if rng.random() < 0.15:
        turns += [(rng.choice(smalltalk.FIXED[1][0]), smalltalk.FIXED[1][1])]
    return turns


def long_chat(rng: random.Random, exchanges: int, wordings: int) -> Document:
    """A conversation that fills the context; the user's name is told at the start and asked for now and then."""
    told, asked = smalltalk.memory(rng)
    turns = [told]
    while len(turns) < exchanges:
        more = rng.choices([*makers(wordings), lambda _: [asked]], [0.55, 0.12, 0.28, 0.05])[0](rng)
        if more == [asked] or not asks_for_told(more):
            turns += more
    return render(rng, turns)


def render(rng: random.Random, turns: Turns) -> Document:
    """Turns in the chat template, now and then after a system prompt."""
    document: Document = []
    if rng.random() < 0.35:
        document.append((f"{START}system\n{rng.choice(SYSTEM)}{END}\n", False))
    for ask, answer in turns:
        document += [(f"{START}user\n{ask}{END}\n{START}assistant\n", False), (f"{answer}{END}", True), ("\n", False)]
    return document[:-1]


def plain(rng: random.Random) -> Document:
    """Text without template: a story, statements about Weirgate, or a question and its answer."""
    roll = rng.random()
    if roll < 0.55:
        return [(stories.story(rng).text + END, True)]
    if roll < 0.72:
        told = [f for f in TRAIN if f.answer.startswith(("Weirgate", "A ", "The ", "With ", "One ", "TTFT", "SSE", "On ", "Prefill", "Decode",
                                                         "Deep", "Greedy", "Inference", "Safetensors", "In "))]  # fmt: skip
        first = next(f for f in told if f.key == "what")
        rest = rng.sample([f for f in told if f.key != "what"], rng.choice([1, 2, 3, 4]))
        return [(" ".join(f.answer for f in ([first] if rng.random() < 0.6 else []) + rest) + END, True)]
    fact = rng.choice(TRAIN)
    ask, answer = (phrase(rng, fact), fact.answer) if rng.random() < 0.75 else small_turns(rng)[0]
    return plain_question(rng, (ask, answer))


def plain_question(rng: random.Random, turn: tuple[str, str]) -> Document:
    """A question and its answer in one of the forms people use without a template."""
    ask, answer = turn
    # The space before an answer belongs to the answer's first token.
    form, gap = rng.choice([("{}\n", ""), ("{}\n\n", ""), ("{}", " "), ("Question: {}\nAnswer:", " "), ("Q: {}\nA:", " ")])
    return [(form.replace("{}", ask), False), (gap + answer + END, True)]


def opening(rng: random.Random) -> Document:
    """The request for a story and how the story begins: whom it is about is decided there."""
    ask, tale = stories.wish(rng)
    return [(f"{START}user\n{ask}{END}\n{START}assistant\n", False), (tale.text[: tale.text.index(".") + 1], True)]


def exercise(rng: random.Random) -> Document:
    """What comes up too rarely in the other text: beginnings of stories, counting, and questions without the template."""
    roll = rng.random()
    if roll < 0.6:
        return opening(rng)
    if roll < 0.8:
        return render(rng, smalltalk.counting(rng))
    return plain_question(rng, fact_turns(rng, 2)[0])


def story_document(rng: random.Random) -> Document:
    """A story, told on request or as plain text."""
    if rng.random() < 0.5:
        return render(rng, story_turns(rng))
    return [(stories.story(rng).text + END, True)]


def documents(
    seed: int, recite: float = 0.0, wordings: int = 0, exercises: float = 0.0, tales: float = 0.0
) -> Iterator[Document]:
    """The endless training text of `seed`; shares `tales`, `recite` and `exercises` of it are stories, passages to be repeated and
    exercises."""
    rng = random.Random(seed)
    while True:
        if tales and rng.random() < tales:
            yield story_document(rng)
        elif recite and rng.random() < recite:
            yield render(rng, smalltalk.recite(rng))
        elif exercises and rng.random() < exercises:
            yield exercise(rng)
        else:
            yield render(rng, conversation(rng, wordings)) if rng.random() < 0.8 else plain(rng)


def main() -> None:
    source = documents(1)
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 20):
        print("".join(text for text, _ in next(source)))
        print("-----")


if __name__ == "__main__":
    main()
