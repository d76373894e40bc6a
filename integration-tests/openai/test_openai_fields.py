"""Every field of a request has its effect."""

import socket

import pytest

QUESTION = [{"role": "user", "content": "Which port do you listen on?"}]
PROMPT = "Once upon a time"


def chat(**fields):
    return {"messages": QUESTION, "temperature": 0.0, "max_tokens": 40, **fields}


def said(listener, **fields):
    answer = listener.client.post_ok("/v1/chat/completions", chat(**fields))
    return [choice["message"]["content"] for choice in answer["choices"]]


def test_choices_are_as_many_as_asked_and_the_same_in_a_stream(listener):
    fields = {"n": 4, "temperature": 1.5, "seed": 7}
    texts = said(listener, **fields)
    assert len(texts) == 4 and len(set(texts)) > 1
    assert said(listener, **fields) == texts
    _, events = listener.client.stream("/v1/chat/completions", chat(**fields, stream=True))
    streamed = [""] * 4
    for event in events[:-1]:
        choice = event["choices"][0]
        streamed[choice["index"]] += choice["delta"].get("content") or ""
    assert streamed == texts


def told(listener, **fields):
    body = {"prompt": PROMPT, "max_tokens": 30} | fields
    return listener.client.post_ok("/v1/completions", body)["choices"][0]["text"]


def test_a_seed_repeats(listener):
    assert told(listener, temperature=1.5, seed=3) == told(listener, temperature=1.5, seed=3)
    assert len({told(listener, temperature=1.5, seed=seed) for seed in (1, 2, 3, -1)}) > 1


def test_without_a_temperature_it_samples(listener):
    """Greedy is one text whatever the seed; the default is not."""
    assert len({told(listener, seed=seed) for seed in range(6)}) > 1
    assert len({told(listener, temperature=0, seed=seed) for seed in range(3)}) == 1


def test_a_bias_bans_and_forces_tokens(listener, reference):
    parameters = {"max_new_tokens": 1, "details": True, "top_n_tokens": 2}
    details = listener.client.post_ok("/generate", {"inputs": PROMPT, "parameters": parameters})["details"]
    first, second = details["top_tokens"][0]
    array = [0.0] * first["id"] + [-100.0]
    for bias in ({str(first["id"]): -100}, array):
        body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 1, "logit_bias": bias}
        assert listener.client.post_ok("/v1/completions", body)["choices"][0]["text"] == second["text"]
    wanted = reference.ids(" the", special=False)[-1]
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 3, "logit_bias": {str(wanted): 100}}
    text = listener.client.post_ok("/v1/completions", body)["choices"][0]["text"]
    assert text == reference.text(reference.ids(PROMPT) + [wanted] * 3)[len(PROMPT) :]


def test_ends_are_ignored_or_put_off(listener):
    answer = listener.client.post_ok("/v1/chat/completions", chat(max_tokens=60))
    assert answer["choices"][0]["finish_reason"] == "stop", "the question was chosen for its short answer"
    natural = answer["usage"]["completion_tokens"]
    longer = listener.client.post_ok("/v1/chat/completions", chat(max_tokens=60, ignore_eos=True))
    assert (longer["choices"][0]["finish_reason"], longer["usage"]["completion_tokens"]) == ("length", 60)
    later = listener.client.post_ok("/v1/chat/completions", chat(max_tokens=60, min_tokens=natural + 2))
    assert later["usage"]["completion_tokens"] >= natural + 2


def test_how_many_tokens_by_default(listener):
    body = {"prompt": PROMPT, "temperature": 0, "ignore_eos": True}
    assert listener.client.post_ok("/v1/completions", body)["usage"]["completion_tokens"] == 32
    body = {"messages": QUESTION, "temperature": 0, "ignore_eos": True}
    assert listener.client.post_ok("/v1/chat/completions", body)["usage"]["completion_tokens"] == 100
    for name in ("max_tokens", "max_completion_tokens"):
        answer = listener.client.post_ok("/v1/chat/completions", body | {name: 3})
        assert answer["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty", "repetition_penalty"])
def test_penalties_keep_from_repeating(openai, penalty):
    fields = {"prompt": "a a a a a a a a", "temperature": 0, "max_tokens": 48, "ignore_eos": True}
    plain, varied = told(openai, **fields), told(openai, **fields, **{penalty: 1.8})
    assert varied != plain
    assert len(set(varied.split())) >= len(set(plain.split()))


def test_the_frequency_penalty_is_that_of_tgis_own_routes(tgi, openai):
    parameters = {"max_new_tokens": 30, "frequency_penalty": 2.0}
    native = tgi.client.post_ok("/generate", {"inputs": PROMPT, "parameters": parameters})["generated_text"]
    assert told(tgi, temperature=0, frequency_penalty=2.0) == native
    assert told(openai, temperature=0, frequency_penalty=2.0) != native


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"typical_p": 1e-6}, {"min_p": 1.0}])
def test_filters_narrow_to_one_text(listener, narrow):
    texts = {said(listener, temperature=1.0, seed=seed, max_tokens=12, **narrow)[0] for seed in range(4)}
    assert len(texts) == 1
    if "typical_p" not in narrow:
        assert texts == set(said(listener, temperature=0, max_tokens=12))


def test_best_of_is_the_likeliest(listener):
    body = {"prompt": PROMPT, "temperature": 1.2, "seed": 5, "max_tokens": 10, "ignore_eos": True, "logprobs": 0}

    def mean(choice):
        values = choice["logprobs"] if listener.is_tgi else choice["logprobs"]["token_logprobs"]
        return sum(values) / len(values)

    every = listener.client.post_ok("/v1/completions", body | {"n": 5})["choices"]
    best = listener.client.post_ok("/v1/completions", body | {"best_of": 5})
    assert len(best["choices"]) == 1 and best["usage"]["completion_tokens"] == 50
    assert best["choices"][0]["text"] == max(every, key=mean)["text"]


def test_an_echo_begins_with_the_prompt(listener):
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 5}
    plain = listener.client.post_ok("/v1/completions", body)["choices"][0]["text"]
    assert listener.client.post_ok("/v1/completions", body | {"echo": True})["choices"][0]["text"] == PROMPT + plain
    _, events = listener.client.stream("/v1/completions", body | {"echo": True, "stream": True})
    assert "".join(event["choices"][0]["text"] for event in events[:-1]).startswith(PROMPT + plain)


def test_what_the_assistant_began_is_continued(listener, reference):
    begun = [*QUESTION, {"role": "assistant", "content": "I listen on"}]
    answer = listener.client.post_ok("/v1/chat/completions", chat(messages=begun))
    prompt = reference.chat_prompt(QUESTION) + "I listen on"
    assert answer["usage"]["prompt_tokens"] == len(reference.ids(prompt, special=False))


def test_an_image_is_refused_and_not_fetched(listener):
    with socket.socket() as host:
        host.bind(("127.0.0.1", 0))
        host.listen()
        host.settimeout(0.5)
        url = f"http://127.0.0.1:{host.getsockname()[1]}/image.png"
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
        response = listener.client.post("/v1/chat/completions", chat(messages=[{"role": "user", "content": parts}]))
        assert response.status == (422 if listener.is_tgi else 400)
        error = response.json()["error"]
        message = error if listener.is_tgi else error["message"]
        assert message.startswith("Input validation error: invalid image content: ")
        with pytest.raises(TimeoutError):
            host.accept()
