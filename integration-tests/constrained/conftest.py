import json
from pathlib import Path

import pytest
from harness.server import DEMO_MODEL

TEMPLATES = {
    "hermes": "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}",
    "mistral": "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[TOOL_CALLS]{% endif %}",
    "llama": "{% if tools %}{{ tools | tojson }} {\"name\": function name, \"parameters\": dictionary of argument name"
    " and its value}{% endif %}",
    "pythonic": "{% if tools %}{{ tools | tojson }} [func_name1(params_name1=params_value1)]{% endif %}",
    "deepseek": "{% if tools %}{{ tools | tojson }}<｜tool▁calls▁begin｜>{% endif %}",
}
MESSAGES = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


@pytest.fixture
def template_of(tmp_path: Path):
    """A tokenizer_config.json whose template is of the named form of tool calls."""

    def write(form: str) -> str:
        config = json.loads((DEMO_MODEL / "tokenizer_config.json").read_text())
        config["chat_template"] = TEMPLATES[form] + MESSAGES
        path = tmp_path / f"{form}.json"
        path.write_text(json.dumps(config))
        return str(path)

    return write
