"""From a question over a call and its result to the answer, by clients as published, whole and streamed.

The demo model is too weak to know when to call, so the model is a scripted one: asked, it begins a call in Hermes' form,
of its own choice (`tool_choice` is auto); what follows is the grammar's, and the city the model's. With the result in
the conversation, as the template sees it, it writes the answer.
"""

import json
import subprocess
import sys
from pathlib import Path

import anthropic
import openai as sdk
import pytest
from harness.scripted import scripted
from harness.server import ROOT, Server
from huggingface_hub import InferenceClient

from .weather import ANSWER, FUNCTION, PARAMETERS, QUESTION, TOOLS, weather

#: The script goes by how the prompt ends: with `!` once the call and its result are there.
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }} <tool_call>{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content or m.tool_calls | tojson }}\n{% endfor %}assistant"
    "{{ '!' if messages[-1].role == 'tool' and messages[-1].content == 'sunny'"
    " and messages[-2].tool_calls[0].function.name == 'weather' else '?' }}"
)
SCRIPT = [("assistant?", "<tool_call>"), ("assistant!", ANSWER), ("city\": \"", "Oslo")]
EXPECTED = {"answer": ANSWER, "calls": [["weather", {"city": "Oslo"}]]}
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripted")
    server = Server(folder / "log", "--model-id", str(scripted(folder / "model", SCRIPT, TEMPLATE)))
    try:
        yield server.start().url
        server.stop()
    finally:
        server.kill()


def run(answer) -> dict:
    """`answer` gives the message for a conversation, as a dictionary."""
    messages, calls = [{"role": "user", "content": QUESTION}], []
    for _ in range(4):
        message = answer(messages)
        messages.append(message)
        if not message.get("tool_calls"):
            break
        for call in message["tool_calls"]:
            arguments = json.loads(call["function"]["arguments"])
            calls.append([call["function"]["name"], arguments])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": weather(**arguments)})
    return {"answer": messages[-1]["content"], "calls": calls}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_openai_python(url, streamed):
    client = sdk.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30)

    def answer(messages):
        fields = {"model": "tgi", "messages": messages, "tools": TOOLS, "temperature": 0}
        if streamed:
            with client.chat.completions.stream(**fields) as stream:
                choice = stream.get_final_completion().choices[0]
        else:
            choice = client.chat.completions.create(**fields).choices[0]
        assert choice.finish_reason == ("tool_calls" if choice.message.tool_calls else "stop")
        return choice.message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True)

    assert run(answer) == EXPECTED


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_huggingface_hub(url, streamed):
    client = InferenceClient(url, timeout=30)

    def answer(messages):
        got = client.chat_completion(messages, tools=TOOLS, temperature=0, stream=streamed)
        if not streamed:
            message = got.choices[0].message
            calls = [plain(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or []]
            return {"role": "assistant", "content": message.content, "tool_calls": calls}
        content, calls = "", []
        for chunk in got:
            delta = chunk.choices[0].delta
            content += delta.content or ""
            for piece in delta.tool_calls or []:
                if piece.index == len(calls):
                    calls.append(plain(piece.id, piece.function.name, ""))
                calls[piece.index]["function"]["arguments"] += piece.function.arguments
        return {"role": "assistant", "content": content, "tool_calls": calls}

    assert run(answer) == EXPECTED


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_openai_responses(url, streamed):
    client = sdk.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30)
    items, calls = [{"role": "user", "content": QUESTION}], []
    for _ in range(4):
        fields = {"model": "tgi", "input": items, "tools": [{"type": "function", **FUNCTION}], "temperature": 0}
        if streamed:
            with client.responses.stream(**fields) as stream:
                response = stream.get_final_response()
        else:
            response = client.responses.create(**fields)
        items += response.output
        called = [item for item in response.output if item.type == "function_call"]
        for call in called:
            arguments = json.loads(call.arguments)
            calls.append([call.name, arguments])
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": weather(**arguments)})
        if not called:
            break
    assert {"answer": response.output_text, "calls": calls} == EXPECTED


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_anthropic(url, streamed):
    """By the client's own runner, which calls the function and sends what it gives."""
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=30)
    calls = []

    def called(city: str) -> str:
        calls.append(["weather", {"city": city}])
        return weather(city)

    tool = anthropic.beta_tool(called, name="weather", description=FUNCTION["description"], input_schema=PARAMETERS)
    runner = client.beta.messages.tool_runner(
        model="tgi", max_tokens=200, tools=[tool], stream=streamed, extra_body={"temperature": 0},
        messages=[{"role": "user", "content": QUESTION}],
    )
    messages = [turn.get_final_message() if streamed else turn for turn in runner]
    assert [message.stop_reason for message in messages] == ["tool_use", "end_turn"]
    assert {"answer": messages[-1].content[0].text, "calls": calls} == EXPECTED


def plain(id: str, name: str, arguments: str) -> dict:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def outcome(*command: str | Path) -> dict:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(120)
def test_langchain_openai(url):
    results = outcome(ROOT / ".venv/openai/bin/python", HERE / "langchain_loop.py", f"{url}/v1")
    assert results == {"whole": EXPECTED, "streamed": EXPECTED}


@pytest.mark.timeout(120)
def test_openai_node(url):
    node, script = Path(sys.executable).with_name("node"), ROOT / "integration-tests/openai/node/loop.mjs"
    results = outcome(node, script, f"{url}/v1", QUESTION, json.dumps(FUNCTION))
    assert results == {"whole": EXPECTED, "streamed": EXPECTED}
