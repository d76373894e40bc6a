"""The tool of the loops, and the question that needs it."""

QUESTION = "How is the weather in Oslo?"
ANSWER = "It is sunny in Oslo."
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Lima", "Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "weather", "description": "The weather in a city", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": FUNCTION}]


def weather(city: str) -> str:
    return {"Oslo": "sunny"}.get(city, "unknown")
