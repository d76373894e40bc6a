"""Chat templates as a model brings them: what a hostile one takes, it takes from itself."""

import os
import shutil
import signal
import threading

import pytest
from harness.checkpoints import copy_of_demo
from harness.client import Client
from harness.server import DEMO_MODEL, children_of, resident_bytes, wait_for

DOUBLING = "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}"
HOSTILE = {
    "doubling": DOUBLING,
    "nesting": "{% set n = namespace(l=[]) %}"
    + "{% for i in range(99999) %}{% set n.l = [n.l] %}{% endfor %}" * 3
    + "{{ n.l }}",
    "format": "{{ '%999999999d' | format(1) }}",
    "replace": DOUBLING.replace("n.s ~ n.s", "n.s | replace('x', 'xx')"),
    "steps": "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
    "output": "{% set s = messages[0].content * 9999 %}{% for a in range(99999) %}{{ s }}{% endfor %}",
}
# What the server itself may grow by while a template takes all it can get.
GROWTH = 48 << 20


def model(folder, template: str):
    copy_of_demo(folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def chat(port: int, text: str = "Hi", **fields):
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2} | fields
    return Client(port).post("/v1/chat/completions", body)


def test_hostile_templates_cost_their_request_only(tmp_path, start_server):
    cases = "".join(f"{{% if messages[0].content == '{name}' %}}{text}{{% endif %}}" for name, text in HOSTILE.items())
    server = start_server("--model-id", model(tmp_path / "model", cases + "user: {{ messages[0].content }}"))
    router = server.router_pid()
    assert chat(server.port).status == 200
    before = resident_bytes(router)
    for name in HOSTILE:
        answer = chat(server.port, name)
        assert answer.status in (400, 422), f"{name}: {answer.text}"
        assert "template_error" in answer.text, answer.text
        assert chat(server.port).status == 200, name
    assert server.router_pid() == router, "the router was restarted"
    assert resident_bytes(router) - before < GROWTH
    wait_for(lambda: len(children_of(router)) <= 2, 5, "no process left over")
    assert Client(server.port).post("/generate", {"inputs": "Once", "parameters": {"max_new_tokens": 2}}).status == 200


@pytest.mark.parametrize("broken", ["{% if %}", "{{ " + "(" * 100_000, "{{ x | no_such_filter }}", "\ufffd{%"])
def test_a_broken_template_fails_chats_and_nothing_else(tmp_path, start_server, broken):
    server = start_server("--model-id", model(tmp_path / "model", broken))
    answer = chat(server.port)
    assert answer.status in (400, 422) and "template_error" in answer.text, answer.text
    assert Client(server.port).post("/generate", {"inputs": "Once", "parameters": {"max_new_tokens": 2}}).status == 200


def test_templates_of_their_own_folder(tmp_path, start_server):
    folder = tmp_path / "model"
    model(folder, "{{ raise_exception('default') }}")
    (folder / "additional_chat_templates").mkdir()
    shutil.copy(DEMO_MODEL / "config.json", folder / "additional_chat_templates")
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ raise_exception('tool_use') }}")
    server = start_server("--model-id", str(folder))
    assert "default" in chat(server.port).text


def test_a_killed_template_process_is_replaced(tmp_path, start_server):
    server = start_server("--model-id", model(tmp_path / "model", "user: {{ messages[0].content }}"))
    router = server.router_pid()
    assert chat(server.port).status == 200
    for process in children_of(router):
        os.kill(process, signal.SIGKILL)
    wait_for(lambda: not children_of(router), 5, "killed")
    assert chat(server.port).status == 200


def test_no_template_process_outlives_the_server(tmp_path, start_server):
    """Not even one in the middle of a template, when the router is killed."""
    slow = "{% for a in range(9999) %}{% set x = ('x' * 9999999) | upper | lower %}{% endfor %}{{ messages[0].content }}"
    server = start_server("--model-id", model(tmp_path / "model", slow))
    waiting = threading.Thread(target=lambda: pytest.raises(OSError, chat, server.port), daemon=True)
    waiting.start()
    router = server.router_pid()
    wait_for(lambda: children_of(router), 5, "a template process")
    processes = children_of(router)
    os.kill(router, signal.SIGKILL)
    wait_for(lambda: not any(os.path.exists(f"/proc/{process}/fd/0") for process in processes), 5, "ended with it")
    waiting.join(5)
