"""Ollama's own clients for Python, unmodified: their calls, one after the other, of the sync and of the async one."""

import asyncio
import json
from typing import Literal

import ollama as library
import pytest
from harness.ollama_api import CLIENTS
from pydantic import BaseModel, ConfigDict

OPTIONS = {"temperature": 0, "num_predict": 24}
QUESTION = [{"role": "user", "content": "Which port do you listen on?"}]
#: How the scripted model is asked for a call, for JSON and for words.
ASK_CALL, ASK_JSON, ASK_WORDS = ([{"role": "user", "content": f"Tell me{end}"}] for end in "?#!")
WORDS = "Ahoy, the tide is high"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Lima", "Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": PARAMETERS}}
#: A form that does not let the model end.
ENDLESS = {"type": "array", "items": {"type": "string"}, "minItems": 100_000}


class City(BaseModel):
    """Of which every value is short and nothing else may come, so that any model comes to the end."""

    model_config = ConfigDict(extra="forbid")

    name: Literal["Lima", "Oslo"]
    large: bool


def tide(rising: bool) -> str:
    """The tide.

    Args:
      rising: whether it rises
    """
    return str(rising)


@pytest.fixture(scope="module", params=CLIENTS)
def connect(request):
    return CLIENTS[request.param]


@pytest.fixture(scope="module")
def client(connect, ollama):
    return connect(ollama.url)


def test_lists(client, ollama):
    assert [model.model for model in client.list().models] == [ollama.model]
    assert [model.model for model in client.ps().models] == [ollama.model]
    shown = client.show(ollama.model)
    assert shown.modelinfo and shown.template and "completion" in shown.capabilities


def test_generate(client, ollama):
    answer = client.generate(ollama.model, "Once upon a time", options=OPTIONS)
    assert answer.response and answer.done and answer.eval_count > 0
    parts = list(client.generate(ollama.model, "Once upon a time", options=OPTIONS, stream=True))
    assert "".join(part.response for part in parts) == answer.response
    assert parts[-1].done and parts[-1].context == answer.context
    assert client.generate(ollama.model, "Once upon a time", options=OPTIONS, raw=True).response
    more = client.generate(ollama.model, "And then", options=OPTIONS, context=answer.context)
    assert more.prompt_eval_count > answer.prompt_eval_count


def test_load_and_unload(client, ollama):
    assert client.generate(ollama.model, "").done_reason == "load"
    assert client.generate(ollama.model, "", keep_alive=0).done_reason == "unload"
    # The model that the server was started for is pinned.
    assert [model.model for model in client.ps().models] == [ollama.model]


def test_chat(client, ollama):
    answer = client.chat(ollama.model, QUESTION, options=OPTIONS)
    assert answer.message.role == "assistant" and answer.message.content
    parts = list(client.chat(ollama.model, QUESTION, options=OPTIONS, stream=True))
    assert "".join(part.message.content for part in parts) == answer.message.content
    for call, asked in ((client.chat, QUESTION), (client.generate, "One")):
        likely = call(ollama.model, asked, options=OPTIONS, logprobs=True, top_logprobs=3)
        assert len(likely.logprobs) == likely.eval_count
        assert all(entry.logprob <= 0 and len(entry.top_logprobs) <= 3 for entry in likely.logprobs)


def test_json_is_written_whole(connect, caller):
    client = connect(caller.url)
    for answer in (
        client.generate(caller.model, "Tell me#", format="json", options={"temperature": 0}),
        client.chat(caller.model, ASK_JSON, format="json", options={"temperature": 0}),
    ):
        text = answer.response if isinstance(answer, library.GenerateResponse) else answer.message.content
        assert (json.loads(text), answer.done_reason) == ({"port": 3210}, "stop")
    # Where the model would write something else, an object is begun all the same.
    assert client.chat(caller.model, ASK_WORDS, options={"temperature": 0}).message.content == WORDS
    forced = client.chat(caller.model, ASK_WORDS, format="json", options={"temperature": 0, "num_predict": 4})
    assert forced.message.content.lstrip().startswith("{")


def test_a_schema_is_obeyed(client, ollama):
    asked = {"format": City.model_json_schema(), "options": {"temperature": 0, "num_predict": 100}}
    answer = client.chat(ollama.model, QUESTION, **asked)
    city = City.model_validate_json(answer.message.content)
    assert city.name in ("Lima", "Oslo") and answer.done_reason == "stop"
    streamed = "".join(part.message.content for part in client.chat(ollama.model, QUESTION, stream=True, **asked))
    assert City.model_validate_json(streamed) == city
    generated = client.generate(ollama.model, "A city:", **asked)
    assert City.model_validate_json(generated.response) and generated.done_reason == "stop"


def test_tools_are_called(connect, caller):
    client = connect(caller.url)
    for parts in (
        [client.chat(caller.model, ASK_CALL, tools=[WEATHER], options={"temperature": 0})],
        list(client.chat(caller.model, ASK_CALL, tools=[WEATHER], options={"temperature": 0}, stream=True)),
    ):
        calls = [call.function for part in parts for call in part.message.tool_calls or []]
        assert [(call.name, call.arguments) for call in calls] == [("weather", {"city": "Oslo"})]
        assert "".join(part.message.content or "" for part in parts) == "" and parts[-1].done_reason == "stop"
    # A function of Python's, which the client describes.
    answer = client.chat(caller.model, ASK_CALL, tools=[tide], options={"temperature": 0, "num_predict": 100})
    (call,) = answer.message.tool_calls
    assert call.function.name == "tide" and call.function.arguments["rising"] in (True, False)
    # With tools, too, it may say something else.
    answer = client.chat(caller.model, ASK_WORDS, tools=[WEATHER], options={"temperature": 0})
    assert (answer.message.content, answer.message.tool_calls) == (WORDS, None)


def test_thinking(connect, client, ollama, thinker):
    plain, client = client, connect(thinker.url)
    assert "thinking" in client.show(thinker.model).capabilities
    options = {"options": {"temperature": 0}}
    for think, thought in ((True, "Hm"), ("low", "Hm"), (False, None)):
        message = client.chat(thinker.model, QUESTION, think=think, **options).message
        assert ((message.thinking or "").strip() or None, message.content) == (thought, "Aye"), think
    answer = client.generate(thinker.model, "Well", think=True, **options)
    assert (answer.thinking.strip(), answer.response) == ("Hm", "Aye")
    parts = list(client.chat(thinker.model, QUESTION, think=True, stream=True, **options))
    assert "".join(part.message.thinking or "" for part in parts).strip() == "Hm"
    assert "".join(part.message.content or "" for part in parts) == "Aye"
    with pytest.raises(library.ResponseError, match="does not support thinking") as error:
        plain.chat(ollama.model, QUESTION, think=True)
    assert error.value.status_code == 400
    assert plain.chat(ollama.model, QUESTION, think=False, options=OPTIONS).message.content


def test_images_are_refused(client, ollama):
    for call in (
        lambda: client.generate(ollama.model, "What is it?", images=[PNG]),
        lambda: client.chat(ollama.model, [QUESTION[0] | {"images": [PNG]}]),
        lambda: list(client.chat(ollama.model, [QUESTION[0] | {"images": [PNG]}], stream=True)),
    ):
        with pytest.raises(library.ResponseError, match="image input") as error:
            call()
        assert error.value.status_code == 400


def test_errors(client, ollama):
    for call in (
        lambda: client.generate("no-such-model", "hi"),
        lambda: client.chat("no-such-model", QUESTION),
        lambda: list(client.chat("no-such-model", QUESTION, stream=True)),
        lambda: client.show("no-such-model"),
    ):
        with pytest.raises(library.ResponseError) as error:
            call()
        assert error.value.status_code == 404 and "not found" in error.value.error
    with pytest.raises(library.ResponseError) as error:
        client.embed(ollama.model, ["a", "b"])
    assert error.value.status_code == 400 and "does not support" in error.value.error


@pytest.mark.parametrize("call", ["generate", "chat"])
def test_an_error_in_midstream_is_raised(connect, start_server, call):
    server = start_server("--graceful-termination-timeout", "1")
    client = connect(server.url)
    model = client.list().models[0].model
    asked = {"prompt": "Count:"} if call == "generate" else {"messages": QUESTION}
    stream = getattr(client, call)(model, **asked, stream=True, format=ENDLESS, options={"num_predict": 100_000})

    def text(part) -> str:
        return part.response if call == "generate" else part.message.content

    received = [text(next(stream)) for _ in range(3)]
    server.terminate()
    with pytest.raises(library.ResponseError, match="shutting down") as error:
        received.extend(map(text, stream))
    # The status was 200 by then: the client has none.
    assert error.value.status_code == -1 and "".join(received).lstrip().startswith("[")
    assert server.wait_exit(15) == 0


def test_several_calls_at_once(ollama):
    async def calls():
        client = library.AsyncClient(host=ollama.url)
        return await asyncio.gather(*[client.generate(ollama.model, "One", options=OPTIONS) for _ in range(4)])

    assert len({answer.response for answer in asyncio.run(calls())}) == 1
