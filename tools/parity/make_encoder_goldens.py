"""Goldens of the encoders: transformers' hidden states, pooled in every way, and scores; sentence-transformers' vectors and
scores of texts. Usage: make_encoder_goldens.py"""

import json
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer

import encoders
import generator
import make_tokenizers

ROOT = generator.CHECKPOINTS.parents[1]
GOLDENS = ROOT / "engine" / "tests" / "goldens" / "encoders.json"
TEXTS = ROOT / "integration-tests" / "embeddings" / "goldens.json"
# Lengths of the prompts; the last is as long as every model allows.
LENGTHS = [1, 2, 17, 41, 62]


def define(name, number):
    """Configuration, seed and shapes, as transformers saves them."""
    architecture, settings = (encoders.ENCODERS | encoders.OF_TEXTS)[name]
    cls = getattr(transformers, architecture)
    with tempfile.TemporaryDirectory() as folder:
        cls(cls.config_class(**settings)).save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text())
        shapes = {key: list(value.shape) for key, value in load_file(f"{folder}/model.safetensors").items()}
    target = encoders.FOLDER / name
    target.mkdir(parents=True, exist_ok=True)
    config.pop("transformers_version", None)
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    known = {"seed": encoders.SEED + number, "shapes": shapes}
    (target / "tensors.json").write_text(json.dumps(known, indent=1) + "\n")


def ids_of(seed, index, length):
    """Random ids without the padding tokens 0 and 1, which some models count positions by."""
    vocab = encoders.SIZES["vocab_size"]
    return [2 + token % (vocab - 2) for token in generator.prompt(seed, index, length, vocab)]


def rounded(values):
    return [float(f"{value:.7g}") for value in values.flatten().tolist()]


@torch.inference_mode()
def states(name):
    """Each prompt's vectors by pooling, or its score."""
    cls = getattr(transformers, encoders.ENCODERS[name][0])
    seed = encoders.definition(name)["seed"]
    with tempfile.TemporaryDirectory() as folder:
        encoders.write(name, Path(folder))
        model, info = cls.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
        )
    assert not info["missing_keys"] and not info["unexpected_keys"], (name, info)
    model.eval()
    ranks, goldens = name.endswith("ranker"), []
    for index, length in enumerate(LENGTHS):
        ids = torch.tensor([ids_of(seed, index, length)])
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        kinds = (torch.arange(length) >= length // 2).long()[None]
        if ranks and getattr(model.config, "type_vocab_size", 0) > 1:
            given["token_type_ids"] = kinds
        if ranks:
            goldens.append({"score": rounded(model(**given).logits[0])})
            continue
        if name == "bert-lm":
            hidden = model.bert(**given).last_hidden_state[0]
        else:
            hidden = model(**given).last_hidden_state[0]
        goldens.append({"mean": rounded(hidden.mean(0)), "cls": rounded(hidden[0]), "last": rounded(hidden[-1]),
                        "max": rounded(hidden.max(0).values)})
    return goldens


SENTENCES = [
    "The cat sat on the mat.",
    "a question",
    "",
    "Ünïcode: 你好 and 🐈!",
    "Models of the server, and the server of models. " * 6,
    "cats\tsitting\non mats",
    "x",
]
QUERY = "a question of the cat?"
# For the tokenizers that tell case, spaces and ligatures apart.
OTHERS = [*SENTENCES, "ﬁne  Ｔext\u3000here…", " leading  and trailing ", "The model's 27 questions?"]


def texts():
    """Vectors of texts by pooling and with a prompt, and scores of pairs."""
    made = {"sentences": SENTENCES, "query": QUERY}
    with tempfile.TemporaryDirectory() as folder:
        for pooling in ["mean", "cls", "max", "last"]:
            path = Path(folder) / pooling
            encoders.write_sentence_model("bert", path, pooling, query="a model of: ")
            model = SentenceTransformer(str(path), device="cpu")
            made[pooling] = [rounded(vector) for vector in model.encode(SENTENCES)]
            if pooling == "mean":
                made["prompted"] = [rounded(vector) for vector in model.encode(SENTENCES, prompt_name="query")]
        made["others"] = OTHERS
        poolings = {"xlm-roberta": "mean", "qwen2-embedder": "last", "roberta-bytes": "cls", "distilbert": "mean"}
        for name, pooling in poolings.items():
            path = Path(folder) / name
            encoders.write_sentence_model(name, path, pooling, query="a model of: ")
            model = SentenceTransformer(str(path), device="cpu")
            made[name] = {
                "ids": [model.tokenizer(text, truncation=True, max_length=40)["input_ids"] for text in OTHERS],
                "plain": [rounded(vector) for vector in model.encode(OTHERS)],
                "prompted": [rounded(vector) for vector in model.encode(OTHERS, prompt_name="query")],
            }
        pairs = [(QUERY, text) for text in SENTENCES]
        # RoBERTa's positions begin after the padding token's.
        for name, most in {"bert-ranker": 64, "xlm-roberta-ranker": 62, "roberta-bytes-ranker": 62}.items():
            path = Path(folder) / name
            encoders.write_sentence_model(name, path, None)
            ranker = CrossEncoder(str(path), device="cpu", max_length=most)
            raw = ranker.predict(pairs, activation_fn=torch.nn.Identity())
            made[name] = {"scores": rounded(ranker.predict(pairs)), "raw": rounded(raw)}
    return made


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator.self_check()
    make_tokenizers.main()
    for number, name in enumerate([*encoders.ENCODERS, *encoders.OF_TEXTS]):
        define(name, number)
    lines = [f"{json.dumps(name)}: {json.dumps(states(name))}" for name in encoders.ENCODERS]
    GOLDENS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    TEXTS.write_text(json.dumps(texts()) + "\n")


if __name__ == "__main__":
    main()
