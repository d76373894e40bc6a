"""Makes the demo model: tokenizer, training on generated text, and the Hugging Face folder that is embedded in the binary.

    pip install -r requirements.txt
    python train.py                    # about 40 minutes on 2 CPU cores; goes on where it was stopped
    python evaluate.py                 # checks the result and writes the figures into the model card

The text is a function of the seed and the step, so nothing is stored but a checkpoint (`--work`).
"""

import argparse
import ctypes
import itertools
import json
import os
import random
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # do not spin while other programs want the cores

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import corpus

ROOT = Path(__file__).resolve().parents[2]
SEED = 20261121
VOCAB = 4096
STEPS = 1950
TOKENS_PER_STEP = 4096
CONTEXT = 2048
LONG_EVERY = 20  # one step in so many trains on conversations that fill the context
RECITE = 0.12  # share of the documents that are passages to repeat
DRILL_UNTIL, DRILL, DRILL_LATER = 100, 0.5, 0.1  # share of the tokens of a step that are copying drills, up to a step and later
LOOSE_FROM, PATTERNS_FROM = 550, 1000  # the steps from which questions come in more wordings
TALES = [(1350, 0.6), (1800, 0.15)]  # from which step so large an additional share of the documents is stories
EXERCISES = 0.2  # share of the documents, from PATTERNS_FROM
RATES = [(0, 0.0), (30, 1.0), (130, 1.0), (390, 0.5), (690, 0.5), (1000, 0.0), (1015, 0.4), (1130, 0.4), (1350, 0.0), (1365, 0.4), (1550, 0.4), (1800, 0.0), (1815, 0.3), (1870, 0.3), (STEPS, 0.0)]  # step, share of the learning rate
MUON_RATE, ADAM_RATE = 7e-3, 2e-3
CONSTANT = 0.5  # dimension 0 of every embedding
TOKENIZER_DOCUMENTS = 60_000

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE; digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[corpus.PAD, corpus.END, corpus.START], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), min_frequency=2)  # fmt: skip
    source = itertools.islice(corpus.documents(SEED - 1), TOKENIZER_DOCUMENTS)
    tokenizer.train_from_iterator(("".join(t for t, _ in d).replace(corpus.START, "").replace(corpus.END, "\n") for d in source), trainer)
    if tokenizer.get_vocab_size() != VOCAB:
        raise SystemExit(f"the text yields {tokenizer.get_vocab_size()} tokens, not {VOCAB}")
    return tokenizer


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=768, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
        head_dim=64, max_position_embeddings=CONTEXT, rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=None, eos_token_id=1, use_cache=True)  # fmt: skip


# Token ids `[rows, len]` padded on the right, and `[rows, len]` which of them count.
Batch = tuple[torch.Tensor, torch.Tensor]


def encode(tokenizer: Tokenizer, document: corpus.Document) -> tuple[list[int], list[bool]]:
    """Ids of a document and which of them the model shall learn to write, at most a context full."""
    ids: list[int] = []
    learn: list[bool] = []
    # Pieces meet where the tokenizer splits anyway, so encoding them one by one changes nothing.
    for text, wanted in document:
        piece = tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        learn += [wanted] * len(piece)
    return ids[:CONTEXT], learn[:CONTEXT]


def drills(seed: int, tokens: int) -> list[tuple[list[int], list[bool]]]:
    """Random tokens and the same again, to keep `plant_copying` in use."""
    rng = random.Random(f"drill {seed}")
    drawn, total = [], 0
    while total < tokens:
        line = [rng.randrange(3, VOCAB) for _ in range(rng.randint(8, 40))]
        drawn.append((line * 2, [False] * (len(line) + 1) + [True] * (len(line) - 1)))
        total += 2 * len(line)
    return drawn


def batches(tokenizer: Tokenizer, step: int) -> list[Batch]:
    """The documents of one step, those of like length together."""
    seed, late = SEED * 1_000_000 + step, step >= PATTERNS_FROM
    wordings = 2 if late else 1 if step >= LOOSE_FROM else 0
    if step % LONG_EVERY == LONG_EVERY - 1:
        rng = random.Random(seed)
        source = (corpus.long_chat(rng, 60, wordings) for _ in itertools.count())
    else:
        tales = next((share for start, share in reversed(TALES) if step >= start), 0.0)
        source = corpus.documents(seed, RECITE, wordings, EXERCISES if late else 0.0, tales)
    drawn = drills(seed, int(TOKENS_PER_STEP * (DRILL if step < DRILL_UNTIL else DRILL_LATER)))
    total = sum(len(ids) for ids, _ in drawn)
    while total < TOKENS_PER_STEP:
        drawn.append(encode(tokenizer, next(source)))
        total += len(drawn[-1][0])
    drawn.sort(key=lambda pair: len(pair[0]))
    groups: list[list[tuple[list[int], list[bool]]]] = [[]]
    for pair in drawn:
        first = groups[-1][0] if groups[-1] else pair
        if len(pair[0]) > 1.3 * len(first[0]) + 16:
            groups.append([])
        groups[-1].append(pair)
    return [pad(group) for group in groups]


def pad(group: list[tuple[list[int], list[bool]]]) -> Batch:
    longest = max(len(ids) for ids, _ in group)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in group])
    learn = torch.tensor([learn + [False] * (longest - len(learn)) for _, learn in group])
    return ids, learn


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, learn: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy of the tokens to learn. Padding stands on the right, so the causal mask alone suffices."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden[learn[:, 1:]])
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][learn[:, 1:]], reduction="sum")


def rate(step: int) -> float:
    """Share of the full learning rate, linear between the points of `RATES`; the first step already learns a little."""
    if step < RATES[1][0]:
        return (step + 1) / RATES[1][0]
    for (start, high), (end, low) in itertools.pairwise(RATES):
        if step < end:
            return high + (low - high) * (step - start) / (end - start)
    return 0.0


@torch.no_grad()
def plant_copying(model: LlamaForCausalLM) -> None:
    """Start with a circuit that copies: "A B ... A" is followed by "B".

    Names, passages and the characters of a story need it, and found by chance it takes longer than the whole of this
    training. Two heads do it. The first layer's looks one token back (and its neighbour two) and writes down, in
    `carry`, what stood there; the second layer's compares that with the token at hand, in `match`, attends to where they agree and
    writes the token found there towards the output. All other blocks start by adding nothing.

    Looking back: rotary attention scores `sum_i |q_i||k_i| cos(theta_i (s - t) + k_i - q_i)` for a query at `t`, a key at `s`
    and phases `q_i`, `k_i`; with `k_i = theta_i` it is greatest at `s = t - 1` for `q_i = 0`, at `s = t - 2` for `q_i = -theta_i`. The
    input these are made of, the same for all tokens, is a constant in dimension 0.
    """
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    size, width = model.config.head_dim, model.config.hidden_size
    half = size // 2
    theta = 10000.0 ** (-torch.arange(half) / half)
    model.model.embed_tokens.weight.normal_(0.0, 0.04)
    model.model.embed_tokens.weight[:, 0] = CONSTANT
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    fast, strength = torch.arange(half // 2), 1.6
    for head, phase in ((0, 0.0 * theta), (1, -theta)):
        first.q_proj.weight[head * size + fast, 0] = strength * torch.cos(phase[fast])
        first.q_proj.weight[head * size + fast + half, 0] = strength * torch.sin(phase[fast])
    first.k_proj.weight[fast, 0] = strength * torch.cos(theta[fast])
    first.k_proj.weight[fast + half, 0] = strength * torch.sin(theta[fast])
    # Orthonormal directions that leave dimension 0 alone; matching uses the slowest rotations, which hardly see distance.
    directions = torch.cat([torch.zeros(width - 1, 1), torch.linalg.qr(torch.randn(width - 1, width - 1))[0]], 1)
    match, carry, copy = directions[:24], directions[24:48], directions[48 : 48 + size]
    slow = torch.cat([torch.arange(half - 12, half), torch.arange(size - 12, size)])
    first.v_proj.weight[:24] = match
    first.o_proj.weight[:, :24] = 0.2 * carry.T
    second.q_proj.weight[slow] = 3.0 * match
    second.k_proj.weight[slow] = 3.0 * carry
    second.v_proj.weight[:size] = copy
    second.o_proj.weight[:, :size] = copy.T


@torch.no_grad()
def center(embedding: torch.Tensor) -> None:
    """Take the mean out of the embedding. The softmax of the tied head does not see it, but it would drown what tells tokens apart."""
    embedding -= embedding.mean(0)
    embedding[:, 0] = CONSTANT


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embedding and norms."""
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    outer = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(inner, lr=MUON_RATE, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=ADAM_RATE, weight_decay=0.0, betas=(0.9, 0.95), fused=True),
    ]


def train(tokenizer: Tokenizer, steps: int, work: Path) -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(config())
    plant_copying(model)
    model.train()
    parts = optimizers(model)
    base = [group["lr"] for part in parts for group in part.param_groups]
    saved = work / "checkpoint.pt"
    first, spent = 0, 0.0
    if saved.exists():
        state = torch.load(saved, weights_only=False)
        model.load_state_dict(state["model"])
        for part, values in zip(parts, state["optimizers"]):
            part.load_state_dict(values)
        first, spent = state["step"], state["seconds"]
    started = time.monotonic() - spent
    for step in range(first, steps):
        for part_groups, lr in zip([g for part in parts for g in part.param_groups], base):
            part_groups["lr"] = lr * rate(step)
        parcels = batches(tokenizer, step)
        count = sum(learn[:, 1:].sum().item() for _, learn in parcels)
        loss = 0.0
        for ids, learn in parcels:
            part_loss = loss_of(model, ids, learn) / count
            part_loss.backward()
            loss += part_loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in parts:
            part.step()
            part.zero_grad()
        center(model.model.embed_tokens.weight)
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step} loss {loss:.4f} seconds {time.monotonic() - started:.0f}", flush=True)
        if (step + 1) % 50 == 0 or step == steps - 1:
            state = {"model": model.state_dict(), "optimizers": [p.state_dict() for p in parts], "step": step + 1,
                     "seconds": time.monotonic() - started}  # fmt: skip
            torch.save(state, saved.with_suffix(".new"))
            saved.with_suffix(".new").replace(saved)
    return model


def write(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """The Hugging Face folder."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {n: p.detach().to(torch.bfloat16).contiguous() for n, p in model.state_dict().items() if n != "lm_head.weight"}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    settings = config()
    heads = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": settings.hidden_size,
        "intermediate_size": settings.intermediate_size, "num_hidden_layers": settings.num_hidden_layers,
        "num_attention_heads": settings.num_attention_heads, "num_key_value_heads": settings.num_key_value_heads,
        "head_dim": settings.head_dim, "hidden_act": "silu", "max_position_embeddings": CONTEXT, "rms_norm_eps": settings.rms_norm_eps,
        "rope_theta": 10000.0, "rope_scaling": None, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
        "initializer_range": 0.02, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "bfloat16", "use_cache": True,
    }  # fmt: skip
    dump(out / "config.json", heads)
    dump(out / "generation_config.json", {"eos_token_id": 1, "pad_token_id": 0})
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    added = {str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
             for i, t in enumerate([corpus.PAD, corpus.END, corpus.START])}  # fmt: skip
    dump(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, "eos_token": corpus.END, "pad_token": corpus.PAD,
        "bos_token": None, "clean_up_tokenization_spaces": False, "added_tokens_decoder": added, "chat_template": CHAT_TEMPLATE})  # fmt: skip


def dump(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def keep_freed_memory() -> None:
    """Have glibc reuse large buffers rather than map and unmap them for every operation; nearly twice as fast here."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="stop earlier, for a try")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "demo-model", help="checkpoint folder")
    parser.add_argument("--out", type=Path, default=ROOT / "demo-model" / "files")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    args.work.mkdir(parents=True, exist_ok=True)
    kept = args.work / "tokenizer.json"
    if not kept.exists():
        train_tokenizer().save(str(kept))
    tokenizer = Tokenizer.from_file(str(kept))
    write(train(tokenizer, args.steps, args.work), tokenizer, args.out)


if __name__ == "__main__":
    main()
