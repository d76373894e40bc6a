"""Asks the demo model what it was taught, greedily and in f32, and writes what came out.

    python evaluate.py            # prints the figures, writes expected.json and the figures of the model card

`expected.json` holds, for the tests of the Rust engine: `questions`, a dozen and more with the exact answers, and
`prompts`, 20 with up to 64 greedy token ids (an end-of-sequence id ends a list early). `least_margin` is the smallest
difference between the best and the second-best logit on the way: what rounding may not exceed. Prompts with a near tie
on their path are passed over.
"""

import argparse
import itertools
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import corpus
import smalltalk
import stories
from facts import ASK_CLAUSE, ASK_NOUN, FACTS

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

# Question, key of the fact, system prompt. Most of the wordings are not in the training text.
DOZEN = [
    ("Which port do you listen on?", "port", None),
    ("Which port is the default?", "port", None),
    ("Which license covers Weirgate?", "license", "You are a helpful assistant."),
    ("In which language was Weirgate written?", "language", None),
    ("In one sentence, what is Weirgate?", "what", None),
    ("Which route do I call to generate text?", "generate", None),
    ("Which path streams the text?", "generate_stream", None),
    ("Which route do I call for chat?", "chat", "You are the Weirgate demo model."),
    ("Where does Weirgate publish its metrics?", "metrics", None),
    ("What do I do to serve another model?", "serve_model", None),
    ("How do I start Weirgate?", "make_serve", None),
    ("With which command do I run the tests?", "make_test", None),
    ("How many tokens does a KV cache block contain?", "block_size", None),
    ("How many requests can be served at the same time?", "max_concurrent", None),
    ("How does Weirgate shut down?", "sigterm", None),
    ("Is it necessary to have a GPU?", "gpu", None),
    ("Who are you?", "who", None),
    ("How many parameters are in the demo model?", "size", None),
]  # fmt: skip

STORY_PROMPTS = [
    "Tell me a story about a fox.", "Write a short story about a bear.", "Tell me a story.", "Can you tell me a story about an owl?",
    "Please tell me a story about a girl named Anna.", "I would like a story about a turtle.", "Write a story about a boy named Tom.",
    "Tell me a story about a robot.", "A story about a dragon, please.", "Could you write a story about a queen?",
    "Tell me a story about a rabbit and a seed.", "Write a story about a cat who was afraid of the dark.",
    "Make up a story about a brave mouse.", "Tell me a bedtime story.", "I want to hear a story about a whale.",
]  # fmt: skip
STORY_STARTS = ["Once upon a time", "One day, a little fox", "There was once a bear", "Long ago, in a small village,", "A clever girl named Mia"]

# Plain prompts and conversations whose greedy tokens are kept: the first 10 of each whose every choice is clear enough.
KEPT_EACH, KEPT_MARGIN = 10, 0.02
KEPT_PLAIN = ["Weirgate is", "What is Deep Learning?", "Question: What is the KV cache?\nAnswer:", "Once upon a time", "There was once a bear",
              "Long ago, in a small village,", "A clever girl named Mia", "Once there was a lonely robot", "One day, a little fox",
              "There was once a brave mouse", "Once upon a time, by the sea, there lived", "Once there was a boy named Tom", "A young dragon",
              "Long ago, on a farm,", "One morning, a kind queen", "There was once a proud lion", "A little rabbit named Poppy",
              "Question: Which port does Weirgate use?\nAnswer:", "Question: What is a token?\nAnswer:", "What is a GPU?", "One day, a robot",
              "Long ago, in a dark forest,", "There was once a young wolf", "Question: What is prefill?\nAnswer:", "A wise owl named"]  # fmt: skip
KEPT_CHAT = [
    ["Which port do you listen on?"], ["What is continuous batching?"], ["Hello!", "My name is Clara.", "Which routes do you have?", "What is my name?"],
    ["Count to twelve."], ["Hi there!", "Explain the prefix cache."], ["Tell me a story about a fox."], ["Write a story about a girl named Anna."],
    ["Tell me a story about a dragon and a treasure."], ["A story about an owl, please."], ["Tell me a story about a robot."],
    ["Write a short story about a bear."], ["Tell me a story about a boy named Tom."], ["I would like a story about a turtle."],
    ["Tell me a story."], ["Hello!", "Tell me a bedtime story."], ["Tell me a story about a queen."], ["Tell me a story about a whale."],
    ["Who are you?", "What is a block table?"], ["Hi!", "Count to nine."], ["My name is Ben.", "What is my name?"], ["What is a KV cache?"],
    ["Write a story about a brave mouse."], ["Which license covers Weirgate?", "Do I need a GPU?"], ["Tell me a story about a lion."],
]  # fmt: skip


@dataclass
class Reply:
    prompt: str
    prompt_ids: list[int]
    ids: list[int]
    text: str
    ended: bool
    least_margin: float


class Model:
    def __init__(self, folder: Path):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def greedy(self, prompt: str, most: int = 64) -> Reply:
        """The most likely continuation, token by token, until end of sequence or `most` tokens."""
        prompt_ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        made = self.model.generate(torch.tensor([prompt_ids]), attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long), do_sample=False,
                                   max_new_tokens=most, output_logits=True, return_dict_in_generate=True)  # fmt: skip
        ids = made.sequences[0, len(prompt_ids) :].tolist()
        best = [logits[0].topk(2).values for logits in made.logits]
        margin = min((pair[0] - pair[1]).item() for pair in best)
        ended = ids[-1] == self.tokenizer.eos_token_id
        return Reply(prompt, prompt_ids, ids, self.tokenizer.decode(ids, skip_special_tokens=True), ended, margin)

    def template(self, messages: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def ask(self, question: str, before: list[dict[str, str]] | None = None, most: int = 96) -> Reply:
        return self.greedy(self.template([*(before or []), {"role": "user", "content": question}]), most)

    def talk(self, questions: list[str], most: int = 64) -> Reply:
        """The reply to the last question after the model's own replies to those before it."""
        messages: list[dict[str, str]] = []
        for question in questions[:-1]:
            reply = self.ask(question, messages, 400)
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply.text}]
        return self.ask(questions[-1], messages, most)


def right(reply: Reply, answer: str) -> bool:
    return reply.ended and reply.text.strip() == answer


def held_out() -> list[tuple[str, str]]:
    """Questions in wordings that training never saw, with their answers."""
    asked = []
    for fact in corpus.HELD_OUT:
        asked += [(q, fact.answer) for q in fact.ask]
        asked += [(ASK_NOUN[0].replace("{n}", n), fact.answer) for n in fact.noun]
        asked += [(ASK_CLAUSE[0].replace("{c}", c), fact.answer) for c in fact.clause]
    seen = {q for fact in corpus.TRAIN for q in [*fact.ask, *(ASK_NOUN[0].replace("{n}", n) for n in fact.noun)]}
    return [(q.replace("{w}", "Weirgate"), a) for q, a in asked if q not in seen]


def share(model: Model, asked: list[tuple[str, str]], before: list[dict[str, str]] | None = None) -> tuple[int, int]:
    good = 0
    for question, answer in asked:
        reply = model.ask(question, before)
        good += right(reply, answer)
        if not right(reply, answer):
            print(f"  wrong: {question!r} -> {reply.text!r}")
    return good, len(asked)


def lexicon() -> set[str]:
    rng = random.Random(0)
    return {w for _ in range(4000) for w in re.findall(r"[A-Za-z]+", stories.story(rng).text)}


def cast(text: str) -> set[str]:
    """Names and kinds of the beings in a text; a bird that shows the way and somebody's mother are not counted."""
    text = re.sub(r"(?:old|[Tt]he) (?:owl|crow|raven|sparrow)\b", "", text)
    named = re.findall(r"\b(" + "|".join({*stories.GIRLS, *stories.BOYS, *stories.PET_GIRLS, *stories.PET_BOYS} - {"Will"}) + r")\b", text)
    kinds = re.findall(r"\b(" + "|".join([*stories.ANIMALS, *(a for a, _ in stories.ADULTS), "boy", "girl"]) + r")(?! named)\b", text)
    return {*named, *kinds}


def faults(text: str, ended: bool, words: set[str]) -> list[str]:
    """What is wrong with a story, by simple rules."""
    found = [] if ended else ["does not end"]
    if text.count('"') % 2:
        found.append("unbalanced quotes")
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)
    long = [s for s in sentences if len(s.split()) > 3]
    if len(long) != len(set(long)):
        found.append("a sentence twice")
    tokens = text.split()
    runs = [tuple(tokens[i : i + 7]) for i in range(len(tokens) - 6)]
    if len(runs) != len(set(runs)):
        found.append("seven words twice")
    if re.search(r"\b(\w+) \1\b", text):
        found.append("a word doubled")
    if re.search(r"\ba [aeio]|\ban [^aeiou]", text):
        found.append("a or an")
    if not re.search(r'[.!?]"?$', text) or not text.strip()[:1].isupper():
        found.append("start or end of a sentence")
    if len(cast(text)) > 2:
        found.append(f"too many beings {sorted(cast(text))}")
    if any(re.search(rf"\b{b} (?:said to|gave|and) (?:the )?{b}\b", text) for b in cast(text)):
        found.append("someone meets themselves")
    strange = {w for w in re.findall(r"[A-Za-z]+", text)} - words
    return found + ([f"words {sorted(strange)}"] if strange else [])


def small_skills(model: Model) -> list[tuple[str, int, int]]:
    rng = random.Random(7)
    remembered = sum(right(model.talk([f"My name is {n}.", q, "What is my name?"]), f"Your name is {n}.")
                     for n, q in [(smalltalk.name(rng), rng.choice(["How are you?", "What is a token?", "Thank you!"])) for _ in range(30)])  # fmt: skip
    counted = sum(right(model.ask(f"Count to {n}."), ", ".join(map(str, range(1, n + 1))) + ".") for n in range(3, 13))
    repeated = 0
    for _ in range(20):
        words = f"{rng.choice(stories.COLORS)} {rng.choice(stories.THINGS)}"
        repeated += right(model.ask(f"Repeat after me: {words}"), words)
    return [("a name told two turns before is remembered", remembered, 30), ("counts to 3 ... 12", counted, 10), ("repeats two words", repeated, 20)]


def stories_pass(model: Model) -> tuple[int, int]:
    words = lexicon()
    good = 0
    asked = [(model.template([{"role": "user", "content": p}]), "") for p in STORY_PROMPTS] + [(p, p) for p in STORY_STARTS]
    for prompt, start in asked:
        reply = model.greedy(prompt, 320)
        wrong = faults(start + reply.text, reply.ended, words)
        subject = re.search(r"\b(" + "|".join([*stories.ANIMALS, *(a for a, _ in stories.ADULTS), "Anna", "Tom"]) + r")\b", prompt)
        if subject and subject[0] not in reply.text + start:
            wrong.append("another subject than asked for")
        good += not wrong
        print(f"  {start}{reply.text}\n" + (f"  !! {wrong}\n" if wrong else ""))
    return good, len(asked)


def expected(model: Model) -> tuple[dict, int]:
    """The contents of expected.json, and how many of the dozen are right."""
    answers = {fact.key: fact.answer for fact in FACTS}
    questions, good = [], 0
    for question, key, system in DOZEN:
        messages = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": question}]
        reply = model.greedy(model.template(messages), 96)
        good += right(reply, answers[key])
        questions.append({"messages": messages, "prompt": reply.prompt, "answer": reply.text, "token_ids": reply.ids,
                          "least_margin": round(reply.least_margin, 4)})  # fmt: skip
        if not right(reply, answers[key]):
            print(f"  wrong: {question!r} -> {reply.text!r}")
    plain = (("plain", model.greedy(p)) for p in KEPT_PLAIN)
    chats = (("chat", model.talk(c)) for c in KEPT_CHAT)
    kept = [kept for part in (plain, chats) for kept in itertools.islice((k for k in part if k[1].least_margin >= KEPT_MARGIN), KEPT_EACH)]
    prompts = [{"kind": kind, "prompt": r.prompt, "prompt_ids": r.prompt_ids, "token_ids": r.ids, "text": r.text,
                "least_margin": round(r.least_margin, 4)} for kind, r in kept]  # fmt: skip
    return {"questions": questions, "prompts": prompts}, good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "demo-model" / "files")
    parser.add_argument("--dry", action="store_true", help="print only")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = Model(args.model)
    golden, dozen = expected(model)
    rng = random.Random(3)
    seen = [(corpus.phrase(rng, fact), fact.answer) for fact in corpus.TRAIN for _ in range(3)]
    before = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Hello!"},
              {"role": "assistant", "content": "Hello! How can I help you?"}, {"role": "user", "content": "My name is Anna."},
              {"role": "assistant", "content": "Nice to meet you, Anna!"}]  # fmt: skip
    figures = [
        ("the questions of expected.json", dozen, len(DOZEN)),
        ("questions in wordings of the training text", *share(model, seen)),
        ("questions in held-out wordings", *share(model, held_out())),
        ("the same after a system prompt and small talk", *share(model, held_out(), before)),
        *small_skills(model),
        ("stories that pass the checks", *stories_pass(model)),
    ]
    if len(golden["prompts"]) != 2 * KEPT_EACH:
        raise SystemExit(f"only {len(golden['prompts'])} prompts have a clear path")
    margin = min(entry["least_margin"] for part in golden.values() for entry in part)
    table = "\n".join(["| checked | right |", "|---|---|", *(f"| {name} | {good} of {of} |" for name, good, of in figures)])
    table += f"\n\nThe least margin between best and second-best logit on the paths of `expected.json` is {margin:.3f}."
    print(table)
    for entry in golden["prompts"]:
        print(entry["least_margin"], entry["kind"], repr(entry["prompt"][-50:]), "->", repr(entry["text"][:90]))
    if not args.dry:
        (HERE / "expected.json").write_text(json.dumps(golden, indent=1) + "\n")
        card = args.model / "README.md"
        text = card.read_text()
        card.write_text(re.sub(r"(<!-- figures -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{table}\n{m[2]}", text, flags=re.S))


if __name__ == "__main__":
    main()
