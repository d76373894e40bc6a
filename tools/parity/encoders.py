"""Tiny random encoders, and models that only texts are given to: their configurations, and weights from the portable generator.
`testkit/src/encoder.rs` makes the same encoders in Rust from what `make_encoder_goldens.py` writes."""

import json
from pathlib import Path

import numpy as np

import generator

FOLDER = generator.CHECKPOINTS / "encoders"
# By `make_tokenizers.py`.
TOKENIZER, UNIGRAM, BYTE_LEVEL = FOLDER / "tokenizer.json", FOLDER / "unigram.json", FOLDER / "byte-level.json"
ROBERTA_BYTES = FOLDER / "roberta-bytes.json"
SEED = 2000
SIZES = {"vocab_size": 160, "max_position_embeddings": 64}
SMALL = {**SIZES, "hidden_size": 36, "intermediate_size": 50, "num_attention_heads": 3, "num_hidden_layers": 2}
ROBERTA = {**SMALL, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
MODERN = {**SMALL, "num_hidden_layers": 4, "local_attention": 8, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
          "cls_token_id": 2, "sep_token_id": 3}
DISTIL = {**SIZES, "dim": 36, "hidden_dim": 50, "n_heads": 3, "n_layers": 2}
ONE_LABEL = {"num_labels": 1}
DECODER = {"vocab_size": 288, "max_position_embeddings": 64, "hidden_size": 36, "intermediate_size": 50,
           "num_attention_heads": 3, "num_key_value_heads": 1, "num_hidden_layers": 2}

# Name -> (transformers' class, configuration).
ENCODERS = {
    "bert": ("BertModel", SMALL),
    "bert-relu": ("BertModel", {**SMALL, "hidden_act": "relu", "layer_norm_eps": 1e-5}),
    "bert-lm": ("BertForMaskedLM", SMALL),
    "bert-ranker": ("BertForSequenceClassification", {**SMALL, **ONE_LABEL}),
    "roberta": ("RobertaModel", ROBERTA),
    "xlm-roberta": ("XLMRobertaModel", {**ROBERTA, "layer_norm_eps": 1e-5}),
    "xlm-roberta-ranker": ("XLMRobertaForSequenceClassification", {**ROBERTA, **ONE_LABEL}),
    "distilbert": ("DistilBertModel", DISTIL),
    "distilbert-ranker": ("DistilBertForSequenceClassification", {**DISTIL, **ONE_LABEL}),
    "mpnet": ("MPNetModel", {**SMALL, "relative_attention_num_buckets": 32}),
    "mpnet-ranker": ("MPNetForSequenceClassification", {**SMALL, **ONE_LABEL}),
    "modernbert": ("ModernBertModel", MODERN),
    "modernbert-ranker": ("ModernBertForSequenceClassification", {**MODERN, **ONE_LABEL, "classifier_pooling": "mean"}),
    "nomic": ("NomicBertModel", {**SMALL, "pad_token_id": 0}),
}
# Those of bytes need more tokens than the others have; without goldens of states.
OF_TEXTS = {
    "qwen2-embedder": ("Qwen2Model", DECODER),
    "roberta-bytes": ("RobertaModel", {**ROBERTA, "vocab_size": 288}),
    "roberta-bytes-ranker": ("RobertaForSequenceClassification", {**ROBERTA, "vocab_size": 288, **ONE_LABEL}),
}

BERTS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
ROBERTAS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
            "cls_token": "<s>", "mask_token": "<mask>"}
UNTYPED = ["input_ids", "attention_mask"]
# Name -> (tokenizer, special tokens, inputs); of the others, BERT's.
TEXTS = {
    "xlm-roberta": (UNIGRAM, ROBERTAS, UNTYPED),
    "xlm-roberta-ranker": (UNIGRAM, ROBERTAS, UNTYPED),
    "roberta-bytes": (ROBERTA_BYTES, ROBERTAS, UNTYPED),
    "roberta-bytes-ranker": (ROBERTA_BYTES, ROBERTAS, UNTYPED),
    "distilbert": (TOKENIZER, BERTS, UNTYPED),
    "qwen2-embedder": (BYTE_LEVEL, {"eos_token": "<|end|>", "pad_token": "<|pad|>"}, UNTYPED),
}


def center_and_scale(name, shape):
    """Of the distribution of a tensor's values."""
    if len(shape) == 1:
        return (1.0 if name.endswith("weight") else 0.0), 0.3
    if "embeddings" in name:
        return 0.0, 0.5
    if "relative_attention_bias" in name:
        return 0.0, 1.0
    return 0.0, 1.6 * (3.0 / shape[1]) ** 0.5


def tensors(seed, shapes):
    """The f32 tensors of a checkpoint with these shapes."""
    made = {}
    for name, shape in shapes.items():
        center, scale = center_and_scale(name, shape)
        values = generator.uniform(seed, name, int(np.prod(shape)))
        made[name] = (np.float32(center) + np.float32(scale) * values).reshape(shape)
    return made


def definition(name):
    """Seed and shapes of a checkpoint, as they lie beside its configuration."""
    return json.loads((FOLDER / name / "tensors.json").read_text())


def safetensors_bytes(made):
    """A safetensors file of f32 tensors."""
    header, data = {}, b""
    for name, values in sorted(made.items()):
        raw = values.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def write(name, folder: Path):
    """A checkpoint's configuration and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    known = definition(name)
    (folder / "config.json").write_bytes((FOLDER / name / "config.json").read_bytes())
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors(known["seed"], known["shapes"])))


def write_sentence_model(name, folder: Path, pooling="mean", default_prompt=None, **prompts):
    """The same with the tokenizer, and the files that sentence-transformers reads. `default_prompt`: a name of `prompts`."""
    write(name, folder)
    tokenizer, special, inputs = TEXTS.get(
        name, (TOKENIZER, BERTS, ["input_ids", "token_type_ids", "attention_mask"])
    )
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    settings = {**special, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64,
                "model_input_names": inputs}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if pooling is None:
        return
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens",
             "last": "pooling_mode_lasttoken"}
    flags = {flag: mode == pooling for mode, flag in modes.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 36, **flags}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40, "do_lower_case": False}))
    if prompts:
        known = {"prompts": prompts, "default_prompt_name": default_prompt}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(known))
