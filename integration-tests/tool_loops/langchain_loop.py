"""LangChain's loop: run with the Python of .venv/openai; the argument is the base URL. Prints its answers as JSON."""

import json
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from weather import PARAMETERS, QUESTION
from weather import weather as lookup


@tool("weather", args_schema=PARAMETERS)
def weather(city: str) -> str:
    """The weather in a city"""
    return lookup(city)


def answer(chat, messages: list, streamed: bool):
    if not streamed:
        return chat.invoke(messages)
    whole = None
    for chunk in chat.stream(messages):
        whole = chunk if whole is None else whole + chunk
    return whole


def loop(streamed: bool) -> dict:
    chat = ChatOpenAI(base_url=sys.argv[1], api_key="none", model="tgi", temperature=0, max_retries=0)
    chat = chat.bind_tools([weather])
    messages, calls = [HumanMessage(QUESTION)], []
    for _ in range(4):
        message = answer(chat, messages, streamed)
        messages.append(message)
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            calls.append([call["name"], call["args"]])
            messages.append(ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]))
    return {"answer": messages[-1].content, "calls": calls}


print(json.dumps({"whole": loop(False), "streamed": loop(True)}))
