"""LangChain's integration of Ollama, unmodified."""

import pytest
from langchain_ollama import ChatOllama, OllamaLLM

OPTIONS = {"temperature": 0, "num_predict": 24}
QUESTION = "Which port do you listen on?"


@pytest.fixture(scope="module")
def chat(ollama):
    return ChatOllama(model=ollama.model, base_url=ollama.url, validate_model_on_init=True, **OPTIONS)


def test_chat(chat):
    answer = chat.invoke(QUESTION)
    assert answer.content
    assert answer.usage_metadata["input_tokens"] > 0 and answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["done_reason"] in ("stop", "length")
    assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == answer.content
    assert [one.content for one in chat.batch([QUESTION, QUESTION])] == [answer.content] * 2


def test_completion(ollama):
    text = OllamaLLM(model=ollama.model, base_url=ollama.url, **OPTIONS)
    answer = text.invoke("Once upon a time")
    assert answer and "".join(text.stream("Once upon a time")) == answer


def test_a_model_that_is_not_there(ollama):
    with pytest.raises(Exception, match="not found"):
        ChatOllama(model="no-such-model", base_url=ollama.url, validate_model_on_init=True)
