"""What is learned of conversations under chat templates that show them in a way of their own: against jinja2, the
tokenizer, and replies written out by hand."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import finetuning
from harness.reference import ReferenceModel
from harness.server import DEMO_MODEL, ROOT

#: Shows a reply with its reasoning, but an earlier one without: an example for each, from the first message on.
REASONING = (
    "features-reasoning",
    [
        {
            "messages": [
                {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "<think>\nHm, why.\n</think>\n\nSo."},
                {"role": "user", "content": "And how?"},
                {"role": "assistant", "content": "Thus.", "reasoning_content": "How, then?"},
            ]
        },
        {"messages": [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}]},
    ],
    # Of each example: the conversation, how many of its messages, and the replies in it.
    [
        (0, 2, ["<think>\nHm, why.\n</think>\n\nSo.<|end|>"]),
        (0, 4, ["<think>\nHow, then?\n</think>\n\nThus.<|end|>"]),
        (1, 2, ["<think>\n\n</think>\n\nTwo<|end|>"]),
    ],
)
#: Asks for reasoning with `<think>`, and shows none of any reply: all in one example, also one that begins as that does.
WITHOUT = (
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    [
        {
            "messages": [
                {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "<think>\nHm, why.\n</think>So."},
                {"role": "user", "content": "And how?"},
                {"role": "assistant", "content": "<b>Thus.</b>"},
            ]
        },
    ],
    [(0, 4, ["So.<|end|>", "<b>Thus.</b><|end|>"])],
)
LOOK = {"type": "function", "function": {"name": "look", "description": "Looks at a <place>", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": 'the "sea"'}}}
#: A call is learned as an answer is, what the tool says is not.
CALLS = (
    "Qwen-Qwen2.5-7B-Instruct",
    [
        {
            "messages": [
                {"role": "user", "content": "What is it like?"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "It is blue."},
                {"role": "assistant", "content": "Blue."},
            ],
            "tools": [LOOK],
        }
    ],
    [(0, 4, ['<tool_call>\n{"name": "look", "arguments": {"at": "the \\"sea\\""}}\n</tool_call><|end|>', "Blue.<|end|>"])],
)


def with_template(folder: Path, name: str) -> Path:
    """The demo model with another chat template, which writes the demo model's special tokens."""
    shutil.copytree(DEMO_MODEL, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = (ROOT / f"text/tests/chat-templates/{name}.jinja").read_text()
    for own, other in (("<|start|>", "<|im_start|>"), ("<|end|>", "<|im_end|>"), ("<|end|>", "<｜end▁of▁sentence｜>")):
        template = template.replace(other, own)
    config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def examples(base: Path, conversations: list[dict], taught: list[tuple[int, int, list[str]]]) -> list[dict]:
    reference, made = ReferenceModel(base), []
    for index, count, replies in taught:
        conversation = conversations[index]
        rest = reference.render(conversation["messages"][:count], tools=conversation.get("tools"))
        whole, tokens, learned = reference.ids(rest, special=False), [], []
        for reply in replies:
            before, _, rest = rest.partition(reply)
            for text, is_reply in ((before, False), (reply, True)):
                ids = reference.ids(text, special=False)
                tokens, learned = tokens + ids, learned + [is_reply] * len(ids)
        tokens += reference.ids(rest, special=False)
        assert tokens == whole, "a reply is not there, or shares a token with what is around it"
        made.append({"tokens": tokens, "learned": learned + [False] * (len(tokens) - len(learned))})
    return made


@pytest.mark.parametrize(("template", "conversations", "taught"), [REASONING, WITHOUT, CALLS], ids=["reasoning", "without", "calls"])
def test_replies_are_learned_as_the_template_shows_them(tmp_path, template, conversations, taught):
    base = with_template(tmp_path / "base", template)
    dataset = tmp_path / "data.jsonl"
    dataset.write_text("".join(json.dumps(told(line)) + "\n" for line in conversations))
    whole = examples(base, conversations, taught)
    # All of it; all but the end of the longest; and a length past which most examples have nothing left to learn.
    longest = max(len(example["tokens"]) for example in whole)
    for most in (longest, longest - 3, min(example["learned"].index(True) for example in whole) + 2):
        cut = [{key: values[:most] for key, values in example.items()} for example in whole]
        expected = [example for example in cut if any(example["learned"])]
        settings = {"epochs": 1, "batch_size": 8, "max_length": most}
        job = finetuning.write_job(tmp_path / f"job-{most}", dataset, base=str(base), **settings)
        command = [finetuning.WORKER, "--job", job, "--show-batches"]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        ((shown,),) = [json.loads(line) for line in out.splitlines()]
        assert sorted(shown, key=str) == sorted(expected, key=str), most


def told(conversation: dict) -> dict:
    """As clients write it: the arguments of calls as JSON text."""
    copy = json.loads(json.dumps(conversation))
    for message in copy["messages"]:
        for call in message.get("tool_calls") or []:
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return copy
