"""LoRA adapters over the real binary: under real clients, beside the model with the same adapter merged into its weights,
many in one batch, and those that are not what they should be."""

import concurrent.futures
import json
import shutil

import huggingface_hub
import openai
import pytest
from harness.adapters import random_adapter, write_gguf, write_model, write_peft
from harness.client import Client
from harness.server import free_port, run_to_exit

PROMPT = "Once upon a time, there was"
PARAMETERS = {"max_new_tokens": 24, "details": True, "top_n_tokens": 2}
SEEDS = {"one": 1, "two": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Adapters `one` and `two`; the model in f32, and the same with each of them merged into it."""
    root = tmp_path_factory.mktemp("lora")
    write_model(root / "base")
    for name, seed in SEEDS.items():
        adapter = random_adapter(seed)
        write_peft(root / name, adapter)
        write_gguf(root / f"{name}.gguf", adapter)
        write_model(root / f"base+{name}", adapter)
    return root


@pytest.fixture
def adapted(start_server, folder):
    listed = ",".join(f"{name}={folder / name}" for name in SEEDS)
    return start_server("--model-id", str(folder / "base"), env={"LORA_ADAPTERS": listed})


def generate(client: Client, adapter: str | None = None, prompt: str = PROMPT, **more) -> dict:
    parameters = PARAMETERS | ({"adapter_id": adapter} if adapter else {}) | more
    return client.post_ok("/generate", {"inputs": prompt, "parameters": parameters})


def tokens(answer: dict) -> list[int]:
    return [token["id"] for token in answer["details"]["tokens"]]


def logprobs(answer: dict) -> list[float]:
    return [token["logprob"] for token in answer["details"]["tokens"]]


def test_an_adapter_answers_as_the_model_it_is_merged_into(start_server, adapted, folder):
    beside = Client(adapted.port)
    answers = {name: generate(beside, name) for name in [None, *SEEDS]}
    assert len({answer["generated_text"] for answer in answers.values()}) == 3, "adapters that change nothing"
    for name in SEEDS:
        merged = start_server("--model-id", str(folder / f"base+{name}"))
        expected = generate(Client(merged.port))
        assert tokens(answers[name]) == tokens(expected)
        assert logprobs(answers[name]) == pytest.approx(logprobs(expected), abs=1e-3)
        merged.stop()
    plain = start_server("--model-id", str(folder / "base"))
    assert generate(Client(plain.port)) == answers[None], "the model beside its adapters"


def test_an_adapter_of_llama_cpp_is_the_same(start_server, adapted, folder):
    listed = ",".join(f"{name}={folder / name}.gguf" for name in SEEDS)
    server = start_server("--model-id", str(folder / "base"), "--lora-adapters", listed)
    for name in SEEDS:
        assert generate(Client(server.port), name) == generate(Client(adapted.port), name)


def test_huggingface_hub(adapted):
    client = huggingface_hub.InferenceClient(base_url=adapted.url)
    raw = Client(adapted.port)
    for name in SEEDS:
        text = client.text_generation(PROMPT, max_new_tokens=24, adapter_id=name, return_full_text=False)
        assert text == generate(raw, name)["generated_text"]
        streamed = client.text_generation(PROMPT, max_new_tokens=24, adapter_id=name, stream=True)
        assert "".join(streamed) == text
    with pytest.raises(Exception, match='`adapter_id` "three" is not loaded'):
        client.text_generation(PROMPT, max_new_tokens=2, adapter_id="three")


def test_openai(adapted):
    client = openai.OpenAI(base_url=f"{adapted.url}/v1", api_key="-")
    raw = Client(adapted.port)
    listed = {model.id: model for model in client.models.list()}
    base = next(name for name in listed if name not in SEEDS)
    assert set(listed) == {base, *SEEDS}
    assert {listed[name].parent for name in SEEDS} == {base} and not hasattr(listed[base], "parent")
    assert client.models.retrieve("one").parent == base
    for name in SEEDS:
        answer = client.completions.create(model=name, prompt=PROMPT, max_tokens=24, temperature=0)
        assert (answer.model, answer.choices[0].text) == (name, generate(raw, name)["generated_text"])
        by_id = client.completions.create(
            model=base, prompt=PROMPT, max_tokens=24, temperature=0, extra_body={"adapter_id": name}
        )
        assert by_id.choices[0].text == answer.choices[0].text
    chats = [
        client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "Hi"}], max_tokens=16, temperature=0, logprobs=True
        )
        for name in (base, "one", "two")
    ]
    # A greeting is what the model knows best: the words may be the same.
    assert len({tuple(token.logprob for token in chat.choices[0].logprobs.content) for chat in chats}) == 3
    stream = client.chat.completions.create(
        model="one", messages=[{"role": "user", "content": "Hi"}], max_tokens=16, temperature=0, stream=True
    )
    assert "".join(part.choices[0].delta.content or "" for part in stream) == chats[1].choices[0].message.content


def test_an_unknown_adapter_is_an_error_and_never_the_base(adapted):
    client = openai.OpenAI(base_url=f"{adapted.url}/v1", api_key="-", max_retries=0)
    for unknown in ("three", "One", "one "):
        with pytest.raises(openai.NotFoundError) as refused:
            client.completions.create(model=unknown, prompt=PROMPT, max_tokens=1)
        assert refused.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="tgi", prompt=PROMPT, max_tokens=1, extra_body={"adapter_id": unknown})
        assert refused.value.param == "adapter_id"
    with pytest.raises(openai.BadRequestError, match="another adapter"):
        client.completions.create(model="one", prompt=PROMPT, max_tokens=1, extra_body={"adapter_id": "two"})
    raw = Client(adapted.port)
    body = {"inputs": PROMPT, "parameters": {"adapter_id": "three"}}
    expected = {"error": 'Input validation error: `adapter_id` "three" is not loaded', "error_type": "validation"}
    response = raw.post("/generate", body)
    assert (response.status, response.json()) == (422, expected)
    _, events = raw.stream("/generate_stream", body)
    assert events == [expected]
    chat = {"instances": [{"messages": [{"role": "user", "content": "Hi"}], "model": "three"}]}
    assert raw.post("/vertex", chat).status == 422


def test_requests_of_all_adapters_at_once_are_as_alone(adapted):
    client = Client(adapted.port)
    asked = [(name, f"{PROMPT} {thing}") for name in (None, *SEEDS) for thing in ("a cat", "a dog", "a king", "two birds")]
    alone = [generate(client, *one) for one in asked]
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: generate(Client(adapted.port), *one), asked))
    assert together == alone


def test_adapters_come_and_go_while_requests_run(adapted, folder):
    raw = Client(adapted.port)
    expected = generate(raw, "one")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = [pool.submit(lambda: generate(Client(adapted.port), "one", max_new_tokens=200)) for _ in range(3)]
        for turn in range(5):
            loaded = raw.post("/v1/load_lora_adapter", {"lora_name": "more", "lora_path": str(folder / "one")})
            assert loaded.status == 200, loaded.text
            assert generate(raw, "more") == expected, turn
            assert raw.post("/v1/unload_lora_adapter", {"lora_name": "more"}).status == 200
            assert raw.post("/generate", {"inputs": "a", "parameters": {"adapter_id": "more"}}).status == 422
        answers = [one.result() for one in running]
    assert all(answer == answers[0] for answer in answers)
    assert tokens(answers[0])[:24] == tokens(expected)
    taken = raw.post("/v1/load_lora_adapter", {"lora_name": "one", "lora_path": str(folder / "two")})
    assert (taken.status, taken.json()["error"]["param"]) == (400, "lora_name")
    bad = raw.post("/v1/load_lora_adapter", {"lora_name": "bad", "lora_path": str(folder)})
    assert (bad.status, bad.json()["error"]["param"]) == (400, "lora_path")
    replaced = {"lora_name": "one", "lora_path": str(folder / "two"), "load_inplace": True}
    assert raw.post("/v1/load_lora_adapter", replaced).status == 200
    assert generate(raw, "one") == generate(raw, "two")

def refused(folder, path, *words: str):
    args = ["--model-id", str(folder / "base"), "--lora-adapters", f"bad={path}", "--port", str(free_port())]
    code, output, _ = run_to_exit([*args, "--hostname", "127.0.0.1"])
    assert code == 1 and all(word in output for word in ("'bad'", *words)), output


def test_a_model_in_shards_takes_no_adapter(folder):
    args = ["--model-id", str(folder / "base"), "--lora-adapters", f"one={folder / 'one'}", "--num-shard", "2"]
    code, output, _ = run_to_exit([*args, "--port", str(free_port()), "--hostname", "127.0.0.1"])
    assert code == 1 and "'one'" in output and "num_shard above 1" in output, output


def test_a_start_with_a_bad_adapter_ends_and_says_why(folder, tmp_path):
    for change, words in [
        ({"use_dora": True}, ("use_dora",)),
        ({"modules_to_save": ["lm_head"]}, ("modules_to_save",)),
        ({"r": 5}, ("q_proj", "rank 4")),
        ({"target_modules": ["q_proj"]}, ("target_modules",)),
    ]:
        bad = tmp_path / "bad"
        shutil.copytree(folder / "one", bad, dirs_exist_ok=True)
        config = json.loads((bad / "adapter_config.json").read_text())
        (bad / "adapter_config.json").write_text(json.dumps(config | change))
        refused(folder, bad, *words)
    (tmp_path / "empty").mkdir()
    refused(folder, tmp_path / "empty", "adapter_config.json", "is missing")
    refused(folder, folder / "base", "adapter_config.json", "is missing")
