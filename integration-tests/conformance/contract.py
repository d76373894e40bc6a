"""The rows of TGI's contract that the tests here answer for, by section of the reference table. A test names its row by
`@pytest.mark.row`; a row without a test, or with a failing one, shows in the count at the end of the run."""

# Validation, in the order of evaluation.
RULES = {
    "0": "no place free",
    "1": "best_of without sampling",
    "2": "temperature",
    "3": "repetition_penalty",
    "4": "frequency_penalty",
    "5": "top_p",
    "6": "typical_p",
    "7": "top_k",
    "8": "max_new_tokens",
    "9": "stop",
    "10": "seed with best_of",
    "11": "top_n_tokens",
    "12": "empty inputs",
    "13": "truncate",
    "15": "prompt and output too long",
    "16": "prompt too long",
    "17": "grammar switched off",
    "18": "grammar not valid",
    "19": "grammar not compilable",
    "20": "best_of not allowed",
    "21": "best_of too large",
    "22": "best_of in a stream",
    "23": "decoder_input_details in a stream",
    "24": "image on a text model",
}

REFUSALS = {
    "suffix": "/v1/completions with a suffix, no template for it",
    "batch": "more prompts than allowed",
    "no-prompts": "an empty list of prompts",
    "format-and-tools": "response_format beside tools",
    "unknown-tool": "a named tool that is not there",
    "raise": "the template raises",
    "no-template": "no chat template",
    "top-logprobs": "too many top_logprobs",
    "vertex-empty": "no instances",
    "data": "a field of the wrong type",
    "syntax": "no JSON",
    "type": "no JSON content type",
    "large": "a body over the limit",
    "key": "no key, or a wrong one",
}

NOTES = {
    "best-of-zero": "best_of 0 is 1",
    "best-of-negative": "a negative best_of is no number",
    "counted-output": "at most 1024 tokens of output count",
    "open-end": "no max_new_tokens: the default, or up to the limit",
    "truncate-last": "truncate keeps the last tokens",
    "seed-null": "the seed is told where the request sampled",
    "do-sample": "no parameters sample, empty ones do not",
    "penalty-order": "the first broken rule is told",
}

FORMATS = {
    "framing": "data: {json}, a blank line; keep-alive comments",
    "stream-headers": "content-type, cache-control, x-accel-buffering",
    "stream-events": "index from 1, top_tokens left out, no [DONE]",
    "stream-end": "generated_text and details in the last event",
    "stream-errors": "an error is an event of a 200",
    "generate": "generated_text, details on request",
    "root": "an array with the full text",
    "details": "finish_reason, generated_tokens, seed, prefill, tokens",
    "input-details": "decoder_input_details brings details and prefill",
    "top-tokens": "top_tokens per token",
    "best-of": "best_of_sequences",
    "headers": "x-compute-*, x-*-time, x-*-tokens",
    "compute-type": "x-compute-type is COMPUTE_TYPE",
    "warped-logprobs": "log-probabilities after the samplers",
    "length-before-eos": "the last allowed token ends by length",
    "stop-kept": "the stop text stays",
    "special-left-out": "generated_text has no special tokens",
}

ROUTES = {
    "GET /": "health",
    "POST /": "generate",
    "/generate": "",
    "/generate_stream": "",
    "/invocations": "three kinds of request",
    "/vertex": "instances",
    "AIP": "Vertex AI's own paths and port",
    "/tokenize": "offsets in bytes",
    "/chat_tokenize": "text and tokens of a chat",
    "/health": "",
    "/ping": "",
    "/livez": "",
    "/readyz": "",
    "/info": "",
    "/metrics": "",
    "/v1/models": "",
    "kserve": "/v2 and what is under it",
    "key": "which routes ask for the key",
    "cors": "origins, methods, headers",
    "405": "wrong method",
    "404": "unknown path",
}

ROWS = {
    f"{section}.{row}"
    for section, rows in (
        ("rule", RULES),
        ("refusal", REFUSALS),
        ("note", NOTES),
        ("format", FORMATS),
        ("route", ROUTES),
    )
    for row in rows
}
