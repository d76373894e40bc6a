"""Every reply against the published contract, and what clients rely on beyond it."""

import base64
import concurrent.futures
import datetime
import json

import pytest
from harness.client import Client
from harness.ollama_api import GREEDY, PROMPT, QUESTION, chat, conforms, generate
from harness.server import wait_for


PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Lima", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


@pytest.mark.parametrize("call", [generate, chat])
def test_answers_have_the_contracts_shape(ollama, call):
    answer = call(ollama)
    assert answer["model"] == ollama.model
    assert answer["done"] is True and answer["done_reason"] in ("stop", "length")
    assert all(answer[name] > 0 for name in DURATIONS)
    assert answer["prompt_eval_count"] > 0 and answer["eval_count"] > 0
    path = "/api/generate" if call is generate else "/api/chat"
    body = {"model": ollama.model, "prompt": PROMPT, "options": GREEDY}
    if call is chat:
        body["messages"] = QUESTION
    *parts, last = ollama.lines(path, body)
    assert all(part["done"] is False for part in parts) and last["done"] is True
    text = "".join(part["response"] if call is generate else part["message"]["content"] for part in parts)
    assert text == (answer["response"] if call is generate else answer["message"]["content"])
    assert last["eval_count"] == answer["eval_count"]


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("keep,reason", [({}, "load"), ({"keep_alive": 0}, "unload")])
def test_loading_and_unloading_have_the_contracts_shape(ollama, streams, keep, reason):
    said = {
        "/api/generate": ({"prompt": ""}, {"response": ""}),
        "/api/chat": ({"messages": []}, {"message": {"role": "assistant", "content": ""}}),
    }
    for path, (body, empty) in said.items():
        body = body | {"model": ollama.model} | keep
        (answer,) = ollama.lines(path, body) if streams else [ollama.whole(path, body)]
        assert answer.pop("created_at").endswith("Z")
        assert answer == {"model": ollama.model, "done": True, "done_reason": reason} | empty, path


def test_reasoning_calls_and_pictures_have_the_contracts_shape(ollama, thinker, caller):
    """Of what came after the contract, each in a stream and at once: what is in it, it has as it is there."""
    for call, path, asked in (
        (generate, "/api/generate", {"prompt": "Well"}),
        (chat, "/api/chat", {"messages": [{"role": "user", "content": "Well?"}]}),
    ):
        answer = call(thinker, think=True, **asked)
        parts = thinker.lines(path, {"model": thinker.model, "think": True, "options": GREEDY} | asked)
        said = [part if path == "/api/generate" else part["message"] for part in [answer, *parts]]
        assert said[0]["thinking"].strip() == "Hm" == "".join(part.get("thinking", "") for part in said[1:]).strip()
    weather = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
    asked = {"tools": [weather], "messages": [{"role": "user", "content": "Tell me?"}], "options": GREEDY | {"num_predict": 100}}
    streamed = caller.lines("/api/chat", {"model": caller.model} | asked)
    for parts in ([chat(caller, **asked)], streamed):
        calls = [call["function"] for part in parts for call in part["message"].get("tool_calls", [])]
        assert [(call["name"], call["arguments"]) for call in calls] == [("weather", {"city": "Oslo"})]
    # Of the models here, none reads pictures.
    for path, asked in (
        ("/api/generate", {"prompt": PROMPT, "images": [PICTURE]}),
        ("/api/chat", {"messages": [QUESTION[0] | {"images": [PICTURE]}]}),
    ):
        for streams in (True, False):
            refused = ollama.client.post(path, {"model": ollama.model, "stream": streams} | asked)
            assert refused.status == 400 and "image input" in refused.json()["error"], refused.text
            assert list(refused.json()) == ["error"] and refused.headers["content-type"] == "application/json"


@pytest.mark.parametrize("call", [generate, chat])
def test_a_limit_is_kept_to_the_token(ollama, call):
    # A form that does not let the model end before.
    endless = {"type": "array", "items": {"type": "string"}, "minItems": 1000}
    answer = call(ollama, format=endless, options={"num_predict": 10})
    assert (answer["eval_count"], answer["done_reason"]) == (10, "length")


def test_the_context_is_prompt_and_answer(ollama, reference):
    answer = generate(ollama)
    text = reference.tokenizer.decode(answer["context"], skip_special_tokens=True)
    assert PROMPT in text and answer["response"].strip() in text
    assert len(answer["context"]) == answer["prompt_eval_count"] + answer["eval_count"]
    longer = generate(ollama, context=answer["context"])
    assert longer["prompt_eval_count"] == len(answer["context"]) + answer["prompt_eval_count"]


def test_lists_and_descriptions_have_the_contracts_shape(ollama):
    tags = ollama.client.get("/api/tags").json()
    conforms("ListResponse", tags)
    assert [model["model"] for model in tags["models"]] == [ollama.model]
    running = ollama.client.get("/api/ps").json()
    conforms("ProcessResponse", running)
    assert [model["name"] for model in running["models"]] == [ollama.model]
    expires = datetime.datetime.fromisoformat(running["models"][0]["expires_at"][:19])
    assert expires.year > 2200, "pinned"
    shown = ollama.client.post_ok("/api/show", {"model": ollama.model})
    conforms("ShowResponse", shown)
    assert shown["template"] and shown["modelfile"] and shown["modified_at"]
    assert all(shown["details"][name] for name in ("format", "family", "parameter_size", "quantization_level"))
    family = shown["details"]["family"]
    assert shown["model_info"]["general.architecture"] == family
    assert shown["model_info"][f"{family}.context_length"] > 0
    version = ollama.client.get("/api/version").json()["version"]
    assert tuple(int(part) for part in version.split("+")[0].split(".")) >= (0, 12, 11)


def test_head_and_get_are_both_answered(ollama):
    for path in ("/api/tags", "/api/version"):
        assert ollama.client.request("HEAD", path).status == 200


def test_log_probabilities(ollama):
    answer = chat(ollama, logprobs=True, top_logprobs=3)
    assert len(answer["logprobs"]) == answer["eval_count"]
    for entry in answer["logprobs"]:
        assert entry["token"] and entry["logprob"] <= 0
        assert bytes(entry["bytes"]).decode() == entry["token"]
        top = [likely["logprob"] for likely in entry["top_logprobs"]]
        assert len(top) <= 3 and top == sorted(top, reverse=True)
    assert "logprobs" not in chat(ollama)
    assert all("top_logprobs" not in entry for entry in chat(ollama, logprobs=True)["logprobs"])


def test_many_at_once_say_what_each_says_alone(ollama):
    prompts = [f"The number {number} is" for number in range(12)]
    alone = [generate(ollama, prompt=prompt)["response"] for prompt in prompts]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda prompt: generate(ollama, prompt=prompt)["response"], prompts))
    assert together == alone


def test_a_full_server_is_busy(start_server):
    server = start_server("--max-concurrent-requests", "1", env={"OLLAMA_MAX_QUEUE": "2"})
    client = Client(server.port)
    body = {"model": client.get("/api/tags").json()["models"][0]["name"], "prompt": PROMPT, "options": {"num_predict": 400}}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/api/generate", body), range(8)))
    refused = [answer for answer in answers if answer.status == 503]
    assert len(refused) < 8 - 2 and all(answer.status in (200, 503) for answer in answers)
    assert refused
    assert all(answer.json()["error"].startswith("server busy") for answer in refused)
    # Whoever left, and whoever was refused, left nothing behind.
    wait_for(lambda: client.post("/api/generate", body | {"options": {"num_predict": 1}}).status == 200, 5, "a place")


def test_long_inputs_are_cut_or_refused_with_the_word(ollama):
    long = "word " * 20_000
    assert generate(ollama, prompt=long, options={"num_predict": 1})["eval_count"] == 1
    refused = ollama.client.post(
        "/api/generate", {"model": ollama.model, "prompt": long, "truncate": False, "stream": False}
    )
    assert refused.status == 400
    assert "context" in refused.json()["error"] and "exceed" in refused.json()["error"]


@pytest.mark.parametrize("body", ["", "{", '{"model": 1}', '{"model": "x", "options": 3}'])
def test_bad_bodies_are_refused_in_ollamas_form(ollama, body):
    answer = ollama.client.request("POST", "/api/chat", body.encode())
    assert answer.status == 400 and isinstance(answer.json()["error"], str)


def test_a_form_content_type_is_read_as_json(ollama):
    body = json.dumps({"model": ollama.model, "prompt": PROMPT, "stream": False, "options": GREEDY}).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert ollama.client.post("/api/generate", body, headers).status == 200


@pytest.mark.parametrize("profile", ["openai", "ollama", "jan"])
def test_the_greeting(start_server, profile):
    """Of what serves Ollama's clients at the address that they were given."""
    server = start_server("--profile", profile)
    for method in ("GET", "HEAD"):
        answer = Client(server.port).request(method, "/")
        assert answer.status == 200 and answer.text == ("Ollama is running" if method == "GET" else "")
