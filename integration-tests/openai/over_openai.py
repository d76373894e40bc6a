"""LangChain and LiteLLM, unmodified: makes their calls and prints what they got as one JSON object. Run with the Python
of .venv/openai; the argument is the base URL."""

import json
import sys

import litellm
from langchain_openai import ChatOpenAI, OpenAI

URL = sys.argv[1]
QUESTION = "Which port do you listen on?"
PROMPT = "Once upon a time"


def names(error: Exception) -> list[str]:
    """Of its class and those above."""
    return [cls.__name__ for cls in type(error).__mro__]


def langchain() -> dict:
    options = {"base_url": URL, "api_key": "none", "temperature": 0, "max_retries": 0}
    chat = ChatOpenAI(model="tgi", max_tokens=24, **options)
    answer = chat.invoke(QUESTION)
    text = OpenAI(model="tgi", max_tokens=8, **options)
    refusal = None
    try:
        chat.bind(top_p=1.5).invoke(QUESTION)
    except Exception as error:
        refusal = names(error)
    return {
        "chat": answer.content,
        "usage": answer.usage_metadata,
        "finish_reason": answer.response_metadata["finish_reason"],
        "stream": "".join(chunk.content for chunk in chat.stream(QUESTION)),
        "batch": [one.content for one in chat.batch([QUESTION, QUESTION])],
        "stopped": chat.bind(stop=[answer.content[5:8]]).invoke(QUESTION).content,
        "logprobs": len(chat.bind(logprobs=True).invoke(QUESTION).response_metadata["logprobs"]["content"]),
        "text": text.invoke(PROMPT),
        "text_stream": "".join(text.stream(PROMPT)),
        "refusal": refusal,
    }


def lite() -> dict:
    options = {"api_base": URL, "api_key": "none", "temperature": 0, "num_retries": 0}
    messages = [{"role": "user", "content": QUESTION}]
    ask = {"model": "openai/tgi", "messages": messages, "max_tokens": 24, **options}
    answer = litellm.completion(**ask)
    chunks = list(litellm.completion(**ask, stream=True, stream_options={"include_usage": True}))
    text = {"model": "text-completion-openai/tgi", "prompt": PROMPT, "max_tokens": 8, **options}
    refusals = {}
    for name, call in {
        "top_p": lambda: litellm.completion(**ask, top_p=1.5),
        "long": lambda: litellm.completion(**{**ask, "messages": [{"role": "user", "content": "a " * 9000}]}),
    }.items():
        try:
            call()
        except Exception as error:
            refusals[name] = names(error)
    return {
        "chat": answer.choices[0].message.content,
        "finish_reason": answer.choices[0].finish_reason,
        "usage": answer.usage.model_dump(),
        "stream": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "n": len(litellm.completion(**ask, n=2).choices),
        "text": litellm.text_completion(**text).choices[0].text,
        "refusals": refusals,
    }


print(json.dumps({"langchain": langchain(), "litellm": lite()}))
