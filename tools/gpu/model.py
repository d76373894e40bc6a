"""Writes a checkpoint with random weights: of an 8B Llama's shape where figures are taken, a tiny one for dry runs.

The weights are made on the GPU if there is one; the file lies in the page cache afterwards.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import make_random_model as base
import numpy as np

# As Llama 3.1's: ids of ordinary tokens come first.
SPECIAL_TOKENS = 256


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    positions: int

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    def tensors(self) -> dict[str, tuple[int, ...]]:
        tensors = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            tensors[f"{prefix}.input_layernorm.weight"] = (self.hidden,)
            tensors[f"{prefix}.post_attention_layernorm.weight"] = (self.hidden,)
            for name, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
                tensors[f"{prefix}.self_attn.{name}_proj.weight"] = (heads * self.head_size, self.hidden)
            tensors[f"{prefix}.self_attn.o_proj.weight"] = (self.hidden, self.hidden)
            tensors[f"{prefix}.mlp.gate_proj.weight"] = (self.intermediate, self.hidden)
            tensors[f"{prefix}.mlp.up_proj.weight"] = (self.intermediate, self.hidden)
            tensors[f"{prefix}.mlp.down_proj.weight"] = (self.hidden, self.intermediate)
        return tensors | {"model.norm.weight": (self.hidden,), "lm_head.weight": (self.vocabulary, self.hidden)}

    def decode_weights(self) -> int:
        """Elements that a decode step reads: all matrices but the embedding, of which it reads a row."""
        return sum(int(np.prod(shape)) for name, shape in self.tensors().items() if "embed" not in name)

    def kv_bytes_per_token(self, element: int = 2) -> int:
        return 2 * self.layers * self.kv_heads * self.head_size * element

    def prefill_operations(self, tokens: int) -> int:
        """Of one prompt: a product and a sum for each weight and token (the head for the last token alone), and causal
        attention's two products."""
        head = self.vocabulary * self.hidden
        linear = 2 * (self.decode_weights() - head) * tokens + 2 * head
        return linear + 4 * self.layers * self.hidden * tokens * (tokens + 1) // 2


LLAMA_8B = Shape(32, 4096, 14336, 32, 8, 128_256, 131_072)
TINY = Shape(2, 64, 96, 4, 2, 2048, 4096)


def config(shape: Shape) -> dict:
    first_special = shape.vocabulary - SPECIAL_TOKENS
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.positions,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "num_hidden_layers": shape.layers,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": shape.vocabulary,
        "bos_token_id": first_special,
        "eos_token_id": first_special + 2,
    }


def random_bf16(shape: tuple[int, ...], seed: int, device: str) -> memoryview:
    """Norms are one; matrices have variance 1 / inputs, so that activations keep their size through the layers."""
    if device == "cpu":
        if len(shape) == 1:
            return memoryview(base.bf16(np.ones(shape, np.float32)).tobytes())
        values = np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)
        return memoryview(base.bf16(values).tobytes())
    import torch

    if len(shape) == 1:
        tensor = torch.ones(shape, dtype=torch.bfloat16)
    else:
        generator = torch.Generator(device).manual_seed(seed)
        tensor = torch.empty(shape, dtype=torch.bfloat16, device=device)
        tensor.normal_(0, shape[-1] ** -0.5, generator=generator)
    return memoryview(tensor.cpu().view(torch.uint8).numpy().reshape(-1))


def write(folder: Path, shape: Shape, device: str) -> Path:
    complete = folder / "config.json"
    if complete.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    header, offset = {}, 0
    for name, tensor in shape.tensors().items():
        size = 2 * int(np.prod(tensor))
        header[name] = {"dtype": "BF16", "shape": list(tensor), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for seed, tensor in enumerate(shape.tensors().values()):
            file.write(random_bf16(tensor, seed, device))
    first_special = shape.vocabulary - SPECIAL_TOKENS
    base.write_json(folder / "tokenizer.json", base.tokenizer(first_special))
    base.write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": base.SPECIAL[2],
            "chat_template": base.CHAT_TEMPLATE,
            "model_max_length": shape.positions,
        },
    )
    base.write_json(folder / "generation_config.json", {"eos_token_id": [first_special + 2]})
    base.write_json(complete, config(shape))
    return folder
