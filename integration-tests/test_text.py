"""Text as it is streamed: whole characters, stop strings, and the same as in one piece."""

import pytest
from harness.client import DONE

PROMPT = "Once upon a time"
# At this temperature the demo model writes random tokens, single bytes of longer characters among them.
WILD = {"max_new_tokens": 60, "do_sample": True, "temperature": 8.0, "ignore_eos": True, "details": True}


@pytest.mark.parametrize("seed", range(12))
def test_wild_text_is_the_same_in_every_form(client, reference, seed):
    body = {"inputs": PROMPT, "parameters": WILD | {"seed": seed}}
    plain = client.post_ok("/generate", body)
    ids = [token["id"] for token in plain["details"]["tokens"]]
    assert len(ids) == WILD["max_new_tokens"]
    assert plain["details"]["seed"] == seed
    # The whole text as another decoder sees it, the prompt before it so that no leading space is taken off.
    whole = reference.text(reference.ids(PROMPT) + ids)
    assert PROMPT + plain["generated_text"] == whole
    _, events = client.stream("/generate_stream", body)
    assert [event["token"]["id"] for event in events] == ids
    assert events[-1]["generated_text"] == plain["generated_text"]
    assert "".join(e["token"]["text"] for e in events if not e["token"]["special"]) == plain["generated_text"]


@pytest.mark.parametrize("seed", range(6))
def test_wild_completions_are_the_same_in_every_form(client, seed):
    body = {"prompt": PROMPT, "max_tokens": 60, "temperature": 8.0, "seed": seed, "ignore_eos": True}
    (plain,) = client.post_ok("/v1/completions", body)["choices"]
    _, events = client.stream("/v1/completions", body | {"stream": True})
    assert events.pop() == DONE
    assert "".join(event["choices"][0]["text"] for event in events) == plain["text"]
    assert plain["finish_reason"] == "length"


def test_wild_text_holds_characters_of_several_tokens(client):
    """The two tests above are about something: some character there took more than one token."""
    body = {"inputs": PROMPT, "parameters": WILD | {"seed": 0, "max_new_tokens": 400}}
    tokens = client.post_ok("/generate", body)["details"]["tokens"]
    assert any(token["text"] == "" for token in tokens), "a token that only begins a character shows nothing yet"


def stops(client) -> list[str]:
    """Every piece of three characters of the greedy text that occurs in it only once."""
    full = client.post_ok("/generate", {"inputs": PROMPT, "parameters": {"max_new_tokens": 40}})["generated_text"]
    pieces = [full[at : at + 3] for at in range(5, len(full) - 3, 4)]
    return [piece for piece in pieces if full.count(piece) == 1]


def test_stop_strings_match_wherever_tokens_begin(client):
    full = client.post_ok("/generate", {"inputs": PROMPT, "parameters": {"max_new_tokens": 40}})["generated_text"]
    pieces = stops(client)
    assert len(pieces) >= 10
    for stop in pieces:
        kept = full[: full.index(stop)]
        body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0.0, "stop": stop, "stream": True}
        _, events = client.stream("/v1/completions", body)
        assert events.pop() == DONE
        assert "".join(event["choices"][0]["text"] for event in events) == kept, f"stop {stop!r}"
        assert events[-1]["choices"][0]["finish_reason"] == "stop"
        _, events = client.stream(
            "/generate_stream",
            {"inputs": PROMPT, "parameters": {"max_new_tokens": 40, "stop": [stop], "details": True}},
        )
        assert events[-1]["generated_text"] == kept + stop
        assert events[-1]["details"]["finish_reason"] == "stop_sequence"


def test_what_may_become_a_stop_string_is_shown_in_the_end(client):
    """A stop string that begins like the text's end and never completes takes nothing away."""
    full = client.post_ok("/generate", {"inputs": PROMPT, "parameters": {"max_new_tokens": 24}})["generated_text"]
    stop = full[-4:] + "\x00never"
    _, events = client.stream(
        "/v1/completions", {"prompt": PROMPT, "max_tokens": 24, "temperature": 0.0, "stop": [stop], "stream": True}
    )
    assert events.pop() == DONE
    assert "".join(event["choices"][0]["text"] for event in events) == full
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_n_choices_with_seeds_repeat(client):
    body = {"prompt": PROMPT, "max_tokens": 20, "temperature": 1.5, "seed": 5, "n": 3}
    first = client.post_ok("/v1/completions", body)
    again = client.post_ok("/v1/completions", body)
    texts = [choice["text"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert texts == [choice["text"] for choice in again["choices"]]
    assert len(set(texts)) > 1, "choices draw from generators of their own"


def test_logit_bias_decides(client, reference):
    (token,) = reference.ids("fox", special=False)[:1]
    body = {"prompt": PROMPT, "max_tokens": 3, "temperature": 0.0, "logit_bias": {str(token): 100}}
    (choice,) = client.post_ok("/v1/completions", body)["choices"]
    assert choice["text"] == reference.text([token] * 3)


def test_ignore_eos_and_min_tokens(client):
    question = {"messages": [{"role": "user", "content": "Which port do you listen on?"}], "temperature": 0.0}
    usual = client.post_ok("/v1/chat/completions", question)["usage"]["completion_tokens"]
    longer = client.post_ok("/v1/chat/completions", question | {"min_tokens": usual + 5, "max_tokens": usual + 20})
    assert usual + 5 <= longer["usage"]["completion_tokens"] <= usual + 20
    open_end = client.post_ok("/v1/chat/completions", question | {"ignore_eos": True, "max_tokens": usual + 7})
    assert open_end["usage"]["completion_tokens"] == usual + 7
    assert open_end["choices"][0]["finish_reason"] == "length"
