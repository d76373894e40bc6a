"""OpenAI's own client for Python, unmodified."""

import json

import openai as sdk
import pytest
from harness.server import Server

QUESTION = [{"role": "user", "content": "Which port do you listen on?"}]
PROMPT = "Once upon a time"
CITIES = ["Paris", "Rome"]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": CITIES}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "In a city", "parameters": PARAMETERS}}]


def connect(base_url: str, key: str = "none") -> sdk.OpenAI:
    return sdk.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=30)


@pytest.fixture
def client(listener):
    return connect(listener.base_url)


def ask(client, **fields):
    fields = {"model": "tgi", "messages": QUESTION, "temperature": 0, "max_tokens": 24} | fields
    return client.chat.completions.create(**fields)


def test_chat(client):
    answer = ask(client)
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_stream(client):
    text = ask(client).choices[0].message.content
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")


def test_the_helper_that_accumulates_a_stream(openai):
    """It checks roles, ids and indices on the way."""
    client = connect(openai.base_url)
    with client.chat.completions.stream(model="tgi", messages=QUESTION, temperature=0, max_tokens=48, n=2) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    assert {event.type for event in events} >= {"chunk", "content.delta", "content.done"}
    assert [choice.index for choice in final.choices] == [0, 1]
    assert final.choices[0].message.content == ask(client, max_tokens=48).choices[0].message.content


def test_logprobs(client):
    answer = ask(client, logprobs=True, top_logprobs=4, max_tokens=8)
    content = answer.choices[0].logprobs.content
    assert len(content) == 8
    for token in content:
        assert len(token.top_logprobs) == 4
        assert token.logprob == max(top.logprob for top in token.top_logprobs)
        assert bytes(token.bytes).decode() == token.token


def test_a_tool_is_called_and_its_result_read(openai):
    client = connect(openai.base_url)
    asked = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 100}
    answer = ask(client, **asked)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert (call.type, call.function.name) == ("function", "weather") and call.id
    assert json.loads(call.function.arguments)["city"] in CITIES
    with client.chat.completions.stream(
        model="tgi", messages=QUESTION, temperature=0, **asked
    ) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert [(one.function.name, one.function.arguments) for one in streamed.message.tool_calls] == [
        (one.function.name, one.function.arguments) for one in choice.message.tool_calls
    ]
    result = {"role": "tool", "tool_call_id": call.id, "content": "It is sunny."}
    messages = [*QUESTION, choice.message.model_dump(exclude_none=True), result]
    final = ask(client, messages=messages, tools=TOOLS, tool_choice="none")
    assert final.choices[0].message.content and not final.choices[0].message.tool_calls
    assert final.usage.prompt_tokens > ask(client, max_tokens=1).usage.prompt_tokens


def test_an_answer_of_a_schema(openai):
    format = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": PARAMETERS}}
    answer = ask(connect(openai.base_url), response_format=format, max_tokens=60)
    assert json.loads(answer.choices[0].message.content)["city"] in CITIES


def test_n_and_seed(client):
    answers = [ask(client, n=3, temperature=1.5, seed=11) for _ in range(2)]
    texts = [[choice.message.content for choice in answer.choices] for answer in answers]
    assert texts[0] == texts[1] and len(texts[0]) == 3
    assert [choice.index for choice in answers[0].choices] == [0, 1, 2]


def test_completions(client):
    answer = client.completions.create(model="tgi", prompt=[PROMPT, "Hello"], temperature=0, max_tokens=8)
    assert [choice.index for choice in answer.choices] == [0, 1]
    texts = ["", ""]
    stream = client.completions.create(
        model="tgi", prompt=[PROMPT, "Hello"], temperature=0, max_tokens=8, stream=True
    )
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    # TGI's streams say what ends a text.
    assert [text.removesuffix("<|end|>") for text in texts] == [choice.text for choice in answer.choices]


def test_completion_logprobs(openai):
    answer = connect(openai.base_url).completions.create(
        model="tgi", prompt=PROMPT, temperature=0, max_tokens=4, logprobs=2, echo=True
    )
    lists = answer.choices[0].logprobs
    assert lists.token_logprobs[0] is None
    assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.text_offset) == len(lists.top_logprobs)


def test_models(client):
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id
    with pytest.raises(sdk.NotFoundError) as caught:
        client.models.retrieve("no/such")
    assert caught.value.status_code == 404


def test_errors_are_typed(openai):
    client = connect(openai.base_url)
    with pytest.raises(sdk.BadRequestError) as caught:
        ask(client, top_p=1.5)
    error = caught.value
    assert (error.param, error.type, error.code) == ("top_p", "invalid_request_error", None)
    assert error.body["message"] == "Input validation error: `top_p` must be > 0.0 and < 1.0"
    with pytest.raises(sdk.BadRequestError) as caught:
        client.completions.create(model="tgi", prompt="a " * 9000, max_tokens=2)
    assert caught.value.code == "context_length_exceeded"
    # Refusals of streams come before the first byte.
    with pytest.raises(sdk.BadRequestError):
        ask(client, top_p=1.5, stream=True)


def test_errors_in_tgis_form(tgi):
    client = connect(tgi.base_url)
    with pytest.raises(sdk.UnprocessableEntityError):
        ask(client, top_p=1.5)
    with pytest.raises(sdk.APIError, match="top_p"):
        list(ask(client, top_p=1.5, stream=True))


def test_keys_and_places(start_server):
    server: Server = start_server("--api-key", "Right-Key", "--max-concurrent-requests", "1")
    with pytest.raises(sdk.AuthenticationError) as caught:
        ask(connect(f"{server.url}/v1", "wrong"))
    assert caught.value.code == "invalid_api_key"
    client = connect(f"{server.url}/v1", "Right-Key")
    assert ask(client).choices
    with pytest.raises(sdk.RateLimitError) as caught:
        client.completions.create(model="tgi", prompt=["a", "b"])
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) >= 1
