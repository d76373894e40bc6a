"""Writes the adapter goldens: small LoRA adapters of tiny checkpoints of the testkit, as PEFT saves them (and one as
llama.cpp does), and the logits that PEFT computes with them in f32, merged into the base and beside it.

    make_adapters.py FOLDER

Per adapter a folder `<name>` with its files, and `<name>.json`: its base, a prompt, and the logits after each of its
tokens, by `[how][token][vocab]`.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

import generator
import make_goldens

PROMPT_TOKENS = 10
ADAPTERS = {
    "llama-qv": ("llama", torch.float32, {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}),
    "llama-all": (
        "llama",
        torch.bfloat16,
        {
            "r": 6,
            "lora_alpha": 3,
            "use_rslora": True,
            "target_modules": "all-linear",
            "rank_pattern": {"k_proj": 3, "layers.1.mlp.down_proj": 17},
            "alpha_pattern": {"o_proj": 11, r".*\.2\..*gate_proj": 1},
        },
    ),
    "llama-regex": (
        "llama",
        torch.float16,
        {"r": 5, "lora_alpha": 9, "target_modules": r".*layers\.[02]\..*\.(k|o|up)_proj", "exclude_modules": ["layers.2.mlp.up_proj"]},
    ),
    "qwen2-layer": (
        "qwen2",
        torch.float32,
        {
            "r": 3,
            "lora_alpha": 6,
            "target_modules": ["k_proj", "gate_proj", "down_proj"],
            "layers_to_transform": [1],
            "layers_pattern": "layers",
        },
    ),
    "phi3-fused": ("phi3", torch.float32, {"r": 4, "lora_alpha": 8, "target_modules": ["qkv_proj", "gate_up_proj"]}),
}
GGUF = ("llama-gguf", {"r": 7, "lora_alpha": 5, "target_modules": "all-linear"})
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def adapted(base, name, dtype, settings, seed):
    """The base with an adapter whose matrices are random, rounded to `dtype`, and large enough to matter."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", **settings)
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                scale = 1.5 / parameter.shape[1] ** 0.5
                values = generator.uniform(seed, f"{name}/{key}", parameter.numel()) * np.float32(scale)
                values = torch.from_numpy(values).reshape(parameter.shape).to(dtype).to(torch.float32)
                parameter.copy_(values)
    return model.eval()


def logits(model, prompt):
    return model(torch.tensor([prompt])).logits[0].double()


def make(name, definition, dtype, settings, out):
    seed = definition["seed"]
    with tempfile.TemporaryDirectory() as folder:
        make_goldens.write_checkpoint(definition, Path(folder))
        base = make_goldens.load(folder)
        prompt = generator.prompt(seed, 77, PROMPT_TOKENS, base.config.vocab_size)
        plain = logits(base, prompt)
        model = adapted(base, name, dtype, settings, seed)
        beside = logits(model, prompt)
        model.save_pretrained(out / name)
        (out / name / "README.md").unlink(missing_ok=True)
        described = out / name / "adapter_config.json"
        # PEFT notes the folder that the base was loaded from.
        config = {**json.loads(described.read_text()), "base_model_name_or_path": None}
        described.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        path = out / name / "adapter_model.safetensors"
        save_file({key: t.to(dtype).contiguous() for key, t in load_file(path).items()}, path, metadata={"format": "pt"})
        merged = logits(model.merge_and_unload(), prompt)
        # What was saved is what was computed.
        read = logits(peft.PeftModel.from_pretrained(make_goldens.load(folder), out / name).eval(), prompt)
    far, near = (plain - beside).abs().max(), max((merged - beside).abs().max(), (read - beside).abs().max())
    assert near < 1e-4 and far > 0.5, (name, float(near), float(far))
    golden = {"prompt": prompt, "beside": rounded(beside), "merged": rounded(merged)}
    print(f"{name:12} moves the logits by up to {far:.2f}, merged {near:.1e}")
    return golden


def rounded(values):
    return [[round(value, 6) for value in row] for row in values.tolist()]


def permute(weights, heads):
    """Rows as llama.cpp's `llama` rotates them."""
    rows, cols = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def to_gguf(folder, file, config, alpha):
    """A PEFT folder as llama.cpp's converter writes it."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    heads = {"self_attn.q_proj": config["num_attention_heads"], "self_attn.k_proj": config["num_key_value_heads"]}
    for key, tensor in sorted(load_file(folder / "adapter_model.safetensors").items()):
        layer, module = key.removeprefix("base_model.model.model.layers.").split(".", 1)
        module, side = module.removesuffix(".weight").rsplit(".lora_", 1)
        values = tensor.numpy()
        if side == "B" and module in heads:
            values = permute(values, heads[module])
        writer.add_tensor(f"blk.{layer}.{GGUF_NAMES[module]}.weight.lora_{side.lower()}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.inference_mode()
def make_all(out):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    table = generator.definitions()
    jobs = {name: (base, dtype, settings) for name, (base, dtype, settings) in ADAPTERS.items()}
    name, settings = GGUF
    jobs[name] = ("llama", torch.float32, settings)
    for name, (base, dtype, settings) in jobs.items():
        golden = {"base": base, **make(name, table[base], dtype, settings, out)}
        (out / f"{name}.json").write_text(json.dumps(golden) + "\n")
    name, settings = GGUF
    config = json.loads(table["llama"]["config"])
    to_gguf(out / name, out / f"{name}.gguf", config, settings["lora_alpha"])
    shutil.rmtree(out / name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_all(Path(sys.argv[1]))
