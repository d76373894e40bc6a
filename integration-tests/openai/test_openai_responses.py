"""The Responses API by OpenAI's own client for Python, unmodified."""

import asyncio
from typing import Literal

import openai as sdk
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

QUESTION = "Which port do you listen on?"
EVENT = TypeAdapter(ResponseStreamEvent)
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Lima", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "name": "weather", "description": "In a city", "parameters": PARAMETERS, "strict": True}


@pytest.fixture
def client(listener):
    return sdk.OpenAI(base_url=listener.base_url, api_key="none", max_retries=0, timeout=30)


def ask(client, **fields):
    return client.responses.create(**{"model": "tgi", "input": QUESTION, "temperature": 0, "max_output_tokens": 24} | fields)


def test_a_response(client):
    answer = ask(client, instructions="Be kind.", metadata={"a": "b"}, store=False)
    Response.model_validate(answer.model_dump(), strict=True)
    (message,) = answer.output
    assert message.role == "assistant" and answer.output_text
    assert answer.status in ("completed", "incomplete") and answer.metadata == {"a": "b"}
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens and 0 < usage.output_tokens <= 24
    cut = ask(client, max_output_tokens=3)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_it_says_what_a_chat_says(client):
    """The same model, asked the same."""
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": QUESTION}]
    chat = client.chat.completions.create(model="tgi", messages=messages, temperature=0, max_tokens=24)
    answer = ask(client, instructions="Be kind.")
    assert answer.output_text == chat.choices[0].message.content
    assert answer.usage.input_tokens == chat.usage.prompt_tokens


def test_a_stream_makes_up_the_same_response(client):
    # The script of the demo model ends by itself.
    whole = ask(client, max_output_tokens=200)
    with client.responses.stream(model="tgi", input=QUESTION, temperature=0, max_output_tokens=200) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert whole.status == final.status == "completed"
    assert final.output_text == whole.output_text and final.usage.output_tokens == whole.usage.output_tokens
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == whole.output_text
    for event in ask(client, stream=True):
        EVENT.validate_python(event.model_dump(), strict=True)


def test_a_conversation_goes_on(client):
    """Without state: what was answered goes back as the client has it."""
    first = ask(client)
    turns = [{"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": "Why?"}]
    assert ask(client, input=turns).output_text


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_tool_is_called(client, streamed):
    fields = {"model": "tgi", "input": QUESTION, "temperature": 0, "max_output_tokens": 60, "tools": [TOOL]}
    fields["tool_choice"] = {"type": "function", "name": "weather"}
    if streamed:
        with client.responses.stream(**fields) as stream:
            answer = stream.get_final_response()
    else:
        answer = client.responses.create(**fields)
    (call,) = answer.output
    assert (call.type, call.name, call.status) == ("function_call", "weather", "completed")
    assert call.arguments in ('{"city":"Lima"}', '{"city":"Oslo"}', '{"city": "Lima"}', '{"city": "Oslo"}')


def test_a_form_is_parsed_by_the_client(client):
    class Answer(BaseModel):
        city: Literal["Lima", "Oslo"]
        open: bool

    parsed = client.responses.parse(model="tgi", input=QUESTION, text_format=Answer, temperature=0, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Answer)


def test_log_probabilities(client):
    answer = ask(client, include=["message.output_text.logprobs"], top_logprobs=2)
    (part,) = answer.output[0].content
    assert "".join(entry.token for entry in part.logprobs).strip() == part.text.strip()
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in part.logprobs)


def test_the_async_client_can_go_away(listener):
    async def run():
        async with sdk.AsyncOpenAI(base_url=listener.base_url, api_key="none", max_retries=0) as client:
            stream = await client.responses.create(model="tgi", input=QUESTION, max_output_tokens=400, stream=True)
            async for _ in stream:
                break
            await stream.close()
            return await client.responses.create(model="tgi", input=QUESTION, max_output_tokens=5)

    assert asyncio.run(run()).usage.output_tokens <= 5


@pytest.mark.parametrize("fields", [
    {"previous_response_id": "resp_1"},
    {"background": True},
    {"temperature": -1.0},
    {"tools": [{"type": "web_search"}]},
    {"input": "a " * 9000},
], ids=str)
def test_refusals_are_the_clients_exceptions(client, fields):
    for stream in (False, True):
        with pytest.raises(sdk.BadRequestError) as raised:
            ask(client, stream=stream, **fields)
        assert raised.value.type == "invalid_request_error"
