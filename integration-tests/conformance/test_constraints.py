"""Grammars and tools as TGI refuses them, and a call in TGI's form (§2b, §2f)."""

import pytest

GENERATE = {"inputs": "Once upon a time"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200, "seed": 1}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}}}
FORMAT = {"type": "json_object", "value": {"properties": {}}}


def refused(response, text: str, error_type: str):
    assert response.status == 422, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"error": text, "error_type": error_type}


@pytest.mark.row("rule.18")
@pytest.mark.parametrize("grammar", [{"type": "json", "value": "{"}, {"type": "regex", "value": "("}], ids=str)
def test_a_grammar_that_is_none(small, grammar):
    response = small.post("/generate", GENERATE | {"parameters": {"grammar": grammar}})
    assert response.status == 422 and response.json()["error_type"] == "validation"
    assert response.json()["error"].startswith("Input validation error: grammar is not valid: ")


@pytest.mark.row("rule.17")
def test_a_grammar_that_is_no_schema(small):
    response = small.post("/generate", GENERATE | {"parameters": {"grammar": {"type": "json", "value": 1}}})
    refused(response, "Input validation error: grammar is not supported", "validation")


@pytest.mark.row("rule.19")
def test_a_grammar_that_cannot_be_enforced(small):
    schema = {"properties": {"a": {"type": "array", "contains": {"type": "integer"}}}}
    response = small.post("/generate", GENERATE | {"parameters": {"grammar": {"type": "json", "value": schema}}})
    assert response.status == 422 and response.json()["error_type"] == "validation"
    text = "Input validation error: cannot compile regex from schema: the schema's keyword 'contains' at '/properties/a' "
    assert response.json()["error"].startswith(text)


@pytest.mark.row("refusal.format-and-tools")
@pytest.mark.parametrize("tools", [[TOOL], []], ids=["tools", "none"])
def test_a_format_beside_tools(either, tools):
    response = either.post("/v1/chat/completions", CHAT | {"tools": tools, "response_format": FORMAT})
    if either.profile == "tgi":
        refused(response, "Tool error: Grammar and tools are mutually exclusive", "tool_error")
    else:
        assert response.status == 200, response.text


@pytest.mark.row("refusal.unknown-tool")
@pytest.mark.parametrize("choice", ["sub", {"type": "function", "function": {"name": "sub"}}], ids=["name", "object"])
def test_a_tool_that_is_not_there(small, choice):
    response = small.post("/v1/chat/completions", CHAT | {"tools": [TOOL], "tool_choice": choice})
    if small.profile == "tgi":
        refused(response, "Tool error: Tool with name sub not found", "tool_error")
    else:
        assert response.status == 400
        assert response.json()["error"]["message"] == "Tool error: Tool with name sub not found"
        assert response.json()["error"]["param"] == "tools"


def test_a_call_in_the_profiles_form(either):
    response = either.post_ok("/v1/chat/completions", CHAT | {"tools": [TOOL], "tool_choice": "required"})
    (choice,) = response["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "add" and call["function"]["arguments"] in ('{"a": 1}', '{"a": 2}')
    if either.profile == "tgi":
        assert (call["id"], choice["finish_reason"]) == ("0", "stop")
        assert "content" not in choice["message"] and call["function"]["description"] is None
    else:
        assert call["id"].startswith("call_") and choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
