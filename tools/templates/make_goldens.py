"""What transformers renders for every chat template and conversation of the tests. As a program it writes goldens.json;
prove.py compares with it."""

import hashlib
import json
import logging
import os
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "text" / "tests" / "chat-templates"
GOLDENS = DATA / "goldens.json"
ELSEWHERE = Path(os.environ.get("WEIRGATE_CHAT_TEMPLATES", ROOT / ".." / "shared" / "data" / "chat-templates"))
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
# Enough of a SHA-256 to tell texts apart.
DIGEST = 16


def templates() -> dict[str, str]:
    """Template texts by name, those of the repository and those at hand elsewhere."""
    folders = [DATA] + ([ELSEWHERE] if ELSEWHERE.is_dir() else [])
    files = {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.jinja"))}
    return {name: files[name].read_bytes().decode() for name in sorted(files)}


def conversations() -> list[dict]:
    with (DATA / "conversations.jsonl").open() as lines:
        return [json.loads(line) for line in lines]


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: number for number, token in enumerate(SPECIAL_TOKENS.values())}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=model, **SPECIAL_TOKENS)


def render(tokenizer: PreTrainedTokenizerFast, template: str, conversation: dict) -> tuple[str | None, str]:
    """The text, or `None` and why transformers refuses."""
    continued = conversation.get("continue_final_message", False)
    try:
        text = tokenizer.apply_chat_template(
            conversation["messages"],
            tools=conversation.get("tools"),
            documents=conversation.get("documents"),
            chat_template=template,
            add_generation_prompt=conversation.get("add_generation_prompt", not continued),
            continue_final_message=continued,
            tokenize=False,
            **conversation.get("variables", {}),
        )
    except Exception as error:  # Whatever a template makes Python raise is a refusal.
        return None, f"{type(error).__name__}: {error}"
    return text, ""


def digest(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()[:DIGEST]


def render_all() -> dict[str, dict[str, tuple[str | None, str]]]:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with_tokens = tokenizer()
    return {
        name: {case["name"]: render(with_tokens, template, case) for case in conversations()}
        for name, template in templates().items()
    }


def digests(rendered: dict) -> dict[str, dict[str, str | None]]:
    return {name: {case: digest(text) for case, (text, _) in cases.items()} for name, cases in rendered.items()}


if __name__ == "__main__":
    GOLDENS.write_text(json.dumps(digests(render_all()), indent=0, ensure_ascii=False) + "\n")
    print(f"wrote {GOLDENS.relative_to(ROOT)}")
