"""What schemathesis is told about this API: how to check streams, which it cannot parse by itself."""

import json

import jsonschema
import naming  # noqa: F401 (its hook)
import schemathesis

DONE = "[DONE]"
#: Streams by operation: of the bodies that are made up, next to none gets as far as a line.
STREAMED = {
    "/api/generate": {"prompt": "Once upon a time", "logprobs": True, "top_logprobs": 2},
    "/api/chat": {"messages": [{"role": "user", "content": "Hi"}], "format": {"type": "boolean"}},
    "/v1/responses": {"input": "Hi", "stream": True, "include": ["message.output_text.logprobs"], "max_output_tokens": 8},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 8},
}
ANSWERED = {"model": "weirgate-demo", "options": {"num_predict": 8}}
#: Components that an event of a stream, or a line of one, may be beside those of its operation: the stream failed.
FAILURES = {
    "text/event-stream": ("ErrorResponse", "OpenAiErrorResponse", "StreamFailure"),
    "application/x-ndjson": ("OllamaError",),
}


@schemathesis.deserializer("application/x-ndjson")
@schemathesis.deserializer("text/event-stream")
def as_text(context, response):
    """The body as it is; `events_conform` looks into it."""
    return response.content.decode()


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Keeps the schemas of events and lines from being held against whole streams, and where `events_conform` finds them;
    and adds requests whose answers are lines."""
    global document
    document = json.loads(json.dumps(raw_schema))
    for path, body in STREAMED.items():
        raw_schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"] = ANSWERED | body
    for item in raw_schema["paths"].values():
        for operation in item.values():
            for response in operation["responses"].values():
                for media, content in response.get("content", {}).items():
                    if media in FAILURES:
                        content["schema"] = {"type": "string"}


@schemathesis.check
def events_conform(ctx, response, case):
    """Every event or line of a stream is of the operation's schema or tells of a failure."""
    media = response.headers.get("content-type", [""])[0].partition(";")[0]
    if media not in FAILURES:
        return
    operation = document["paths"][case.operation.path][case.operation.method.lower()]
    schema = operation["responses"][str(response.status_code)]["content"][media]["schema"]
    options = [schema] + [{"$ref": f"#/components/schemas/{name}"} for name in FAILURES[media]]
    validator = jsonschema.Draft202012Validator({"components": document["components"], "anyOf": options})
    split = events if media == "text/event-stream" else lines
    for text in split(response.content.decode()):
        errors = [error.message for error in validator.iter_errors(json.loads(text))]
        assert not errors, f"{text}: {errors}"


def events(stream):
    """The data of server-sent events."""
    frames = stream.split("\n\n")
    assert frames.pop() == "", "the stream ends inside an event"
    for frame in frames:
        if frame == ":":
            continue
        name, _, frame = frame.rpartition("\n")
        assert frame.startswith("data: ") and "\n" not in name, f"not an event: {frame!r}"
        assert not name or name == f"event: {json.loads(frame[6:])['type']}"
        if frame[6:] != DONE:
            yield frame[6:]


def lines(stream):
    """Those of JSON lines, none of which may be blank."""
    objects = stream.split("\n")
    assert objects.pop() == "", "the stream ends inside a line"
    assert all(objects), "a blank line"
    return objects
