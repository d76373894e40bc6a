"""Anthropic's own client for Python, unmodified, under the profiles that it may meet."""

import asyncio
from typing import Literal

import anthropic as sdk
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from harness.client import Client
from harness.scripted import scripted
from harness.server import Server
from pydantic import BaseModel, TypeAdapter

HI = [{"role": "user", "content": "Which port do you listen on?"}]
KEY = "Secret-Key-1"
EVENT = TypeAdapter(RawMessageStreamEvent)
CITY = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Lima", "Oslo"]}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "In a city", "input_schema": CITY}
#: A model that reasons, by its template's marks.
REASONING = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> #}"
THOUGHTS = [("<think>\n", "Hm</think>Aye")]


@pytest.fixture(scope="module", params=["openai", "tgi", "ollama"])
def guarded(tmp_path_factory, request):
    """The routes are the same under every profile."""
    server = Server(tmp_path_factory.mktemp("anthropic") / "log", "--profile", request.param, "--api-key", KEY)
    try:
        server.start()
        yield server
        server.stop()
    finally:
        server.kill()


@pytest.fixture(scope="module")
def client(guarded):
    return sdk.Anthropic(base_url=guarded.url, api_key=KEY, max_retries=0, timeout=30)


#: The newest client knows no temperature; older ones do.
GREEDY = {"extra_body": {"temperature": 0}}


def ask(client, **fields):
    return client.messages.create(**{"model": "weirgate-demo", "max_tokens": 24, "messages": HI} | GREEDY | fields)


def test_a_message(client):
    answer = ask(client)
    Message.model_validate(answer.model_dump(), strict=True)
    (block,) = answer.content
    assert block.type == "text" and block.text
    assert (answer.role, answer.model) == ("assistant", "weirgate-demo")
    assert answer.stop_reason in ("end_turn", "max_tokens")
    counted = client.messages.count_tokens(model="weirgate-demo", messages=HI).input_tokens
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens == counted
    assert 0 < answer.usage.output_tokens <= 24
    assert ask(client, max_tokens=3).stop_reason == "max_tokens"


def test_a_stream_makes_up_the_same_message(client):
    whole = ask(client)
    with client.messages.stream(model="weirgate-demo", max_tokens=24, messages=HI, **GREEDY) as stream:
        events = list(stream)
        final = stream.get_final_message()
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    text = "".join(event.text for event in events if event.type == "text")
    assert text == final.content[0].text == whole.content[0].text
    for event in ask(client, stream=True):
        EVENT.validate_python(event.model_dump(), strict=True)


def test_a_conversation_goes_on(client):
    """What was answered goes back as the client has it, and a begun answer is gone on with."""
    first = ask(client)
    more = [*HI, {"role": "assistant", "content": first.content}, {"role": "user", "content": "Why?"}]
    assert ask(client, messages=more, system="Be brief.").content[0].text
    text = first.content[0].text
    head, tail = text[: len(text) // 2].rstrip(), text[len(text) // 2 :].strip()
    begun = ask(client, messages=[*HI, {"role": "assistant", "content": head}])
    assert tail[:6] in head[-6:] + begun.content[0].text, (text, begun)


def test_a_text_that_ends_the_answer_is_named(client):
    text = ask(client, max_tokens=40).content[0].text
    stop = text.split()[2]
    answer = ask(client, max_tokens=40, stop_sequences=["never said", stop])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)
    assert answer.content[0].text == text[: text.index(stop)]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_tool_is_called(client, streamed):
    fields = {"model": "weirgate-demo", "max_tokens": 60, "messages": HI, "tools": [TOOL]} | GREEDY
    fields["tool_choice"] = {"type": "tool", "name": "weather"}
    if streamed:
        with client.messages.stream(**fields) as stream:
            answer = stream.get_final_message()
    else:
        answer = client.messages.create(**fields)
    (block,) = answer.content
    assert (block.type, block.name, answer.stop_reason) == ("tool_use", "weather", "tool_use")
    assert block.input["city"] in ("Lima", "Oslo") and block.id


def test_a_form_is_parsed_by_the_client(client):
    class Answer(BaseModel):
        city: Literal["Lima", "Oslo"]
        open: bool

    parsed = client.messages.parse(model="weirgate-demo", max_tokens=200, messages=HI, output_format=Answer, **GREEDY)
    assert isinstance(parsed.parsed_output, Answer)


def test_the_async_client_can_go_away(guarded):
    async def run():
        async with sdk.AsyncAnthropic(base_url=guarded.url, auth_token=KEY, max_retries=0) as client:
            fields = {"model": "weirgate-demo", "messages": HI, "max_tokens": 400}
            async with client.messages.stream(**fields) as stream:
                async for _ in stream.text_stream:
                    break
            return await client.messages.create(**fields | {"max_tokens": 5})

    assert asyncio.run(run()).usage.output_tokens <= 5


def test_refusals_are_the_clients_exceptions(client, guarded):
    for error, fields in [
        (sdk.BadRequestError, {"max_tokens": 0}),
        (sdk.BadRequestError, {"extra_body": {"temperature": -1.0}}),
        (sdk.BadRequestError, {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
        (sdk.BadRequestError, {"messages": [{"role": "user", "content": "a " * 9000}]}),
    ]:
        with pytest.raises(error) as raised:
            ask(client, **fields)
        assert raised.value.body["error"]["type"] == "invalid_request_error"
        with pytest.raises(error):
            list(ask(client, stream=True, **fields))
    with pytest.raises(sdk.AuthenticationError) as raised:
        ask(sdk.Anthropic(base_url=guarded.url, api_key="Other", max_retries=0))
    assert raised.value.body["error"]["type"] == "authentication_error"


def test_the_key_may_come_in_anthropics_own_header(guarded):
    body = {"model": "weirgate-demo", "max_tokens": 2, "messages": HI}
    for key, status in ((KEY, 200), ("Other", 401)):
        headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
        assert Client(guarded.port).post("/v1/messages", body, headers).status == status


def test_reasoning_is_a_block_of_thinking(tmp_path):
    server = Server(tmp_path / "log", "--model-id", str(scripted(tmp_path / "model", THOUGHTS, REASONING)))
    try:
        client = sdk.Anthropic(base_url=server.start().url, api_key="none", max_retries=0)
        fields = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "model": "m", "max_tokens": 24, "messages": HI}
        answers = [client.messages.create(**fields, **GREEDY)]
        with client.messages.stream(**fields, **GREEDY) as stream:
            answers.append(stream.get_final_message())
        for answer in answers:
            thinking, text = answer.content
            assert (thinking.thinking, text.text) == ("Hm", "Aye")
        server.stop()
    finally:
        server.kill()
