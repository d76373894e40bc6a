"""Every option of the contract: it is taken, and where it can have an effect, it has the one it should."""

import json
import math

import pytest
from harness.ollama_api import CONTRACT, generate

OPTIONS = json.loads(CONTRACT.read_text())["components"]["schemas"]["Options"]["properties"]
# Of weights, threads and caches, which are the server's.
LOAD_TIME = {
    "numa",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mmap",
    "use_mlock",
    "num_thread",
}
# As random as it gets: nothing but what a test sets shapes the draws.
OPEN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repeat_penalty": 1.0, "num_predict": 32}


def texts(ollama, options, seeds=range(8)):
    return [generate(ollama, options=OPEN | options | {"seed": seed})["response"] for seed in seeds]


def tokens(ollama, options, seed=1):
    answer = generate(ollama, raw=True, options=OPEN | options | {"seed": seed}, logprobs=True, top_logprobs=20)
    return answer["logprobs"]


def test_all_of_the_contract_are_known(ollama):
    examples = {name: schema.get("example", True) for name, schema in OPTIONS.items()}
    for name, example in examples.items():
        kind = OPTIONS[name]["type"]
        value = {"integer": 4, "number": 0.5, "boolean": True, "array": ["x"]}[kind]
        value = 1 if name == "mirostat" else value
        assert generate(ollama, options={"num_predict": 4, name: value})["done"] is True, name
        wrong = {"model": ollama.model, "prompt": "a", "stream": False, "options": {name: {"no": example}}}
        answer = ollama.client.post("/api/generate", wrong)
        assert answer.status == 400 and f'option "{name}" must be of type' in answer.json()["error"]


@pytest.mark.parametrize("name", sorted(LOAD_TIME))
def test_load_time_options_change_nothing(ollama, name):
    plain = generate(ollama)["response"]
    value = True if OPTIONS.get(name, {}).get("type") == "boolean" or name == "logits_all" else 1
    assert generate(ollama, options={name: value})["response"] == plain


def test_seed(ollama):
    first, second = texts(ollama, {}), texts(ollama, {})
    assert first == second and len(set(first)) == len(first)
    unseeded = {generate(ollama, options=OPEN)["response"] for _ in range(4)}
    assert len(unseeded) > 1


def test_temperature(ollama):
    assert len(set(texts(ollama, {"temperature": 0}))) == 1
    assert len(set(texts(ollama, {"temperature": 0.01}))) == 1
    assert len(set(texts(ollama, {"temperature": 2.0}))) == 8


def test_top_k(ollama):
    assert len(set(texts(ollama, {"top_k": 1}))) == 1
    assert all(len(entry["top_logprobs"]) <= 3 for entry in tokens(ollama, {"top_k": 3}))
    assert max(len(entry["top_logprobs"]) for entry in tokens(ollama, {"top_k": 3})) == 3


@pytest.mark.parametrize(
    "name,narrow", [("top_p", 0.3), ("typical_p", 0.2), ("min_p", 0.3), ("tfs_z", 0.2)]
)
def test_filters_leave_fewer_tokens(ollama, name, narrow):
    kept = [len(entry["top_logprobs"]) for entry in tokens(ollama, {name: narrow})]
    everything = [len(entry["top_logprobs"]) for entry in tokens(ollama, {})]
    assert sum(kept) < sum(everything) / 2, (kept, everything)


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_keeps_the_surprise_near_its_goal(ollama, version):
    def surprise(tau):
        options = {"mirostat": version, "mirostat_tau": tau, "mirostat_eta": 0.3, "num_predict": 96, "temperature": 2.5}
        entries = [entry for seed in range(4) for entry in tokens(ollama, options, seed)[32:]]
        return -sum(entry["logprob"] for entry in entries) / len(entries) / 0.6931

    low, high = surprise(0.5), surprise(3.0)
    assert low < 1.2, (low, high)
    assert high > low + 0.5, (low, high)
    # At rate 0 the goal is never approached: the first cut stays.
    fixed = texts(ollama, {"mirostat": version, "mirostat_tau": 0.5, "mirostat_eta": 0.0, "temperature": 2.5})
    assert fixed != texts(ollama, {"mirostat": version, "mirostat_tau": 0.5, "mirostat_eta": 0.9, "temperature": 2.5})


def weight_of_the_repeated(ollama, options):
    """How likely the one word of the prompt is to come once more."""
    prompt = " the" * 8
    options = OPEN | {"num_predict": 1, "seed": 1} | options
    answer = generate(ollama, raw=True, prompt=prompt, options=options, logprobs=True, top_logprobs=20)
    likely = answer["logprobs"][0]["top_logprobs"]
    return sum(math.exp(token["logprob"]) for token in likely if token["token"] == " the")


@pytest.mark.parametrize(
    "name,neutral,favour,against",
    [("repeat_penalty", 1.0, 0.5, 2.0), ("presence_penalty", 0, -2, 2), ("frequency_penalty", 0, -2, 2)],
)
def test_penalties_and_their_window(ollama, name, neutral, favour, against):
    weight = {value: weight_of_the_repeated(ollama, {name: value}) for value in (neutral, favour, against)}
    assert weight[against] <= weight[neutral] < weight[favour], weight
    cool = {"temperature": 0.3}
    # No window, no penalty; all of the text is a window, too.
    assert texts(ollama, cool | {name: against, "repeat_last_n": 0}) == texts(ollama, cool)
    assert texts(ollama, cool | {name: against, "repeat_last_n": -1}) != texts(ollama, cool)
    assert texts(ollama, cool | {name: against, "repeat_last_n": 2}) != texts(ollama, cool | {name: against})


def test_penalize_newline(ollama):
    """A penalty of less than nothing makes what was said likelier: line feeds, unless they are exempt."""
    prompt = "\n".join("one two three four five six seven eight".split())

    def weight_of_the_newline(options):
        options = OPEN | {"num_predict": 1, "seed": 1} | options
        answer = generate(ollama, raw=True, prompt=prompt, options=options, logprobs=True, top_logprobs=20)
        likely = answer["logprobs"][0]["top_logprobs"]
        return sum(math.exp(token["logprob"]) for token in likely if token["token"] == "\n")

    neutral = weight_of_the_newline({})
    for name, favour, against in [("frequency_penalty", -2, 2), ("repeat_penalty", 0.2, 5)]:
        favoured = weight_of_the_newline({name: favour, "penalize_newline": True})
        exempt = weight_of_the_newline({name: favour, "penalize_newline": False})
        # What is said of other tokens leaves line feeds less, or the same.
        assert favoured > 2 * exempt and exempt <= neutral + 1e-6, (name, neutral, favoured, exempt)
        penalized = weight_of_the_newline({name: against, "penalize_newline": True})
        spared = weight_of_the_newline({name: against, "penalize_newline": False})
        assert penalized < spared and spared >= neutral - 1e-6, (name, neutral, penalized, spared)


def test_stop(ollama):
    plain = generate(ollama)["response"]
    stop = plain[8:12]
    stopped = generate(ollama, options={"stop": [stop, "never there"]})
    assert stopped["response"] == plain[: plain.index(stop)]
    assert stopped["done_reason"] == "stop"


def test_num_predict(ollama):
    for count in (1, 10):
        answer = generate(ollama, options=OPEN | {"num_predict": count, "seed": 3})
        assert answer["eval_count"] == count and answer["done_reason"] == "length"


def test_num_ctx_and_what_happens_there(ollama):
    loop = {"temperature": 0, "repeat_penalty": 1.0, "num_ctx": 48}
    filled = generate(ollama, raw=True, options=loop | {"num_predict": -2})
    assert filled["prompt_eval_count"] + filled["eval_count"] <= 48
    long = generate(ollama, raw=True, options=OPEN | loop | {"num_predict": 200, "temperature": 1.5, "seed": 5})
    unshifted = generate(
        ollama, raw=True, shift=False, options=OPEN | loop | {"num_predict": 200, "temperature": 1.5, "seed": 5}
    )
    assert unshifted["prompt_eval_count"] + unshifted["eval_count"] <= 48
    assert long["eval_count"] > unshifted["eval_count"]
    # Until the context is full, both say the same.
    assert long["response"].startswith(unshifted["response"][:-4])
    endless = generate(ollama, raw=True, options=loop | {"num_predict": -1})
    assert endless["eval_count"] <= 480


def test_num_keep(ollama):
    # A form that does not let the model end before many contexts are over.
    numbers = {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 500}
    options = OPEN | {"num_ctx": 64, "num_predict": 200, "temperature": 1.5, "seed": 7}
    prompt = "The quick brown fox jumps over the lazy dog and"
    answers = [
        generate(ollama, raw=True, prompt=prompt, format=numbers, options=options | {"num_keep": keep})
        for keep in (0, 4, -1)
    ]
    assert [answer["eval_count"] for answer in answers] == [200] * 3
    # What stays in view differs once the context was shifted, and not before.
    assert len({answer["response"][:20] for answer in answers}) == 1
    assert len({answer["response"] for answer in answers}) == 3
