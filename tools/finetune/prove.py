"""Fine-tuning against PEFT, transformers and the server: the tables of docs/evidence/finetune.md on standard output;
exits 1 where a goal is missed.

    .venv/prove/bin/python tools/finetune/prove.py [parity] [memory] [answers] [resuming]
"""

import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peft
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "integration-tests"))

from harness import finetuning  # noqa: E402
from harness.client import Client  # noqa: E402
from harness.gguf_files import quantize, write_widened  # noqa: E402
from harness.server import DEMO_MODEL, Server  # noqa: E402

STEPS = 20
LOSS_GOAL, LOGIT_GOAL = 0.01, 1e-3
# Tokens after a prompt, and the likeliest at each, whose log-probabilities are compared.
STEPS_ON, TOP = 8, 100
RIGHT_GOAL, BASE_GOAL = 0.95, 0.05
PAIRS = 200
# Found by trying: 200 pairs by heart in minutes on one core.
BY_HEART = {
    "rank": 16,
    "alpha": 32,
    "target_modules": "all-linear",
    "dropout": 0,
    "learning_rate": 5e-3,
    "batch_size": 16,
    "epochs": 30,
}
PARITY = {
    "max_steps": STEPS,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "dropout": 0,
    "learning_rate": 1e-3,
    "save_steps": STEPS,
}
TINY = {
    "llama": transformers.LlamaConfig(
        vocab_size=4096, hidden_size=96, intermediate_size=160, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=False, max_position_embeddings=512, eos_token_id=1,
    ),
    "qwen2": transformers.Qwen2Config(
        vocab_size=4096, hidden_size=64, intermediate_size=200, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=1, tie_word_embeddings=True, max_position_embeddings=512, eos_token_id=1,
    ),
    "qwen3": transformers.Qwen3Config(
        vocab_size=4096, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=512, eos_token_id=1,
    ),
    # Windows that are shorter than the conversations.
    "mistral": transformers.MistralConfig(
        vocab_size=4096, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, sliding_window=16, max_position_embeddings=512, eos_token_id=1,
    ),
    "gemma3": transformers.Gemma3TextConfig(
        vocab_size=4096, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=1, head_dim=24, query_pre_attn_scalar=24, sliding_window=16, max_position_embeddings=512,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"], eos_token_id=1,
    ),
    "phi3": transformers.Phi3Config(
        vocab_size=4096, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, eos_token_id=1,
    ),
}
# Of some 100 million parameters: its weights are most of what the worker holds.
LARGE = transformers.LlamaConfig(
    vocab_size=4096, hidden_size=768, intermediate_size=2048, num_hidden_layers=13, num_attention_heads=12,
    max_position_embeddings=512, eos_token_id=1,
)
# Of the memory in f32, what `quantized` may take.
MEMORY_GOAL = 0.5
failed = []


def goal(met: bool, what: str) -> str:
    if not met:
        failed.append(what)
    return "yes" if met else "**no**"


def random_model(config, folder: Path) -> Path:
    """With the demo model's tokenizer and chat template."""
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / file, folder)
    return folder


def load(folder: Path):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def batches(job: Path) -> list:
    command = [finetuning.WORKER, "--job", job, "--show-batches"]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in shown.splitlines()]


def check_tokens(steps: list, dataset: Path):
    """The same conversations by transformers: tokens and which of them are the reply's."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO_MODEL)
    expected = set()
    for line in dataset.read_text().splitlines():
        messages = json.loads(line)["messages"]
        ids = tokenizer.apply_chat_template(messages, return_dict=False)
        prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
        end = len(prompt) + ids[len(prompt) :].index(tokenizer.eos_token_id) + 1
        expected.add((tuple(ids), tuple(len(prompt) <= at < end for at in range(len(ids)))))
    for example in (example for step in steps for batch in step for example in batch):
        assert (tuple(example["tokens"]), tuple(example["learned"])) in expected, example


def by_peft(base: Path, initial: Path, steps: list, settings: dict) -> list[float]:
    """Losses of the same steps from the same adapter."""
    model = peft.PeftModel.from_pretrained(load(base), initial, is_trainable=True).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings["learning_rate"], weight_decay=0.0)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, min(50, STEPS // 10), STEPS)
    losses = []
    for step in steps:
        learned, total = sum(sum(example["learned"]) for batch in step for example in batch), 0.0
        for example in (example for batch in step for example in batch):
            ids = torch.tensor([example["tokens"]])
            labels = torch.where(torch.tensor([example["learned"]]), ids, -100)
            logits = model(ids).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum") / learned
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def base_of(name: str, more: dict, work: Path) -> tuple[str, Path]:
    """What is trained on, and the same weights as a folder that transformers reads."""
    if name in TINY:
        return str(work / name), random_model(TINY[name], work / name)
    kind = "Q4_K_M" if "quantized" in more else name.removesuffix(".gguf")
    if name == "weirgate-demo" and "quantized" not in more:
        return name, DEMO_MODEL
    file = work / f"{kind}.gguf"
    quantize(file, kind)
    wide = write_widened(file, work / f"{kind}-wide")
    return (name if "quantized" in more else str(file)), wide


def parity(work: Path):
    """20 steps with the same data, order, initial adapter and hyper-parameters."""
    print("## Losses of 20 steps against peft and transformers\n")
    print("Four conversations a batch (or two packs), two batches a step, dropout 0; `worst` is the largest difference,")
    print("relative. The tokens and the learned ones among them were compared with `apply_chat_template`, too. What PEFT")
    print("trains on beside a GGUF file is its weights in f32, as the `gguf` package reads them; beside `quantized`, those")
    print("of the same file as `weirgate quantize` writes it.\n")
    print("| base | adapter | packing | first loss | last loss | worst | within 1 % |\n|---|---|---|---|---|---|---|")
    dataset = finetuning.write_dataset(work / "parity.jsonl", finetuning.pairs(48, seed=3))
    trained = {}
    for name, more in (
        ("weirgate-demo", {}),
        (
            "weirgate-demo",
            {"packing": True, "max_length": 80, "target_modules": "all-linear", "rslora": True, "batch_size": 2},
        ),
        ("llama", {"target_modules": "all-linear"}),
        ("qwen2", {}),
        ("qwen3", {"target_modules": ["q_proj", "down_proj"], "rslora": True}),
        ("mistral", {}),
        ("gemma3", {"target_modules": "all-linear"}),
        ("phi3", {"target_modules": "all-linear"}),
        ("F16.gguf", {}),
        ("Q8_0.gguf", {"target_modules": "all-linear"}),
        ("weirgate-demo", {"quantized": True, "target_modules": "all-linear"}),
    ):
        own, base = base_of(name, more, work)
        folder = work / f"{name}-{len(trained)}"
        job = finetuning.write_job(folder, dataset, base=own, **(PARITY | more))
        ours = list(finetuning.losses(finetuning.train(job, 600)).values())
        steps = batches(job)
        check_tokens(steps, dataset)
        theirs = by_peft(base, folder / "checkpoints/step-00000000", steps, PARITY)
        worst = max(abs(own / other - 1) for own, other in zip(ours, theirs, strict=True))
        met = goal(worst <= LOSS_GOAL and len(theirs) == STEPS, f"losses of {name}")
        shown = {key: value for key, value in more.items() if key not in ("packing", "max_length", "batch_size")}
        about = ", ".join(f"{key} {value}" for key, value in shown.items()) or "defaults"
        packing = "yes" if "packing" in more else "no"
        print(f"| {name} | {about} | {packing} | {theirs[0]:.4f} | {theirs[-1]:.4f} | {worst:.1e} | {met} |")
        trained[folder] = base
    return trained


@torch.inference_mode()
def logits(trained: dict[Path, Path], work: Path):
    print("\n## The trained adapters in peft and in the server\n")
    print("Log-probabilities by the server with the adapter, and by PEFT with the same folder, both in f32: of a prompt's")
    print(f"tokens, and of the {TOP} likeliest tokens at each place after it.\n")
    print("| adapter | of the prompt | largest difference | after it | largest difference | within 1e-3 |", end="")
    print(" adapter moves them by |\n|---|---|---|---|---|---|---|")
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO_MODEL)
    text = "<|start|>user\n" + finetuning.pairs(2, seed=3)[0][0] + "<|end|>\n<|start|>assistant\nIt is red with a fox."
    ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
    for folder, base in trained.items():
        # The server keeps the keys and values of an f32 model in f32.
        wide = work / f"{folder.name}-f32"
        model = load(base)
        model.save_pretrained(wide)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(DEMO_MODEL / file, wide)

        def scores(model):
            found = torch.log_softmax(model(ids).logits[0, :-1].double(), -1)
            return found.gather(1, ids[0, 1:, None])[:, 0].tolist()

        plain = scores(model)
        adapted = peft.PeftModel.from_pretrained(model, folder / "adapter").eval()
        expected = scores(adapted)
        env = {"LORA_ADAPTERS": f"own={folder / 'adapter'}", "MAX_TOP_N_TOKENS": str(TOP), "ENABLE_PREFILL_LOGPROBS": "1"}
        server = Server(folder / "log", "--model-id", str(wide), env=env)
        server.start()
        parameters = {
            "max_new_tokens": STEPS_ON,
            "top_n_tokens": TOP,
            "details": True,
            "decoder_input_details": True,
            "adapter_id": "own",
        }
        answer = Client(server.port).post_ok("/generate", {"inputs": text, "parameters": parameters})
        server.stop()
        details = answer["details"]
        got = [token["logprob"] for token in details["prefill"]][1:]
        assert [token["id"] for token in details["prefill"]] == ids[0].tolist()
        worst = max(abs(own - other) for own, other in zip(got, expected, strict=True))
        moved = max(abs(own - other) for own, other in zip(plain, expected, strict=True))
        # The same continuation, whole.
        said = [token["id"] for token in details["tokens"]]
        whole = torch.cat([ids, torch.tensor([said[:-1]], dtype=ids.dtype)], 1)
        after = torch.log_softmax(adapted(whole).logits[0, ids.shape[1] - 1 :].double(), -1)
        tops = details["top_tokens"]
        assert len(tops) == len(after) == len(said) and all(len(top) >= TOP for top in tops)
        pairs = [(token["logprob"], float(row[token["id"]])) for row, top in zip(after, tops) for token in top]
        likeliest = [{token["id"] for token in top} >= {int(row.argmax())} for row, top in zip(after, tops)]
        assert all(likeliest), "the likeliest token is another"
        worst_after = max(abs(own - other) for own, other in pairs)
        met = goal(max(worst, worst_after) <= LOGIT_GOAL, f"logits of {folder.name}")
        print(f"| {folder.name} | {len(got)} | {worst:.1e} | {len(pairs)} | {worst_after:.1e} | {met} | {moved:.2f} |")


def memory(work: Path):
    print("\n## Memory\n")
    print("A random Llama, one conversation a batch, activations computed again; the peak is the worker's `VmHWM`.\n")
    base = random_model(LARGE, work / "large")
    parameters = sum(tensor.numel() for tensor in load(base).parameters())
    dataset = finetuning.write_dataset(work / "memory.jsonl", finetuning.pairs(4, seed=4))
    settings = {"max_steps": 2, "batch_size": 1, "gradient_checkpointing": True, "dropout": 0}
    print("| base weights | parameters | peak | first loss |\n|---|---|---|---|")
    peaks = {}
    for name, quantized in (("f32", False), ("quantized", True)):
        job = finetuning.write_job(work / f"memory-{name}", dataset, base=str(base), quantized=quantized, **settings)
        process, lines, peaks[name] = finetuning.start(job), [], 0
        for line in process.stdout:
            lines.append(line)
            peaks[name] = max(peaks[name], peak(process.pid))
        assert process.wait() == 0, process.stderr.read()
        loss = finetuning.losses(finetuning.events("".join(lines)))[1]
        print(f"| {name} | {parameters / 1e6:.0f} M | {peaks[name] / 1e6:.0f} MB | {loss:.4f} |")
    share = peaks["quantized"] / peaks["f32"]
    met = goal(share <= MEMORY_GOAL, "memory of a quantized base")
    print(f"\nQuantized takes {share:.2f} of f32; at most {MEMORY_GOAL}: {met}.")


def peak(process: int) -> int:
    """The most bytes that a process had in memory; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def by_heart(work: Path):
    print(f"\n## {PAIRS} invented questions and answers\n")
    taught = finetuning.pairs(PAIRS)
    dataset = finetuning.write_dataset(work / "lands.jsonl", taught)
    job = finetuning.write_job(work / "lands", dataset, **BY_HEART)
    begun = time.monotonic()
    reported = finetuning.train(job, 3600)
    seconds = time.monotonic() - begun
    curve = finetuning.losses(reported)
    speed = next(event["tokens_per_s"] for event in reversed(reported) if event["event"] == "progress")
    server = Server(work / "log", env={"LORA_ADAPTERS": f"lands={work / 'lands/adapter'}"})
    server.start()
    client, questions = Client(server.port), [question for question, _ in taught]
    own = finetuning.right(finetuning.answers(client, questions, "lands"), taught)
    base = finetuning.right(finetuning.answers(client, questions), taught)
    server.stop()
    print("Trained on the demo model, served with it, asked over `/v1/chat/completions`; an answer counts if every")
    print("character is right.\n")
    print("| | exactly right | goal | met |\n|---|---|---|---|")
    met = goal(own >= RIGHT_GOAL * PAIRS, "answers of the adapter")
    print(f"| adapter | {own} of {PAIRS} | at least 95 % | {met} |")
    print(f"| base | {base} of {PAIRS} | at most 5 % | {goal(base <= BASE_GOAL * PAIRS, 'answers of the base')} |")
    print(f"\n{len(curve)} steps in {seconds:.0f} s ({speed:.0f} tokens a second); ", end="")
    print(f"loss {curve[1]:.3f} → {min(curve.values()):.4f}.")
    print(f"Hyper-parameters: `{json.dumps(BY_HEART)}`.")


def interrupted(work: Path):
    print("\n## Interrupted and resumed\n")
    dataset = finetuning.write_dataset(work / "resume.jsonl", finetuning.pairs(32, seed=9))
    settings = {"max_steps": 40, "batch_size": 4, "dropout": 0.1, "learning_rate": 1e-3, "save_steps": 5}
    whole = finetuning.losses(finetuning.train(finetuning.write_job(work / "whole", dataset, **settings), 600))
    print("| signal | after step | resumed after | largest difference of a loss |\n|---|---|---|---|")
    for how, at in ((signal.SIGTERM, 13), (signal.SIGKILL, 22), (signal.SIGTERM, 31)):
        folder = work / f"cut-{at}"
        process = finetuning.start(finetuning.write_job(folder, dataset, **settings))
        seen = []
        for line in process.stdout:
            seen.append(json.loads(line))
            if seen[-1]["event"] == "progress" and seen[-1]["step"] == at:
                process.send_signal(how)
                break
        seen += finetuning.events(process.stdout.read())
        process.wait()
        after = finetuning.losses(finetuning.train(finetuning.write_job(folder, dataset, resume=True, **settings), 600))
        together = finetuning.losses(seen) | after
        worst = max(abs(together[step] - loss) for step, loss in whole.items())
        goal(worst == 0 and len(together) == len(whole) and not math.isnan(worst), f"resumed after {how.name}")
        print(f"| {how.name} | {at} | {min(after) - 1} | {worst:.1e} |")


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(1)
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or ["parity", "memory", "answers", "resuming"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if "parity" in wanted:
            logits(parity(work), work)
        if "memory" in wanted:
            memory(work)
        if "answers" in wanted:
            by_heart(work)
        if "resuming" in wanted:
            interrupted(work)
    if failed:
        print(f"\nMissed: {', '.join(failed)}.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
