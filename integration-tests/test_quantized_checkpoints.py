"""Quantized checkpoints over HTTP: each says what its weights say as floats; `--quantize` says what is expected."""

import json
import subprocess

import gguf
import pytest
from harness.client import Client
from harness.gguf_files import quantize
from harness.quantized_checkpoints import SCHEMES, write_both
from harness.server import BINARY, ROOT, clean_environment

EXPECTED = json.loads((ROOT / "tools/demo_model/expected.json").read_text())
# Largest mean difference of a text's log-probabilities: of weights in blocks, with activations rounded to eight bits,
# and of weights in f16.
IN_BLOCKS, IN_F16 = 0.015, 0.001
IN_FLOATS = {"gptq-4bit-act", "gptq-8bit-asym", "fp8", "fp8-blocks", "w8a8-fp8"}
# A wrong bit or zero point changes a text's log-probabilities by more than this: what four bits do is less.
FROM_STORED = 0.2


def logprobs(client: Client) -> list[float]:
    """Of the tokens of two of the demo model's stories."""
    found = []
    for story in EXPECTED["prompts"][2:4]:
        parameters = {"max_new_tokens": 1, "decoder_input_details": True, "details": True}
        body = client.post_ok("/generate", {"inputs": story["prompt"] + story["text"], "parameters": parameters})
        found += [token["logprob"] for token in body["details"]["prefill"] if token["logprob"] is not None]
    assert len(found) > 100
    return found


def answers(client: Client) -> list[str]:
    bodies = [{"messages": case["messages"], "temperature": 0, "max_tokens": 48} for case in EXPECTED["questions"][:6]]
    return [client.post_ok("/v1/chat/completions", body)["choices"][0]["message"]["content"] for body in bodies]


def mean_difference(ours: list[float], theirs: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / len(ours)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    from harness.server import Server

    server = Server(tmp_path_factory.mktemp("stored") / "log", "--enable-prefill-logprobs")
    try:
        return logprobs(Client(server.start().port))
    finally:
        server.kill()


@pytest.mark.parametrize("name", SCHEMES)
def test_says_what_its_dequantized_weights_say(name, tmp_path, start_server, stored):
    folders = write_both(tmp_path, SCHEMES[name])
    ours, theirs = (
        Client(start_server("--enable-prefill-logprobs", "--model-id", str(folder)).port) for folder in folders
    )
    found, expected = logprobs(ours), logprobs(theirs)
    difference, from_stored = mean_difference(found, expected), mean_difference(found, stored)
    same = [a == b for a, b in zip(answers(ours), answers(theirs), strict=True)]
    print(f"quantized | {name} | {difference:.5f} | {from_stored:.4f} | {sum(same)} of {len(same)} answers")
    assert difference <= (IN_F16 if name in IN_FLOATS else IN_BLOCKS)
    assert from_stored <= FROM_STORED
    assert sum(same) >= len(same) - (name not in IN_FLOATS)


def test_as_a_gguf_file_and_in_shards(tmp_path, start_server):
    """What reads checkpoints reads quantized ones: the converter, and shards, which take columns by whole blocks."""
    quantized, floats = write_both(tmp_path, SCHEMES["gptq-4bit-asym"])
    file = tmp_path / "demo.gguf"
    quantize(file, "Q8_0", quantized)
    kinds = [tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors if "ffn" in tensor.name]
    assert kinds.count("Q5_0") == 15, kinds
    expected = logprobs(Client(start_server("--enable-prefill-logprobs", "--model-id", str(floats)).port))
    for arguments in (["--model-id", str(file)], ["--model-id", str(quantized), "--num-shard", "2"]):
        found = logprobs(Client(start_server("--enable-prefill-logprobs", *arguments).port))
        # The file's embedding and head are quantized, too.
        assert mean_difference(found, expected) <= 2 * IN_BLOCKS, arguments


def refused(folder, *arguments: str) -> str:
    done = subprocess.run(
        [str(BINARY), "--hostname", "127.0.0.1", "--port", "0", "--model-id", str(folder), *arguments],
        env=clean_environment(None),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_the_expected_kind_is_checked(tmp_path, start_server):
    quantized, floats = write_both(tmp_path, SCHEMES["awq"])
    message = refused(quantized, "--quantize", "fp8")
    assert "`quantize` is `fp8`, but the checkpoint's weights are quantized by awq" in message
    message = refused(floats, "--quantize", "compressed-tensors")
    assert "`quantize` is `compressed-tensors`, but the checkpoint's weights are not quantized" in message
    for value in ["awq", "gptq", "marlin"]:
        server = start_server("--model-id", str(quantized), "--quantize", value)
        assert Client(server.port).post_ok("/generate", {"inputs": "Once", "parameters": {"max_new_tokens": 4}})
        server.stop()


def test_a_part_that_does_not_fit_ends_the_start(tmp_path):
    from harness.checkpoints import drop_tensor

    quantized, _ = write_both(tmp_path, SCHEMES["gptq-4bit"])
    drop_tensor(quantized / "model.safetensors", "model.layers.1.mlp.up_proj.scales")
    message = refused(quantized)
    assert "model.layers.1.mlp.up_proj.scales" in message and "is missing" in message
