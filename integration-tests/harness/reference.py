"""A model folder's tokenizer and chat template as the Python ecosystem reads them."""

import json
from pathlib import Path

import jinja2
import jinja2.sandbox
from tokenizers import Tokenizer


class ReferenceModel:
    def __init__(self, folder: Path):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.config = json.loads((folder / "tokenizer_config.json").read_text())

    def ids(self, text: str, special: bool = True) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    def text(self, ids: list[int], skip_special: bool = True) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special)

    def render(self, messages: list[dict], **variables) -> str:
        """With the settings and the `tojson` with which transformers renders chat templates."""
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        template = environment.from_string(self.config["chat_template"])
        special = {name: self._special(name) for name in ("bos_token", "eos_token")}
        special = {name: token for name, token in special.items() if token is not None}
        return template.render(messages=messages, **special, **variables)

    def chat_prompt(self, messages: list[dict]) -> str:
        return self.render(messages, add_generation_prompt=True)

    def chat_ids(self, messages: list[dict]) -> list[int]:
        """The template writes the special tokens itself."""
        return self.ids(self.chat_prompt(messages), special=False)

    def _special(self, name: str) -> str | None:
        value = self.config.get(name)
        return value["content"] if isinstance(value, dict) else value
