"""Drives one client library against the server at argv[2] and prints what it returned as JSON; run in that client's environment.

usage: drive.py NAME URL
"""

import json
import sys
from importlib.metadata import version


def text_generation(url: str) -> dict:
    """TGI's own Python client, last published for 2.x."""
    from text_generation import Client, errors

    client = Client(url, timeout=30)
    whole = client.generate("Once upon a time", max_new_tokens=6, decoder_input_details=True, top_n_tokens=2)
    parts = list(client.generate_stream("Once upon a time", max_new_tokens=6))
    drawn = client.generate("Once", max_new_tokens=3, do_sample=True, best_of=2, temperature=0.5)
    chat = client.chat([{"role": "user", "content": "Hi"}], max_tokens=4, seed=1)
    # Its streamed chats cannot end, with TGI neither: it reads `[DONE]` as JSON.
    try:
        client.generate("Once", max_new_tokens=1, stop_sequences=["a", "b", "c", "d", "e"])
        refused = None
    except errors.ValidationError as error:
        refused = str(error)
    return {
        "version": version("text-generation"),
        "whole": whole.model_dump(mode="json"),
        "parts": [part.model_dump(mode="json") for part in parts],
        "others": len(drawn.details.best_of_sequences),
        "chat": chat.model_dump(mode="json"),
        "refused": refused,
    }


def huggingface_hub(url: str) -> dict:
    """The client that Hugging Face's documentation shows for TGI."""
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError, ValidationError

    client = InferenceClient(url, timeout=30)
    options = {"max_new_tokens": 6, "do_sample": False}
    plain = client.text_generation("Once upon a time", **options)
    detailed = client.text_generation("Once upon a time", details=True, decoder_input_details=True, **options)
    parts = list(client.text_generation("Once upon a time", details=True, stream=True, **options))
    pieces = list(client.text_generation("Once upon a time", stream=True, **options))
    messages = [{"role": "user", "content": "Hi"}]
    chat = client.chat_completion(messages, max_tokens=4, logprobs=True, top_logprobs=2, temperature=0)
    chunks = list(client.chat_completion(messages, max_tokens=4, stream=True, temperature=0))
    try:
        client.text_generation("Once", temperature=-1.0)
        refused = None
    except (ValidationError, HfHubHTTPError) as error:
        refused = f"{type(error).__name__}: {error}"
    return {
        "version": version("huggingface_hub"),
        "plain": plain,
        "detailed": detailed,
        "parts": parts,
        "pieces": pieces,
        "chat": chat,
        "chunks": chunks,
        "refused": refused,
    }


def huggingface_hub_tools(url: str) -> dict:
    """A tool that must be called."""
    from huggingface_hub import InferenceClient

    parameters = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Lima"]}}, "required": ["city"]}
    function = {"name": "weather", "description": "The weather in a city", "parameters": parameters}
    chat = InferenceClient(url, timeout=30).chat_completion(
        [{"role": "user", "content": "How is the weather in Oslo?"}],
        tools=[{"type": "function", "function": function}],
        tool_choice="required",
        max_tokens=60,
        temperature=0,
    )
    return {"version": version("huggingface_hub"), "chat": chat}


def langchain_huggingface(url: str) -> dict:
    """LangChain's classes for an endpoint of one's own."""
    from langchain_core.messages import HumanMessage
    from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint

    model = HuggingFaceEndpoint(endpoint_url=url, max_new_tokens=6, seed=7, task="text-generation")
    chat = ChatHuggingFace(llm=model, model_id="demo", max_tokens=4, temperature=0)
    answer = chat.invoke([HumanMessage("Hi")])
    return {
        "version": version("langchain-huggingface"),
        "text": model.invoke("Once upon a time"),
        "pieces": list(model.stream("Once upon a time")),
        "chat": answer.content,
        "reason": answer.response_metadata["finish_reason"],
        "usage": answer.usage_metadata,
        "chunks": [chunk.content for chunk in chat.stream([HumanMessage("Hi")])],
    }


if __name__ == "__main__":
    drives = (text_generation, huggingface_hub, huggingface_hub_tools, langchain_huggingface)
    (drive,) = (drive for drive in drives if drive.__name__ == sys.argv[1])
    print(json.dumps(drive(sys.argv[2])))
