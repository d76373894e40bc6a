"""Ollama's own client for Python, unmodified: its calls, one after the other, sync and async."""

import asyncio
import json

import ollama as library
import pytest
from pydantic import BaseModel

OPTIONS = {"temperature": 0, "num_predict": 24}
QUESTION = [{"role": "user", "content": "Which port do you listen on?"}]


class City(BaseModel):
    name: str
    large: bool


def weather(city: str) -> str:
    """The weather of a city.

    Args:
      city: its name
    """
    return city


@pytest.fixture(scope="module")
def sync(ollama):
    return library.Client(host=ollama.url)


def test_lists(sync, ollama):
    assert [model.model for model in sync.list().models] == [ollama.model]
    assert [model.model for model in sync.ps().models] == [ollama.model]
    shown = sync.show(ollama.model)
    assert shown.modelinfo and shown.template and "completion" in shown.capabilities


def test_generate(sync, ollama):
    answer = sync.generate(ollama.model, "Once upon a time", options=OPTIONS)
    assert answer.response and answer.done and answer.eval_count > 0
    parts = list(sync.generate(ollama.model, "Once upon a time", options=OPTIONS, stream=True))
    assert "".join(part.response for part in parts) == answer.response
    assert parts[-1].done and parts[-1].context == answer.context
    assert sync.generate(ollama.model, "Once upon a time", options=OPTIONS, raw=True).response
    more = sync.generate(ollama.model, "And then", options=OPTIONS, context=answer.context)
    assert more.prompt_eval_count > answer.prompt_eval_count
    text = sync.generate(ollama.model, "An object", format="json", options={"temperature": 0, "num_predict": 200})
    if text.done_reason == "stop":
        assert isinstance(json.loads(text.response), dict)


def test_load_and_unload(sync, ollama):
    assert sync.generate(ollama.model, "").done_reason == "load"
    assert sync.generate(ollama.model, "", keep_alive=0).done_reason == "unload"
    # The model that the server was started for is pinned.
    assert [model.model for model in sync.ps().models] == [ollama.model]


def test_chat(sync, ollama):
    answer = sync.chat(ollama.model, QUESTION, options=OPTIONS)
    assert answer.message.role == "assistant" and answer.message.content
    parts = list(sync.chat(ollama.model, QUESTION, options=OPTIONS, stream=True))
    assert "".join(part.message.content for part in parts) == answer.message.content
    likely = sync.chat(ollama.model, QUESTION, options=OPTIONS, logprobs=True, top_logprobs=3)
    assert len(likely.logprobs) == likely.eval_count


def test_a_schema_is_obeyed(sync, ollama):
    answer = sync.chat(
        ollama.model, QUESTION, format=City.model_json_schema(), options={"temperature": 0, "num_predict": 300}
    )
    if answer.done_reason == "stop":
        City.model_validate_json(answer.message.content)
    else:
        assert answer.message.content.lstrip().startswith("{")


def test_tools_can_be_given(sync, ollama):
    answer = sync.chat(ollama.model, QUESTION, tools=[weather], options=OPTIONS)
    calls = answer.message.tool_calls or []
    assert answer.message.content or calls
    assert all(call.function.name == "weather" for call in calls)


def test_errors(sync, ollama):
    for call in (
        lambda: sync.generate("no-such-model", "hi"),
        lambda: sync.chat("no-such-model", QUESTION),
        lambda: list(sync.chat("no-such-model", QUESTION, stream=True)),
        lambda: sync.show("no-such-model"),
    ):
        with pytest.raises(library.ResponseError) as error:
            call()
        assert error.value.status_code == 404 and "not found" in error.value.error
    with pytest.raises(library.ResponseError) as error:
        sync.embed(ollama.model, ["a", "b"])
    assert error.value.status_code == 400 and "does not support" in error.value.error


def test_async(ollama):
    async def calls():
        client = library.AsyncClient(host=ollama.url)
        answer = await client.chat(ollama.model, QUESTION, options=OPTIONS)
        text = ""
        async for part in await client.chat(ollama.model, QUESTION, options=OPTIONS, stream=True):
            text += part.message.content
        both = await asyncio.gather(*[client.generate(ollama.model, "One", options=OPTIONS) for _ in range(4)])
        listed = await client.list()
        with pytest.raises(library.ResponseError) as error:
            await client.generate("no-such-model", "hi")
        return answer.message.content, text, {one.response for one in both}, listed.models[0].model, error.value

    answer, text, both, listed, error = asyncio.run(calls())
    assert answer == text and len(both) == 1 and listed == ollama.model and error.status_code == 404
