"""LlamaIndex and LiteLLM over Ollama's routes, unmodified: makes their calls and prints what they got as one JSON
object. Run with the Python of .venv/openai; the arguments are the base URL and a model."""

import asyncio
import json
import sys

import litellm
from llama_index.core.llms import ChatMessage
from llama_index.llms.ollama import Ollama

URL, MODEL = sys.argv[1:]
QUESTION = "Which port do you listen on?"
PROMPT = "Once upon a time"


def llama_index() -> dict:
    # Asks /api/show for the context's length, and sends it as `num_ctx` with every call.
    options = {"temperature": 0, "num_predict": 16}
    model = Ollama(model=MODEL, base_url=URL, request_timeout=60, additional_kwargs=options)
    messages = [ChatMessage(role="user", content=QUESTION)]
    answer = model.chat(messages)
    return {
        "context": model.metadata.context_window,
        "chat": answer.message.content,
        "raw": dict(answer.raw)["eval_count"],
        "stream": "".join(part.delta or "" for part in model.stream_chat(messages)),
        "async": asyncio.run(model.achat(messages)).message.content,
        "complete": model.complete(PROMPT).text,
        "stream_complete": "".join(part.delta or "" for part in model.stream_complete(PROMPT)),
    }


def over_litellm() -> dict:
    options = {"api_base": URL, "temperature": 0, "max_tokens": 16}
    messages = [{"role": "user", "content": QUESTION}]
    found = {}
    for route in ("ollama", "ollama_chat"):
        answer = litellm.completion(model=f"{route}/{MODEL}", messages=messages, **options)
        parts = litellm.completion(model=f"{route}/{MODEL}", messages=messages, stream=True, **options)
        found[route] = {
            "text": answer.choices[0].message.content,
            "usage": answer.usage.completion_tokens,
            "finish_reason": answer.choices[0].finish_reason,
            "stream": "".join(part.choices[0].delta.content or "" for part in parts),
        }
    try:
        litellm.completion(model="ollama_chat/no-such-model", messages=messages, **options)
    except Exception as error:
        found["refusal"] = str(error)
    return found


print(json.dumps({"llama_index": llama_index(), "litellm": over_litellm()}))
