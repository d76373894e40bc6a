"""Writes the parity goldens: for every tiny checkpoint of the testkit, what transformers computes from it in f32.

    make_goldens.py FOLDER [checkpoint ...]

`<name>.logits`: f32, little-endian, `[200, vocab]`, after each token of one prompt. `goldens.json`: per checkpoint its
checksum and 64 greedy tokens for each of 20 prompts. `rope.json`: rotary tables at far positions.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import generator

LOGITS_PROMPT = 1000
LOGITS_TOKENS = 200
GREEDY_TOKENS = 64
# Greedy tokens can only be compared where no choice hangs on a rounding error.
MIN_MARGIN = 2e-4
TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def write_checkpoint(definition, folder):
    """An HF folder with generated weights; returns their checksum. Names and shapes are transformers' own."""
    (folder / "config.json").write_text(definition["config"])
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    tied = set(model._tied_weights_keys or ()) if config.tie_word_embeddings else set()
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items() if name not in tied}
    raw = {n: generator.to_bytes(generator.tensor(definition, n, s), definition["dtype"]) for n, s in shapes.items()}
    dtype = TORCH_DTYPES[definition["dtype"]]
    tensors = {n: torch.frombuffer(bytearray(b), dtype=dtype).reshape(shapes[n]) for n, b in raw.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return generator.checksum(raw)


def load(folder):
    """The checkpoint as stored, computed in f32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    model.generation_config.eos_token_id = None
    return model.eval()


def forget_length(model):
    """Dynamic NTK remembers the longest sequence it has seen; a short one makes it forget."""
    model(torch.tensor([[1]]))


def greedy(model, prompt):
    """64 tokens and the smallest distance between the best and the second-best logit on the way."""
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=GREEDY_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = out.sequences[0, len(prompt) :].tolist()
    assert len(tokens) == GREEDY_TOKENS
    best = torch.cat(out.logits).topk(2).values
    return tokens, float((best[:, 0] - best[:, 1]).min())


# Rotary settings of published models (and one of each remaining kind), as in their config.json.
ROPE_CONFIGS = {
    "llama-3.1": {
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    },
    "yarn": {
        "rope_theta": 1000000.0,
        "max_position_embeddings": 131072,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
    },
    "yarn-mscale": {
        "max_position_embeddings": 163840,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000,
            "factor": 40,
            "original_max_position_embeddings": 4096,
            "beta_fast": 16,
            "beta_slow": 2,
            "mscale": 1.0,
            "mscale_all_dim": 0.7,
            "truncate": False,
        },
    },
    "dynamic": {"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 8.0}},
    "linear": {"max_position_embeddings": 16384, "rope_scaling": {"type": "linear", "factor": 2.5}},
    "plain": {"rope_theta": 1000000.0, "max_position_embeddings": 131072},
}
ROPE_POSITIONS = [0, 1, 777, 4095, 20000, 131071]


def make_rope():
    """Cosines and sines of heads of 128 at some positions; the last one is the sequence's end."""
    goldens = {}
    for name, settings in ROPE_CONFIGS.items():
        shape = {"hidden_size": 256, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 300}
        text = {"architectures": ["LlamaForCausalLM"], "intermediate_size": 300, **shape, **settings}
        config = transformers.LlamaConfig.from_dict(json.loads(json.dumps(text)))
        rope = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
        cos, sin = rope(torch.zeros(1), torch.tensor([ROPE_POSITIONS]))
        half = cos.shape[-1] // 2
        goldens[name] = {
            "config": text,
            "positions": ROPE_POSITIONS,
            "cos": cos[0, :, :half].tolist(),
            "sin": sin[0, :, :half].tolist(),
        }
    return goldens


@torch.inference_mode()
def make(name, definition, out):
    with tempfile.TemporaryDirectory() as folder:
        checksum = write_checkpoint(definition, Path(folder))
        model = load(folder)
    vocab = model.config.vocab_size
    seed = definition["seed"]
    prompt = generator.prompt(seed, LOGITS_PROMPT, LOGITS_TOKENS, vocab)
    logits = model(torch.tensor([prompt])).logits[0].numpy()
    assert logits.shape == (LOGITS_TOKENS, vocab) and logits.dtype == np.float32
    (out / f"{name}.logits").write_bytes(logits.astype("<f4").tobytes())
    tokens, margins = [], []
    for index, length in enumerate(generator.PROMPT_LENGTHS):
        forget_length(model)
        generated, margin = greedy(model, generator.prompt(seed, index, length, vocab))
        tokens.append(generated)
        margins.append(margin)
    assert min(margins) > MIN_MARGIN, f"{name}: a greedy choice hangs on {min(margins)}; change the seed"
    distinct = len({tuple(t[-8:]) for t in tokens})
    print(f"{name:16} checksum {checksum}  spread {logits.std():.2f}  margin {min(margins):.1e}  "
          f"distinct endings {distinct}/20", flush=True)
    return {"checksum": checksum, "vocab": vocab, "tokens": tokens}


def make_all(out, names=()):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    generator.self_check()
    out.mkdir(parents=True, exist_ok=True)
    table = generator.definitions()
    goldens = {name: make(name, table[name], out) for name in names or table}
    lines = [f"{json.dumps(name)}: {json.dumps(golden)}" for name, golden in goldens.items()]
    (out / "goldens.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    (out / "rope.json").write_text(json.dumps(make_rope()) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_all(Path(sys.argv[1]), sys.argv[2:])
