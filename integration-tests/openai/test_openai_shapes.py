"""Answers and streams of /v1 in OpenAI's own form and in TGI's, against the contract's schemas."""

import pytest
from harness.client import DONE

QUESTION = [{"role": "user", "content": "Which port do you listen on?"}]
PROMPT = "Once upon a time"
PROMPTS = [PROMPT, "The capital of France", "Hello"]


def chat(**fields):
    return {"messages": QUESTION, "temperature": 0.0, "max_tokens": 24, **fields}


def completion(**fields):
    return {"prompt": PROMPT, "temperature": 0.0, "max_tokens": 12, **fields}


def native(client, **parameters):
    """The same text as TGI's own route tells it, token by token."""
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 12, "details": True, "top_n_tokens": 2, **parameters}}
    return client.post_ok("/generate", body)


def test_chat(listener, reference):
    answer = listener.client.post_ok("/v1/chat/completions", chat())
    listener.check("ChatCompletion", answer)
    (choice,) = answer["choices"]
    assert answer["id"] == "" if listener.is_tgi else answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert choice["index"] == 0 and choice["logprobs"] is None
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"]
    usage = answer["usage"]
    assert usage["prompt_tokens"] == len(reference.chat_ids(QUESTION))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert choice["finish_reason"] == ("length" if usage["completion_tokens"] == 24 else "stop")


@pytest.mark.parametrize("usage_wanted", [False, True])
def test_chat_stream(listener, usage_wanted):
    plain = listener.client.post_ok("/v1/chat/completions", chat())
    body = chat(stream=True, stream_options={"include_usage": usage_wanted})
    headers, events = listener.client.stream("/v1/chat/completions", body)
    assert headers["content-type"] == "text/event-stream" and headers["x-accel-buffering"] == "no"
    assert headers["x-compute-type"] and int(headers["x-compute-characters"]) > 0
    assert events.pop() == DONE
    for event in events:
        listener.check("ChatCompletionChunk", event)
        assert event["object"] == "chat.completion.chunk" and event["model"] == plain["model"]
    if usage_wanted:
        last = events.pop()
        assert last["choices"] == []
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        assert {name: last["usage"][name] for name in counts} == {name: plain["usage"][name] for name in counts}
    else:
        assert all(event.get("usage") is None for event in events)
    choices = [event["choices"][0] for event in events]
    said = "".join(choice["delta"].get("content", "") for choice in choices)
    assert said == plain["choices"][0]["message"]["content"]
    reasons = [choice["finish_reason"] for choice in choices]
    assert reasons == [None] * (len(choices) - 1) + [plain["choices"][0]["finish_reason"]]
    roles = ["role" in choice["delta"] for choice in choices]
    if listener.is_tgi:
        assert all(roles) and {event["id"] for event in events} == {""}
        assert len(choices) == plain["usage"]["completion_tokens"], "one chunk per token"
    else:
        assert roles == [True] + [False] * (len(choices) - 1)
        (identity,) = {event["id"] for event in events}
        assert identity.startswith("chatcmpl-")


def test_completions(listener, reference):
    response = listener.client.post("/v1/completions", completion(prompt=PROMPTS))
    answer = response.json()
    listener.check("CompletionFinal", answer)
    assert answer["object"] == "text_completion"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    alone = [listener.client.post_ok("/v1/completions", completion(prompt=prompt)) for prompt in PROMPTS]
    assert [choice["text"] for choice in answer["choices"]] == [one["choices"][0]["text"] for one in alone]
    assert alone[0]["choices"][0]["text"] == native(listener.client)["generated_text"]
    prompt_tokens = [len(reference.ids(prompt)) for prompt in PROMPTS]
    assert answer["usage"]["prompt_tokens"] == sum(prompt_tokens)
    assert answer["usage"]["completion_tokens"] == sum(one["usage"]["completion_tokens"] for one in alone)
    headers = response.headers
    assert headers["x-prompt-tokens"] == str(sum(prompt_tokens))
    assert headers["x-generated-tokens"] == str(answer["usage"]["completion_tokens"])
    assert headers["x-compute-characters"] == str(sum(map(len, PROMPTS)))
    assert headers["x-compute-type"] and headers["x-compute-time"] is None
    for name in ("total", "validation", "queue", "inference"):
        assert headers[f"x-{name}-time"].isdigit()


def test_completions_stream(listener):
    plain = listener.client.post_ok("/v1/completions", completion(prompt=PROMPTS))
    headers, events = listener.client.stream("/v1/completions", completion(prompt=PROMPTS, stream=True))
    assert headers["x-compute-characters"] == str(sum(map(len, PROMPTS)))
    assert events.pop() == DONE
    for event in events:
        listener.check("Chunk", event)
        assert event["object"] == "text_completion"
    generated = 0
    for index, whole in enumerate(plain["choices"]):
        own = [event for event in events if event["choices"][0]["index"] == index]
        *before, last = [event["choices"][0] for event in own]
        assert "".join(choice["text"] for choice in [*before, last]).startswith(whole["text"])
        assert {choice["finish_reason"] for choice in before} <= ({""} if listener.is_tgi else {None})
        if listener.is_tgi:
            # TGI does not map the reason in streams, and counts each prompt in its last chunk.
            assert last["finish_reason"] == {"stop": "eos_token"}.get(whole["finish_reason"], whole["finish_reason"])
            assert own[-1]["usage"]["completion_tokens"] == len(own)
            assert all("usage" not in event for event in own[:-1])
            generated += len(own)
        else:
            assert last["finish_reason"] == whole["finish_reason"]
    if listener.is_tgi:
        assert generated == plain["usage"]["completion_tokens"]


def test_prompts_are_text_or_tokens(listener, reference):
    ids = reference.ids(PROMPT)
    expected = listener.client.post_ok("/v1/completions", completion())["choices"][0]["text"]
    for prompt, answers in ((ids, 1), ([ids, ids], 2), ([PROMPT], 1)):
        answer = listener.client.post_ok("/v1/completions", completion(prompt=prompt))
        listener.check("CompletionFinal", answer)
        assert [choice["text"] for choice in answer["choices"]] == [expected] * answers


def test_a_stop_string_is_removed_or_kept(listener):
    text = native(listener.client, max_new_tokens=24)["generated_text"]
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    before = text[: text.index(stop)]
    expected, reason = (before + stop, "stop_sequence") if listener.is_tgi else (before, "stop")
    for form in (stop, [stop], ["\0 never", stop]):
        answer = listener.client.post_ok("/v1/completions", completion(max_tokens=24, stop=form))
        assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == (expected, reason)
        _, events = listener.client.stream("/v1/completions", completion(max_tokens=24, stop=form, stream=True))
        assert "".join(event["choices"][0]["text"] for event in events[:-1]) == expected
        assert events[-2]["choices"][0]["finish_reason"] == reason


def test_chat_logprobs_are_those_of_the_tokens(listener):
    body = chat(logprobs=True, top_logprobs=3)
    answer = listener.client.post_ok("/v1/chat/completions", body)
    listener.check("ChatCompletion", answer)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == answer["usage"]["completion_tokens"]
    for entry in content:
        assert len(entry["top_logprobs"]) == 3
        assert (entry["token"], entry["logprob"]) == tuple(entry["top_logprobs"][0][k] for k in ("token", "logprob"))
        assert entry["logprob"] <= 0
    said = b"".join(bytes(entry["bytes"]) for entry in content).decode()
    assert said.startswith(answer["choices"][0]["message"]["content"])
    _, events = listener.client.stream("/v1/chat/completions", body | {"stream": True})
    streamed = [
        entry for event in events[:-1] for entry in (event["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == content


def test_completion_logprobs(openai, reference):
    details = native(openai.client)["details"]
    answer = openai.client.post_ok("/v1/completions", completion(logprobs=2, echo=True))
    (choice,) = answer["choices"]
    prompt = reference.ids(PROMPT)
    lists = choice["logprobs"]
    assert len({len(values) for values in lists.values()}) == 1
    assert lists["token_logprobs"][0] is None
    assert all(logprob < 0 for logprob in lists["token_logprobs"][1 : len(prompt)])
    assert lists["token_logprobs"][len(prompt) :] == [token["logprob"] for token in details["tokens"]]
    assert lists["top_logprobs"][: len(prompt)] == [None] * len(prompt)
    for top, expected in zip(lists["top_logprobs"][len(prompt) :], details["top_tokens"], strict=True):
        assert sorted(top.values()) == sorted(token["logprob"] for token in expected)
    assert choice["text"].startswith(PROMPT)
    special = len(prompt) - len(reference.ids(PROMPT, special=False))
    assert lists["text_offset"][special] == sum(map(len, lists["tokens"][:special]))


def test_completion_logprobs_are_numbers_in_tgis_contract(tgi):
    expected = [token["logprob"] for token in native(tgi.client)["details"]["tokens"]]
    answer = tgi.client.post_ok("/v1/completions", completion(logprobs=1))
    tgi.check("CompletionFinal", answer)
    assert answer["choices"][0]["logprobs"] == expected


def test_models(listener):
    answer = listener.client.get("/v1/models").json()
    assert answer["object"] == "list"
    (model,) = answer["data"]
    listener.check("ModelInfo", model)
    for name in (model["id"], model["id"].replace("/", "%2F")):
        single = listener.client.get(f"/v1/models/{name}").json()
        listener.check("ModelInfo", single)
        assert {key: single[key] for key in ("id", "object", "created", "owned_by")} == {
            key: model[key] for key in ("id", "object", "created", "owned_by")
        }
    response = listener.client.get("/v1/models/no/such")
    assert response.status == 404
    if listener.is_tgi:
        listener.check("ErrorResponse", response.json())
    else:
        assert response.json()["error"]["code"] == "model_not_found"


def test_any_model_name_is_served(listener):
    for given in ("gpt-4o", "someone/something"):
        assert listener.client.post_ok("/v1/chat/completions", chat(model=given))["model"] == given
    served = listener.client.get("/v1/models").json()["data"][0]["id"]
    for given in ("tgi", "", None):
        assert listener.client.post_ok("/v1/chat/completions", chat(model=given))["model"] == served
