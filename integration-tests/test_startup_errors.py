"""What does not start: exit code, how soon, and whether the message names the culprit. And what a good start prints."""

import json
import socket

import pytest
from harness import checkpoints
from harness.client import Client
from harness.server import DEMO_MODEL, free_port, run_to_exit

WEIGHTS = "model.safetensors"
FIRST_Q = "model.layers.0.self_attn.q_proj.weight"


def missing_config(folder):
    (folder / "config.json").unlink()


def missing_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def missing_weights(folder):
    (folder / WEIGHTS).unlink()


def malformed_config(folder):
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], ')


def malformed_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def truncated_weights(folder):
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(raw[: len(raw) // 2])


def truncated_header(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


def empty_weights(folder):
    (folder / WEIGHTS).write_bytes(b"")


def header_longer_than_the_file(folder):
    (folder / WEIGHTS).write_bytes(b"\xff" * 7 + b"\x00" + b"{}")


def missing_tensor(folder):
    checkpoints.drop_tensor(folder / WEIGHTS, FIRST_Q)


def wrong_shape(folder):
    header, _ = checkpoints.read_safetensors(folder / WEIGHTS)
    rows, columns = header[FIRST_Q]["shape"]
    checkpoints.reshape_tensor(folder / WEIGHTS, FIRST_Q, [rows // 2, columns * 2])


def config_says_other_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    checkpoints.edit_json(folder / "config.json", intermediate_size=config["intermediate_size"] + 256)


def unsupported_architecture(folder):
    checkpoints.edit_json(folder / "config.json", architectures=["MambaForCausalLM"], model_type="mamba")


def mixture_of_experts(folder):
    checkpoints.edit_json(folder / "config.json", architectures=["MixtralForCausalLM"], model_type="mixtral")


def vision(folder):
    checkpoints.edit_json(folder / "config.json", architectures=["LlavaForConditionalGeneration"], model_type="llava")


def pickle_only(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def shard_missing(folder):
    header, _ = checkpoints.read_safetensors(folder / WEIGHTS)
    names = [name for name in header if name != "__metadata__"]
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    parts = {name: f"model-0000{1 + (name == FIRST_Q)}-of-00002.safetensors" for name in names}
    index = {"metadata": {}, "weight_map": parts}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def heads_do_not_divide(folder):
    checkpoints.edit_json(folder / "config.json", num_attention_heads=7, num_key_value_heads=3, head_dim=None)


# What is broken, and what the message must name.
BROKEN = [
    (missing_config, ["config.json"]),
    (missing_tokenizer, ["tokenizer.json"]),
    (missing_weights, ["safetensors"]),
    (malformed_config, ["config.json"]),
    (malformed_tokenizer, ["tokenizer.json"]),
    (truncated_weights, [WEIGHTS]),
    (truncated_header, [WEIGHTS]),
    (empty_weights, [WEIGHTS]),
    (header_longer_than_the_file, [WEIGHTS]),
    (missing_tensor, [FIRST_Q]),
    (wrong_shape, [FIRST_Q]),
    (config_says_other_shape, ["mlp"]),
    (unsupported_architecture, ["MambaForCausalLM", "not supported"]),
    (mixture_of_experts, ["MixtralForCausalLM", "not supported"]),
    (vision, ["LlavaForConditionalGeneration", "not supported"]),
    (pickle_only, ["pytorch_model.bin", "safetensors"]),
    (shard_missing, ["model-00002-of-00002.safetensors"]),
    (heads_do_not_divide, ["num_attention_heads"]),
]


@pytest.mark.parametrize("breakage, named", BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_broken_model(tmp_path, breakage, named):
    folder = checkpoints.copy_of_demo(tmp_path / "broken")
    breakage(folder)
    code, output, seconds = run_to_exit(["--model-id", str(folder), "--port", str(free_port())])
    assert code == 1, output
    # The folder's path repeats the name of what is broken.
    output = output.replace(str(folder), "FOLDER")
    for name in named:
        assert name.lower() in output.lower(), f"does not name {name}:\n{output}"
    assert "panicked" not in output and "RUST_BACKTRACE" not in output, output
    assert seconds < 1, f"took {seconds:.2f} s:\n{output}"


def test_a_broken_chat_template_leaves_the_rest(start_server, tmp_path):
    folder = checkpoints.copy_of_demo(tmp_path / "broken")
    checkpoints.edit_json(folder / "tokenizer_config.json", chat_template="{% for message in messages %}")
    server = start_server("--model-id", str(folder))
    assert "chat template" in server.output()
    client = Client(server.port)
    assert client.post_ok("/generate", {"inputs": "Once", "parameters": {"max_new_tokens": 2}})
    response = client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
    assert response.status == 400
    assert response.json()["error_type"] == "template_error"


def test_truncation_anywhere_is_a_clean_error(tmp_path):
    """Cut at several places, header and data, the weights are refused and never crash the process."""
    folder = checkpoints.copy_of_demo(tmp_path / "broken")
    raw = (DEMO_MODEL / WEIGHTS).read_bytes()
    for cut in (0, 7, 8, 9, 1000, len(raw) // 3, len(raw) - 4096, len(raw) - 1):
        (folder / WEIGHTS).write_bytes(raw[:cut])
        code, output, _ = run_to_exit(["--model-id", str(folder), "--port", str(free_port())])
        assert code == 1 and WEIGHTS in output and "panicked" not in output, f"cut at {cut}: {code}\n{output}"


def test_folder_that_is_not_there(tmp_path):
    code, output, _ = run_to_exit(["--model-id", str(tmp_path / "nothing"), "--port", str(free_port())])
    assert code == 1
    assert str(tmp_path / "nothing") in output


def test_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, output, seconds = run_to_exit(["--hostname", "127.0.0.1", "--port", str(port)])
    assert code == 1, output
    assert str(port) in output and "in use" in output.lower(), output
    assert seconds < 5, "a port that is taken is no reason to try again and again"


# TGI's own messages where it has one.
BAD_FLAGS = [
    (["--max-input-tokens", "10", "--max-input-length", "10"], 1, "max_input_length"),
    (["--max-input-tokens", "10", "--max-total-tokens", "10"], 1, "`max_input_tokens must be < `max_total_tokens`"),
    (["--validation-workers", "0"], 1, "`validation_workers` must be > 0"),
    (["--max-total-tokens", "100", "--max-batch-total-tokens", "50"], 1, "max_batch_total_tokens"),
    (["--num-shard", "0"], 1, "`num_shard` cannot be < 1"),
    (["--num-shard", "3"], 1, "the model cannot be split into 3 shards: num_attention_heads is 4"),
    (["--sharded", "true", "--num-shard", "1"], 1, "`sharded` is true but `num_shard` <= 1"),
    (["--ngrok"], 1, "`ngrok-authtoken` must be set when using ngrok tunneling"),
    (["--lora-adapters", "a@b@c"], 1, "a@b@c"),
    (["--max-batch-prefill-tokens", "x"], 2, "invalid value 'x' for '--max-batch-prefill-tokens"),
    (["--no-such-flag"], 2, "unexpected argument '--no-such-flag'"),
    (["--dtype", "int3"], 2, "invalid value 'int3'"),
]


@pytest.mark.parametrize(
    "args, code, text", BAD_FLAGS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_flags(args, code, text):
    got, output, _ = run_to_exit([*args, "--port", str(free_port())])
    assert got == code, output
    assert text in output


def test_bad_variable():
    code, output, _ = run_to_exit([], env={"PORT": "high"})
    assert code == 2
    assert "--port" in output and "'high'" in output


@pytest.mark.parametrize("value, accepted", [("1", True), ("True", True), ("0", False), ("", False)])
def test_boolean_variables_take_what_people_write(start_server, value, accepted):
    server = start_server(env={"JSON_OUTPUT": value})
    assert server.output().splitlines()[0].startswith("{") == accepted


def test_start_prints_table_connected_and_ready_line(server):
    output = server.output()
    for row in ("max_input_tokens", "max_total_tokens", "max_batch_prefill_tokens", "max_batch_total_tokens"):
        assert row in output, f"the table of resolved sizes lacks {row}:\n{output}"
    assert "Connected" in output
    assert "ERROR" not in output
    assert "\x1b[" not in output, "a log that is no terminal has no colours"


def test_json_output_is_json(start_server):
    server = start_server("--json-output")
    server.stop()
    lines = server.output().splitlines()
    records = [json.loads(line) for line in lines]
    assert all({"timestamp", "level"} <= set(record) for record in records)
    assert any("Connected" in json.dumps(record) for record in records)


def test_variables_mean_what_flags_mean(start_server):
    server = start_server(env={"MAX_CONCURRENT_REQUESTS": "7", "MAX_TOTAL_TOKENS": "100", "MAX_BEST_OF": "3"})
    info = Client(server.port).get("/info").json()
    assert (info["max_concurrent_requests"], info["max_total_tokens"], info["max_best_of"]) == (7, 100, 3)
    assert info["max_input_tokens"] == 99


def test_help_lists_every_flag_of_the_reference():
    code, output, _ = run_to_exit(["--help"])
    assert code == 0
    for flag in (
        "model-id",
        "max-concurrent-requests",
        "watermark-gamma",
        "payload-limit",
        "graceful-termination-timeout",
    ):
        assert f"--{flag}" in output
    assert "--fault" not in output
