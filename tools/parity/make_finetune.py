"""Writes the fine-tuning goldens: losses and gradient norms of 20 LoRA steps by PEFT, transformers and torch's AdamW,
on tiny checkpoints of the testkit.

    make_finetune.py FILE

Adapters begin at generated values; examples are generated tokens, of which the second half is learned. An example is
computed alone, a step's loss is the mean over all its learned tokens, dropout is 0.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

import generator
import make_goldens

STEPS = 20
# Each step has two batches of two examples; the longest pass the tiny checkpoints' windows.
ACCUMULATION, BATCH = 2, 2
LENGTHS = [9, 70, 24, 57]
SETTINGS = {
    "rank": 6,
    "alpha": 9.0,
    "rslora": False,
    "learning_rate": 3e-3,
    "warmup_steps": 3,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "target_modules": ["all-linear"],
}
CHECKPOINTS = {
    "llama": {},
    "llama-llama3": {"target_modules": ["q_proj", "v_proj"]},
    "mistral": {"max_grad_norm": 0.0},
    "qwen2-bf16": {"rslora": True},
    "qwen3": {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6, "weight_decay": 0.5},
    "gemma2": {},
    "gemma3": {},
    "phi3": {},
    "phi4-mini": {"target_modules": ["qkv_proj", "o_proj"]},
}


def adapted(base, name, seed, settings):
    targets = settings["target_modules"]
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        use_rslora=settings["rslora"],
        lora_dropout=0.0,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
    )
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_A" in key:
                plain = key.replace(".default", "")
                values = generator.uniform(seed, f"{name}/{plain}", parameter.numel())
                values = values * np.float32(1.0 / parameter.shape[1] ** 0.5)
                parameter.copy_(torch.from_numpy(values).reshape(parameter.shape))
    return model.train()


def example(seed, vocab, step, index):
    number = step * ACCUMULATION * BATCH + index
    return generator.prompt(seed, 3000 + number, LENGTHS[index % len(LENGTHS)], vocab)


def train(name, definition, settings):
    seed = definition["seed"]
    with tempfile.TemporaryDirectory() as folder:
        make_goldens.write_checkpoint(definition, Path(folder))
        base = make_goldens.load(folder)
        vocab = base.config.vocab_size
        model = adapted(base, name, seed, settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained,
        lr=settings["learning_rate"],
        betas=(settings["adam_beta1"], settings["adam_beta2"]),
        eps=settings["adam_epsilon"],
        weight_decay=settings["weight_decay"],
    )
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, settings["warmup_steps"], STEPS)
    losses, norms = [], []
    for step in range(STEPS):
        examples = [example(seed, vocab, step, index) for index in range(ACCUMULATION * BATCH)]
        learned = sum(len(tokens) - len(tokens) // 2 for tokens in examples)
        total = 0.0
        for tokens in examples:
            ids = torch.tensor([tokens])
            labels = ids.clone()
            labels[:, : len(tokens) // 2] = -100
            logits = model(ids).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum") / learned
            loss.backward()
            total += float(loss.detach())
        most = settings["max_grad_norm"] or float("inf")
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, most)))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
    print(f"{name:12} {losses[0]:.4f} -> {losses[-1]:.4f}, gradients {norms[0]:.3f} -> {norms[-1]:.3f}")
    return {"losses": losses, "norms": norms}


def make_all(file):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    table = generator.definitions()
    goldens = {}
    for name, own in CHECKPOINTS.items():
        settings = SETTINGS | own
        goldens[name] = {"settings": settings, **train(name, table[name], settings)}
    file.write_text(json.dumps({"lengths": LENGTHS, "batch": BATCH, "checkpoints": goldens}, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_all(Path(sys.argv[1]))
