"""The replies of the management document, written down as schemas by hand."""

import jsonschema

UUID = {"type": "string", "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"}
TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}


def exactly(**properties) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def list_of(schema: dict) -> dict:
    return {"type": "array", "items": schema}


def or_null(schema: dict) -> dict:
    return {"anyOf": [schema, {"type": "null"}]}


JOB = exactly(
    id=UUID,
    name={"type": "string", "pattern": "^(DOWNLOAD|DEPLOY|FT)_"},
    status={"enum": ["CREATED", "RUNNING", "FINISHED", "KILLED", "FAILED"]},
    started_at={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$"},
)
MODELS = list_of(exactly(model_id=TEXT, adapter={"type": "boolean"}, base_model_id=or_null(TEXT)))
DEPLOYED = exactly(model_id=or_null(TEXT), adapter_ids=TEXTS)
DEPLOY_STATUS = exactly(model_id=TEXT, adapter_ids=TEXTS, job=JOB)
DATASET = exactly(
    id=UUID,
    name=TEXT,
    s3_path={"type": "string", "pattern": "^[0-9a-f-]{36}/metadata.json$"},
    description=or_null(TEXT),
)
FINETUNE_STATUS = exactly(id=UUID, name=TEXT, model_id=TEXT, dataset_id=UUID, job=JOB)
ID = {"type": "string", "pattern": "^cmpl-[0-9a-f]{32}$"}
COUNT = {"type": "integer", "minimum": 0}
USAGE = {
    "type": "object",
    "properties": {"prompt_tokens": COUNT, "total_tokens": COUNT, "completion_tokens": COUNT},
    "required": ["prompt_tokens", "total_tokens", "completion_tokens"],
}
NULL = {"type": "null"}


def _choices(**said) -> dict:
    choice = {
        "index": {"const": 0},
        "logprobs": NULL,
        "finish_reason": {"enum": ["stop", "length"]},
        "stop_reason": NULL,
    } | said
    return {"type": "array", "minItems": 1, "maxItems": 1, "items": exactly(**choice)}


def _answer(kind: str, choices: dict) -> dict:
    properties = {
        "id": ID,
        "object": {"const": kind},
        "created": {"type": "integer", "minimum": 1_700_000_000},
        "model": {"const": "Compressa-LLM"},
        "choices": choices,
        "usage": USAGE,
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


COMPLETION = _answer("text_completion", _choices(text=TEXT))
CHAT = _answer("chat.completion", _choices(message=exactly(role={"const": "assistant"}, content=TEXT)))
EMBEDDING = exactly(
    id=ID,
    object={"const": "list"},
    created={"type": "integer"},
    model=TEXT,
    data=list_of(
        exactly(index=COUNT, object={"const": "embedding"}, embedding={"type": "array", "items": {"type": "number"}})
    ),
    usage=exactly(prompt_tokens=COUNT, total_tokens=COUNT, completion_tokens={"const": 0}),
)
PROBLEMS = exactly(
    detail=list_of(
        exactly(loc={"type": "array", "items": {"type": ["string", "integer"]}}, msg=TEXT, type=TEXT)
    )
)
DETAIL = exactly(detail=TEXT)


def check(reply, schema: dict):
    jsonschema.Draft202012Validator(schema).validate(reply)
