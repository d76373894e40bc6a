"""The demo model through every route of the first form: shapes, counts, and that all routes tell the same."""

import math

import pytest
from harness import metrics
from harness.client import DONE
from harness.contracts import conforms

PROMPT = "Once upon a time"
QUESTION = [{"role": "user", "content": "Which port do you listen on?"}]
GREEDY = {"max_new_tokens": 24, "do_sample": False}


def chat(**fields):
    return {"model": "tgi", "messages": QUESTION, "temperature": 0.0, "max_tokens": 48, **fields}


def test_generate_is_its_text_alone(client):
    answer = client.post_ok("/generate", {"inputs": PROMPT, "parameters": GREEDY})
    conforms("GenerateResponse", answer)
    assert set(answer) == {"generated_text"}
    assert answer["generated_text"].strip()


def test_generate_details_add_up(client, reference):
    parameters = GREEDY | {"details": True, "top_n_tokens": 3}
    answer = client.post_ok("/generate", {"inputs": PROMPT, "parameters": parameters})
    conforms("GenerateResponse", answer)
    details = answer["details"]
    tokens = details["tokens"]
    assert details["generated_tokens"] == len(tokens) <= GREEDY["max_new_tokens"]
    assert details["finish_reason"] == ("length" if len(tokens) == GREEDY["max_new_tokens"] else "eos_token")
    assert details["seed"] is None and details["prefill"] == []
    assert reference.text([token["id"] for token in tokens]) == answer["generated_text"]
    assert len(details["top_tokens"]) == len(tokens)
    for token, top in zip(tokens, details["top_tokens"], strict=True):
        assert token["logprob"] <= 0
        assert top[0]["id"] == token["id"], "greedy takes the most likely token"
        assert top[0]["logprob"] == token["logprob"]
        assert [each["logprob"] for each in top] == sorted((each["logprob"] for each in top), reverse=True)
        assert sum(math.exp(each["logprob"]) for each in top) <= 1.0001


def test_generate_headers_tell_the_counts(client, reference):
    response = client.post("/generate", {"inputs": PROMPT, "parameters": GREEDY | {"details": True}})
    headers, details = response.headers, response.json()["details"]
    assert headers["x-generated-tokens"] == str(details["generated_tokens"])
    assert headers["x-prompt-tokens"] == str(len(reference.ids(PROMPT)))
    assert headers["x-compute-characters"] == str(len(PROMPT))
    assert headers["x-compute-type"]
    assert float(headers["x-compute-time"]) > 0
    for name in ("total", "validation", "queue", "inference"):
        assert headers[f"x-{name}-time"].isdigit()
    assert headers["x-time-per-token"].isdigit()


def test_greedy_is_deterministic(client):
    body = {"inputs": PROMPT, "parameters": GREEDY | {"details": True}}
    first = client.post_ok("/generate", body)
    assert client.post_ok("/generate", body) == first


def test_a_seed_repeats_and_another_differs(client):
    def texts(seed):
        body = {
            "inputs": PROMPT,
            "parameters": {"max_new_tokens": 40, "do_sample": True, "temperature": 2.0, "seed": seed},
        }
        return client.post_ok("/generate", body)["generated_text"]

    assert texts(1) == texts(1)
    assert len({texts(seed) for seed in range(4)}) > 1


def test_stream_equals_plain(client, reference):
    parameters = GREEDY | {"details": True}
    plain = client.post_ok("/generate", {"inputs": PROMPT, "parameters": parameters})
    headers, events = client.stream("/generate_stream", {"inputs": PROMPT, "parameters": parameters})
    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    for event in events:
        conforms("StreamResponse", event)
    assert [event["index"] for event in events] == list(range(1, len(events) + 1))
    assert [event["token"] for event in events] == plain["details"]["tokens"]
    *before, last = events
    assert all(event["generated_text"] is None and event["details"] is None for event in before)
    assert last["generated_text"] == plain["generated_text"]
    assert last["details"] == {
        "finish_reason": plain["details"]["finish_reason"],
        "generated_tokens": len(events),
        "seed": None,
        "input_length": len(reference.ids(PROMPT)),
    }
    shown = "".join(event["token"]["text"] for event in events if not event["token"]["special"])
    assert shown == plain["generated_text"]


def test_stream_has_no_details_unasked(client):
    _, events = client.stream("/generate_stream", {"inputs": PROMPT, "parameters": GREEDY})
    assert events[-1]["details"] is None
    assert DONE not in events


def test_root_is_generate_in_an_array(client):
    plain = client.post_ok("/generate", {"inputs": PROMPT, "parameters": GREEDY})["generated_text"]
    full = client.post_ok("/", {"inputs": PROMPT, "parameters": GREEDY | {"return_full_text": True}})
    assert full == [{"generated_text": PROMPT + plain}]
    short = client.post_ok("/", {"inputs": PROMPT, "parameters": GREEDY | {"return_full_text": False}})
    assert short == [{"generated_text": plain}]


def test_root_streams_on_request(client):
    body = {"inputs": PROMPT, "parameters": GREEDY | {"return_full_text": False}}
    _, events = client.stream("/", body | {"stream": True})
    assert events[-1]["generated_text"] == client.post_ok("/", body)[0]["generated_text"]


def test_root_get_is_health(client):
    assert client.get("/").status == client.get("/health").status == 200


def test_chat_plain(client, reference):
    answer = client.post_ok("/v1/chat/completions", chat())
    conforms("ChatCompletion", answer)
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["index"] == 0 and choice["finish_reason"] == "stop"
    assert choice["message"]["role"] == "assistant"
    assert "3000" in choice["message"]["content"]
    usage = answer["usage"]
    assert usage["prompt_tokens"] == len(reference.chat_ids(QUESTION))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    # The end-of-sequence token is counted and not shown.
    assert usage["completion_tokens"] == len(reference.ids(choice["message"]["content"], special=False)) + 1


def test_chat_is_generate_on_the_rendered_template(client, reference):
    content = client.post_ok("/v1/chat/completions", chat())["choices"][0]["message"]["content"]
    prompt = reference.chat_prompt(QUESTION)
    ids = reference.ids(prompt)
    if ids != reference.chat_ids(QUESTION):
        pytest.fail("the demo model's template and tokenizer both add the start token; /generate would see it twice")
    answer = client.post_ok("/generate", {"inputs": prompt, "parameters": {"max_new_tokens": 48, "do_sample": False}})
    assert answer["generated_text"] == content


def test_chat_stream_equals_plain(client):
    plain = client.post_ok("/v1/chat/completions", chat())
    _, events = client.stream("/v1/chat/completions", chat(stream=True, stream_options={"include_usage": True}))
    assert events.pop() == DONE
    assert DONE not in events
    for event in events:
        conforms("ChatCompletionChunk", event)
        assert event["object"] == "chat.completion.chunk"
    usage = events.pop()
    assert usage["choices"] == []
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert usage["usage"][count] == plain["usage"][count]
    assert all(event.get("usage") is None for event in events)
    choices = [event["choices"][0] for event in events]
    assert choices[0]["delta"]["role"] == "assistant"
    assert not any("role" in choice["delta"] for choice in choices[1:])
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == plain["choices"][0]["finish_reason"]
    streamed = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert streamed == plain["choices"][0]["message"]["content"]


def test_chat_stream_without_usage(client):
    _, events = client.stream("/v1/chat/completions", chat(stream=True))
    assert events.pop() == DONE
    assert all(event["choices"] and event.get("usage") is None for event in events)


def test_chat_logprobs(client, reference):
    answer = client.post_ok("/v1/chat/completions", chat(logprobs=True, top_logprobs=2))
    conforms("ChatCompletion", answer)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == answer["usage"]["completion_tokens"]
    for position in content:
        assert len(position["top_logprobs"]) == 2
        assert position["logprob"] == position["top_logprobs"][0]["logprob"] <= 0


def test_chat_stops_at_length(client):
    answer = client.post_ok("/v1/chat/completions", chat(max_tokens=3))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


def test_completions_plain(client, reference):
    body = {"model": "tgi", "prompt": PROMPT, "max_tokens": 24, "temperature": 0.0}
    answer = client.post_ok("/v1/completions", body)
    conforms("CompletionFinal", answer)
    assert answer["object"] == "text_completion"
    (choice,) = answer["choices"]
    generated = client.post_ok("/generate", {"inputs": PROMPT, "parameters": GREEDY | {"details": True}})
    assert choice["text"] == generated["generated_text"]
    assert choice["finish_reason"] == {"length": "length", "eos_token": "stop"}[generated["details"]["finish_reason"]]
    usage = answer["usage"]
    assert usage["prompt_tokens"] == len(reference.ids(PROMPT))
    assert usage["completion_tokens"] == generated["details"]["generated_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_completions_stream_equals_plain(client):
    prompts = [PROMPT, "The fox", "One morning"]
    body = {"model": "tgi", "prompt": prompts, "max_tokens": 16, "temperature": 0.0}
    plain = client.post_ok("/v1/completions", body)
    assert [choice["index"] for choice in plain["choices"]] == [0, 1, 2]
    _, events = client.stream("/v1/completions", body | {"stream": True})
    assert events.pop() == DONE
    texts, reasons = [""] * 3, [None] * 3
    for event in events:
        conforms("Chunk", event)
        assert event["object"] == "text_completion"
        for choice in event["choices"]:
            assert reasons[choice["index"]] is None, "nothing follows a finish reason"
            texts[choice["index"]] += choice["text"]
            reasons[choice["index"]] = choice["finish_reason"]
    assert texts == [choice["text"] for choice in plain["choices"]]
    assert all(reasons)


@pytest.mark.parametrize("text", ["Once upon a time, a fox.", "héllo wörld €", "日本語 👩‍🚀", "a\n\tb  c"])
def test_tokenize_is_the_tokenizers_own(client, reference, text):
    tokens = client.post_ok("/tokenize", {"inputs": text})
    conforms("TokenizeResponse", tokens)
    assert [token["id"] for token in tokens] == reference.ids(text)
    # Byte offsets; tokens that share a character share its span. The spans join back to the text.
    spans = list(dict.fromkeys((token["start"], token["stop"]) for token in tokens))
    data = text.encode()
    assert b"".join(data[start:stop] for start, stop in spans) == data
    assert [token["text"] for token in tokens] == [data[t["start"] : t["stop"]].decode() for t in tokens]


def test_info(client, server):
    info = client.get("/info").json()
    conforms("Info", info)
    assert info["max_concurrent_requests"] == 128
    assert info["max_best_of"] == 2
    assert info["max_stop_sequences"] == 4
    assert info["max_client_batch_size"] == 4
    assert info["validation_workers"] == 2
    assert 0 < info["max_input_tokens"] < info["max_total_tokens"]
    assert info["router"] == "text-generation-router"


def test_models(client):
    listing = client.get("/v1/models").json()
    assert listing["object"] == "list"
    (model,) = listing["data"]
    conforms("ModelInfo", model)
    assert model["object"] == "model"
    assert model["id"] == client.get("/info").json()["model_id"]


def test_metrics_count_requests_and_tokens(client):
    def read():
        response = client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        return metrics.parse(response.text)

    client.post_ok("/generate", {"inputs": PROMPT, "parameters": GREEDY})
    before = read()
    answer = client.post_ok("/generate", {"inputs": PROMPT, "parameters": GREEDY | {"details": True}})
    after = read()
    assert after["tgi_request_count"] == before["tgi_request_count"] + 1
    assert after["tgi_request_success"] == before["tgi_request_success"] + 1
    name = "tgi_request_generated_tokens"
    assert after[f"{name}_sum"] - before[f"{name}_sum"] == answer["details"]["generated_tokens"]
    assert after[f"{name}_count"] - before[f"{name}_count"] == 1


def test_stop_string_ends_the_text(client):
    full = client.post_ok("/generate", {"inputs": PROMPT, "parameters": GREEDY})["generated_text"]
    # Five characters from the middle of the answer, wherever the token boundaries are.
    stop = full[len(full) // 2 : len(full) // 2 + 5]
    end = full.index(stop) + len(stop)
    answer = client.post_ok("/generate", {"inputs": PROMPT, "parameters": GREEDY | {"stop": [stop], "details": True}})
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert answer["generated_text"] == full[:end], "/generate keeps the stop string"
    body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0.0, "stop": [stop]}
    (choice,) = client.post_ok("/v1/completions", body)["choices"]
    assert choice["text"] == full[: end - len(stop)], "/v1 leaves the stop string out"
    assert choice["finish_reason"] == "stop"


def test_unknown_route_and_method(client):
    assert client.get("/nothing-here").status == 404
    response = client.get("/generate")
    assert response.status == 405 and response.headers["allow"] == "POST"
