"""The fine-tuning worker as a server and as a person run it. Parity with PEFT is proved by `make prove-finetune`, and
step by step in the crate's own tests."""

import json
import os
import signal
import subprocess
from pathlib import Path

import jinja2.sandbox
import numpy as np
import pytest
from harness import finetuning
from harness.checkpoints import read_safetensors
from harness.client import Client
from harness.gguf_files import quantize, write_widened
from harness.quantized_checkpoints import SCHEMES, write_both
from harness.server import DEMO_MODEL, wait_for

#: Learns a few pairs by heart within seconds.
BY_HEART = {"alpha": 32, "target_modules": "all-linear", "learning_rate": 5e-3, "batch_size": 8, "dropout": 0}
SHORT = {"max_steps": 12, "batch_size": 4, "rank": 4, "dropout": 0.1, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def taught():
    return finetuning.pairs(12, seed=5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, taught):
    return finetuning.write_dataset(tmp_path_factory.mktemp("dataset") / "pairs.jsonl", taught, "bot")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, dataset):
    folder = tmp_path_factory.mktemp("whole") / "job"
    return finetuning.train(finetuning.write_job(folder, dataset, **SHORT))


#: A few steps, without chance, of every matrix.
BRIEF = {"max_steps": 4, "batch_size": 4, "rank": 4, "dropout": 0, "learning_rate": 1e-3, "target_modules": "all-linear"}


def curve(folder: Path, dataset: Path, base: Path | str, **hyperparameters) -> list[float]:
    job = finetuning.write_job(folder, dataset, base=str(base), **(BRIEF | hyperparameters))
    return list(finetuning.losses(finetuning.train(job)).values())


def far(ours: list[float], theirs: list[float]) -> float:
    """The largest difference of two curves, relative."""
    return max(abs(own / other - 1) for own, other in zip(ours, theirs, strict=True))


def trained(folder: Path) -> dict[str, np.ndarray]:
    header, data = read_safetensors(folder / "adapter/adapter_model.safetensors")
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(data[slice(*info["data_offsets"])], np.float32).reshape(info["shape"])
        for name, info in header.items()
    }


def shown_batches(job: Path) -> str:
    command = [finetuning.WORKER, "--job", job, "--show-batches"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_a_gguf_file_trains_as_the_checkpoint_that_it_was_made_from(tmp_path, dataset):
    plain = curve(tmp_path / "plain", dataset, finetuning.DEMO)
    assert len(plain) == 4 and plain[3] < plain[0]
    # BF16 is what the checkpoint has.
    for kind, bound in (("BF16", 0), ("F16", 1e-4), ("Q8_0", 0.01)):
        quantize(tmp_path / f"{kind}.gguf", kind)
        own = curve(tmp_path / kind, dataset, tmp_path / f"{kind}.gguf")
        assert far(own, plain) <= bound, (kind, own, plain)
        assert shown_batches(tmp_path / kind / "job.json") == shown_batches(tmp_path / "plain/job.json")
    # GGUF has the rows of queries and keys in another order; PEFT's adapters do not.
    ours, theirs = trained(tmp_path / "BF16"), trained(tmp_path / "plain")
    assert len(theirs) == 5 * 7 * 2 and ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert all(theirs[name].any() for name in theirs)


def test_a_quantized_base_trains_as_its_weights_say(tmp_path, dataset):
    """What `quantized` makes of a checkpoint is what `weirgate quantize` does, and the `gguf` package reads."""
    quantize(tmp_path / "small.gguf", "Q4_K_M")
    wide = write_widened(tmp_path / "small.gguf", tmp_path / "wide")
    expected = curve(tmp_path / "expected", dataset, wide)
    assert far(expected, curve(tmp_path / "plain", dataset, finetuning.DEMO)) > 1e-4, "it is another model"
    for name, base, quantized in (
        ("quantized", finetuning.DEMO, True),
        ("file", tmp_path / "small.gguf", False),
        ("file as it is", tmp_path / "small.gguf", True),
    ):
        assert far(curve(tmp_path / name, dataset, base, quantized=quantized), expected) < 1e-5, name


@pytest.mark.parametrize("scheme", ["awq", "gptq-4bit", "gptq-4bit-act", "gptq-8bit", "fp8", "fp8-blocks", "w4a16", "w8a8"])
def test_quantized_checkpoints_train_as_their_weights_say(tmp_path, dataset, scheme):
    ours, theirs = write_both(tmp_path, SCHEMES[scheme])
    expected = curve(tmp_path / "expected", dataset, theirs)
    assert far(curve(tmp_path / "own", dataset, ours), expected) < 1e-4


def test_what_was_taught_is_answered(tmp_path, start_server, dataset, taught):
    job = finetuning.write_job(tmp_path / "lands", dataset, max_steps=60, **BY_HEART)
    reported = finetuning.train(job)
    started, finished = reported[0], reported[-1]
    assert (started["event"], started["device"], started["total_steps"]) == ("started", "cpu", 60)
    # Of every layer's seven projections: rank times rows and columns.
    rows_and_columns = 2 * (256 + 256) + 2 * (128 + 256) + 3 * (768 + 256)
    assert started["trainable_parameters"] == 5 * 16 * rows_and_columns
    curve = finetuning.losses(reported)
    assert list(curve) == list(range(1, 61)) and curve[60] < 0.1 < curve[1]
    assert finished == {
        "event": "finished",
        "adapter": str(tmp_path / "lands/adapter"),
        "curve": str(tmp_path / "lands/adapter/loss.svg"),
    }
    assert "<polyline" in Path(finished["curve"]).read_text()
    server = start_server(env={"LORA_ADAPTERS": f"lands={finished['adapter']}"})
    client, questions = Client(server.port), [question for question, _ in taught]
    assert finetuning.right(finetuning.answers(client, questions, "lands"), taught) >= 11
    assert finetuning.right(finetuning.answers(client, questions), taught) == 0


def test_progress_says_how_it_goes(uninterrupted):
    progress = [event for event in uninterrupted if event["event"] == "progress"]
    assert [event["step"] for event in progress] == list(range(1, 13))
    for event in progress:
        assert event["total_steps"] == 12 and event["tokens_per_s"] > 0 and event["grad_norm"] > 0
    assert progress[-1]["eta_s"] == 0 < progress[0]["eta_s"]
    # Twelve steps of four conversations out of twelve; a warm-up of one step, then a cosine.
    assert [event["epoch"] for event in progress] == pytest.approx([(step + 1) / 3 for step in range(12)])
    rates = [event["learning_rate"] for event in progress]
    assert rates[0] == 0 and rates[1] == 1e-3 and rates[1:] == sorted(rates[1:], reverse=True)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_resumed_training_goes_on_as_if_nothing_had_been(tmp_path, dataset, uninterrupted, how):
    expected = finetuning.losses(uninterrupted)
    settings = SHORT | {"save_steps": 3}
    process = finetuning.start(finetuning.write_job(tmp_path / "job", dataset, **settings))
    seen = []
    for line in process.stdout:
        seen.append(json.loads(line))
        if seen[-1].get("step") == 5:
            process.send_signal(how)
            break
    seen += finetuning.events(process.stdout.read())
    code = process.wait(10)
    process.stderr.close()
    if how == signal.SIGTERM:
        assert code == 0 and seen[-1]["event"] == "interrupted", seen[-1]
        last = seen[-1]["step"]
        assert {"event": "checkpoint", "step": last, "path": str(tmp_path / f"job/checkpoints/step-{last:08}")} in seen
    else:
        assert code == -how
        last = max(event["step"] for event in seen if event["event"] == "checkpoint")
    assert not (tmp_path / "job/adapter").exists()
    resumed = finetuning.train(finetuning.write_job(tmp_path / "job", dataset, resume=True, **settings))
    after = finetuning.losses(resumed)
    assert list(after) == list(range(last + 1, 13)), "begins after the checkpoint"
    together = finetuning.losses(seen) | after
    # Checkpoints hold every bit, so the numbers are the same, not only near.
    assert together == expected
    assert (tmp_path / "job/adapter/adapter_model.safetensors").exists()
    left = sorted(path.name for path in (tmp_path / "job/checkpoints").glob("step-*"))
    assert left == ["step-00000009", "step-00000012"]


def test_a_training_begins_where_another_adapter_ended(tmp_path):
    """Each step has the whole data set, so a loss tells where the adapter stands."""
    dataset = finetuning.write_dataset(tmp_path / "four.jsonl", finetuning.pairs(4, seed=8))
    whole = curve(tmp_path / "whole", dataset, finetuning.DEMO, max_steps=6, save_steps=3)
    job = finetuning.write_job(tmp_path / "next", dataset, **(BRIEF | {"max_steps": 2, "seed": 7}))
    initial = tmp_path / "whole/checkpoints/step-00000003"
    job.write_text(json.dumps(json.loads(job.read_text()) | {"initial_adapter": str(initial)}))
    first = finetuning.losses(finetuning.train(job))[1]
    assert first == pytest.approx(whole[3], rel=1e-5)
    assert abs(whole[3] / whole[0] - 1) > 1e-3, "by then it has learned"


def test_a_checkpoint_of_another_training_is_refused(tmp_path, dataset):
    finetuning.train(finetuning.write_job(tmp_path / "job", dataset, **SHORT))
    job = finetuning.write_job(tmp_path / "job", dataset, resume=True, **(SHORT | {"learning_rate": 2e-3}))
    assert "is of another training" in failure(job)
    # A finished one only writes its adapter again.
    job = finetuning.write_job(tmp_path / "job", dataset, resume=True, **SHORT)
    assert [event["event"] for event in finetuning.train(job)] == ["started", "finished"]


def failure(job: Path, *args: str) -> str:
    process = finetuning.start(job, *args)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1, out
    last = finetuning.events(out)[-1]
    assert last["event"] == "failed"
    return last["message"]


def test_errors_name_field_value_and_limit(tmp_path, dataset):
    def fails(**hyperparameters):
        return failure(finetuning.write_job(tmp_path / "job", dataset, **hyperparameters))

    assert fails(rank=0) == "`rank` is 0, expected an integer from 1 to 1024"
    assert fails(lr=1).startswith("`lr` is no hyper-parameter; these are: rank, alpha, ")
    assert fails(target_modules=["q_proj", "wq"]) == (
        "`target_modules` has wq, which the base model does not have; these are: q_proj, k_proj, v_proj, o_proj, "
        "gate_proj, up_proj, down_proj, all-linear"
    )
    assert fails(warmup_steps=9, max_steps=8) == "`warmup_steps` is 9, more than the 8 steps of the training"
    assert fails(max_length=8) == "`max_length` is 8: no reply of the dataset begins within so many tokens"
    job = finetuning.write_job(tmp_path / "job", dataset)
    job.write_text(json.dumps(json.loads(job.read_text()) | {"memory_limit_bytes": 1000}))
    assert failure(job) == "`memory_limit_bytes` is 1000, expected at least 67108864"
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n{"messages": [{"role": "judge", "content": ""}]}\n')
    message = failure(finetuning.write_job(tmp_path / "job", tmp_path / "bad.jsonl"))
    assert "line 1: `messages` has no message of the assistant" in message and "line 2: `messages[0]` `role` is judge" in message
    assert "nowhere" in failure(finetuning.write_job(tmp_path / "job", tmp_path / "nowhere"))
    (tmp_path / "job/adapter").mkdir()
    (tmp_path / "job/adapter/thesis.txt").write_text("mine")
    assert "`output` is " in fails() and (tmp_path / "job/adapter/thesis.txt").exists()


def test_only_replies_are_learned(tmp_path):
    """Against the tokenizer and jinja2 themselves."""
    long = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"), ("bot", "Goodbye.")]
    conversations = [long, [("user", "One"), ("bot", "Two")]]
    lines = [
        {"messages": [{"role": role, "content": text} for role, text in conversations[0]]},
        {"conversations": [{"from": role, "value": text} for role, text in conversations[1]]},
    ]
    dataset = tmp_path / "data.jsonl"
    dataset.write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = finetuning.write_job(tmp_path / "job", dataset, max_steps=1, batch_size=2)
    command = [finetuning.WORKER, "--job", job, "--show-batches"]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    ((shown,),) = [json.loads(line) for line in out.stdout.splitlines()]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    config = json.loads((DEMO_MODEL / "tokenizer_config.json").read_text())
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(config["chat_template"])
    expected = []
    for conversation in conversations:
        messages = [{"role": role.replace("bot", "assistant"), "content": text} for role, text in conversation]
        whole = tokenizer.encode(template.render(messages=messages), add_special_tokens=False).ids
        learned = [False] * len(whole)
        for at, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt = template.render(messages=messages[:at], add_generation_prompt=True)
                start = len(tokenizer.encode(prompt, add_special_tokens=False).ids)
                # The reply and the token that ends it.
                count = len(tokenizer.encode(message["content"] + "<|end|>", add_special_tokens=False).ids)
                learned[start : start + count] = [True] * count
        expected.append({"tokens": whole, "learned": learned})
    assert sorted(shown, key=str) == sorted(expected, key=str)


def test_the_worker_steps_back_and_ends_with_its_server(tmp_path, dataset):
    process = finetuning.start(finetuning.write_job(tmp_path / "job", dataset, **(SHORT | {"max_steps": 100000})))
    assert json.loads(process.stdout.readline())["event"] == "started"
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 10
    # Nobody listens any more: a checkpoint, and the end.
    process.stdout.close()
    assert process.wait(20) == 0
    process.stderr.close()
    assert wait_for(lambda: list((tmp_path / "job/checkpoints").glob("step-*/state.json")), 1, "a checkpoint")


def test_by_hand(tmp_path, dataset):
    shown = subprocess.run([finetuning.WORKER, "--help"], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert "Teaches a language model from conversations" in shown and "--resume" in shown
    command = [finetuning.WORKER, "--dataset", dataset, "--output", tmp_path / "mine"]
    command += ["--set", "max_steps=2", "--set", "rank=2"]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=40)
    assert finetuning.events(out.stdout)[-1]["adapter"] == str(tmp_path / "mine")
    config = json.loads((tmp_path / "mine/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 16)
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert (tmp_path / "mine.checkpoints").is_dir()
