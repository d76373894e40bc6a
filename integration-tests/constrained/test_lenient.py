"""`strict: false`: what cannot be enforced is left out, told, and checked afterwards; without it, the schema is refused."""

import json

import pytest
from jsonschema import Draft202012Validator

NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}
SCHEMA = {
    "type": "object",
    "properties": {
        "counts": {"type": "array", "items": NUMBER, "minItems": 3, "maxItems": 3, "uniqueItems": True},
        "size": {"enum": ["s", "m"]},
    },
    "required": ["counts", "size"],
    "additionalProperties": False,
}
HOT = {"temperature": 1.5}
SEEDS = range(12)


def form(strict: bool | None, schema: dict = SCHEMA) -> dict:
    inner = {"name": "form", "schema": schema} | ({} if strict is None else {"strict": strict})
    return {"type": "json_schema", "json_schema": inner}


def chat(**fields) -> dict:
    return {"messages": [{"role": "user", "content": "Write."}], "max_tokens": 200} | HOT | fields


def tool(strict: bool | None) -> dict:
    function = {"name": "set_counts", "parameters": SCHEMA} | ({} if strict is None else {"strict": strict})
    return {"type": "function", "function": function}


def expect(check: dict, text: str) -> bool:
    """One check against Python's opinion of the same text; whether it is valid."""
    value = json.loads(text)
    valid = Draft202012Validator(SCHEMA).is_valid(value)
    assert check["valid"] is valid, (check, text)
    assert [(one["keyword"], one["path"]) for one in check["relaxed"]] == [("uniqueItems", "/properties/counts")]
    assert check["relaxed"][0]["reason"]
    # Everything else was enforced.
    rest = json.loads(json.dumps(SCHEMA))
    del rest["properties"]["counts"]["uniqueItems"]
    assert Draft202012Validator(rest).is_valid(value), text
    return valid


@pytest.mark.parametrize("strict", [None, True])
def test_strict_is_the_default(client, strict):
    answer = client.post("/v1/chat/completions", chat(response_format=form(strict)))
    assert answer.status == 400 and "uniqueItems" in answer.text and "/properties/counts" in answer.text
    answer = client.post("/v1/chat/completions", chat(tools=[tool(strict)], tool_choice="required"))
    assert answer.status == 400 and "uniqueItems" in answer.text


def test_a_text_is_checked(client):
    seen = set()
    for seed in SEEDS:
        answer = client.post("/v1/chat/completions", chat(response_format=form(False), seed=seed))
        assert answer.status == 200, answer.text
        choice = answer.json()["choices"][0]
        (check,) = choice["schema_checks"]
        assert "tool_call" not in check
        seen.add(expect(check, choice["message"]["content"]))
    assert seen == {True, False}


def test_a_streamed_text_is_checked_at_its_end(client):
    body = chat(response_format=form(False), seed=3, stream=True)
    _, events = client.stream("/v1/chat/completions", body)
    choices = [event["choices"][0] for event in events if event != "[DONE]" and event["choices"]]
    *others, (check,) = [choice.get("schema_checks", []) for choice in choices if choice["finish_reason"]]
    assert others == [] and sum("schema_checks" in choice for choice in choices) == 1
    expect(check, "".join(choice["delta"].get("content") or "" for choice in choices))


@pytest.mark.parametrize("stream", [False, True])
def test_tgis_own_route(client, stream):
    value = {"name": "form", "schema": SCHEMA, "strict": False}
    parameters = {"grammar": {"type": "json_schema", "value": value}, "max_new_tokens": 200, "seed": 5} | HOT
    if stream:
        _, events = client.stream("/generate_stream", {"inputs": "Write: ", "parameters": parameters})
        assert all("schema_check" not in event for event in events[:-1])
        answer = events[-1]
    else:
        answer = client.post("/generate", {"inputs": "Write: ", "parameters": parameters}).json()
    expect(answer["schema_check"], answer["generated_text"])


def test_arguments_of_calls_are_checked(client):
    seen = set()
    for seed in SEEDS:
        body = chat(tools=[tool(False)], tool_choice="required", seed=seed)
        answer = client.post("/v1/chat/completions", body)
        assert answer.status == 200, answer.text
        choice = answer.json()["choices"][0]
        calls = choice["message"]["tool_calls"]
        assert [check["tool_call"] for check in choice["schema_checks"]] == list(range(len(calls)))
        for call, check in zip(calls, choice["schema_checks"], strict=True):
            arguments = call["function"]["arguments"]
            seen.add(expect(check, arguments if isinstance(arguments, str) else json.dumps(arguments)))
    assert seen == {True, False}


def test_a_text_that_is_cut_is_not_valid(client):
    answer = client.post("/v1/chat/completions", chat(response_format=form(False)) | {"max_tokens": 3})
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "length" and choice["schema_checks"][0]["valid"] is False


def test_nothing_is_told_where_all_is_strict(client):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "additionalProperties": False}
    answer = client.post("/v1/chat/completions", chat(response_format=form(None, schema)))
    assert "schema_checks" not in answer.json()["choices"][0]
    (check,) = client.post("/v1/chat/completions", chat(response_format=form(False, schema))).json()["choices"][0][
        "schema_checks"
    ]
    assert check == {"relaxed": [], "valid": True}


@pytest.mark.timeout(120)
def test_hostile_schemas_cost_nothing(client):
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(4000)} | {"d4000": {"type": "integer"}}
    branching = {
        "anyOf": [
            {"type": "null"},
            {"type": "array", "items": {"$ref": "#"}, "uniqueItems": True},
            {"type": "array", "items": {"$ref": "#"}, "minItems": 1, "uniqueItems": True},
        ]
    }
    for schema in [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"$defs": chain, "$ref": "#/$defs/d0"},
        branching,
        {"type": "string", "pattern": "^(?=a)(a+)+$"},
        {"$ref": "http://127.0.0.1:9/other.json"},
    ]:
        answer = client.post("/v1/chat/completions", chat(response_format=form(False, schema)) | {"max_tokens": 60})
        assert answer.status in (200, 400), (schema, answer.text)
    answer = client.post("/v1/chat/completions", chat(response_format={"type": "json_schema", "json_schema": {
        "schema": {}, "strict": "no"}}))
    assert answer.status == 400 and "strict" in answer.text
