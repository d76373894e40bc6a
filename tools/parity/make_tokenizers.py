"""Makes the tiny tokenizers of the encoders' tests, each with the pipeline of a kind of published models. Usage:
make_tokenizers.py"""

import io
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import encoders

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ["the", "cat", "sat", "on", "mat", "a", "of", "and", "model", "server", "##ing", "##ed", "##s", "question"]
# What SentencePiece learns its pieces from.
CORPUS = [
    "The cat sat on the mat, and the other cats are sitting on mats.",
    "A question of the model is a question of the server?",
    "Models of the server, and the server of models: questioning and serving!",
    "Here is fine text - there isn't any other.",
    "Pack my box with five dozen liquor jugs. The quick brown fox jumps over the lazy dog.",
    "In 1984 there were 365 days, and 27 of them were fine.",
] * 20
# Part of what SentencePiece's own rules say: characters that are others, and what a space is.
RULES = {"ﬁ": "fi", "ﬂ": "fl", "Ｔ": "T", "ｅ": "e", "\u3000": " ", "\u00a0": " ", "\t": " ", "\n": " ", "…": "...",
         "a\u0308": "ä"}
PROBES = [*CORPUS[:6], "", " leading  and trailing ", "ﬁne  Ｔext\u3000here…", "Ünïcode: 你好 and 🐈!", "cats\tsitting\non mats"]


def word_piece():
    """BERT's, over letters and a few words."""
    pieces = SPECIAL + list(LETTERS) + [f"##{letter}" for letter in LETTERS] + list("?!.,-'") + WORDS
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    assert len(vocab) <= encoders.SIZES["vocab_size"]
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def sentence_piece():
    """A Unigram model that SentencePiece trained, and its bytes."""
    written = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        code = lambda text: " ".join(f"{ord(letter):X}" for letter in text)  # noqa: E731
        rules.write_text("".join(f"{code(given)}\t{code(meant)}\n" for given, meant in RULES.items()))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS), model_writer=written, model_type="unigram", vocab_size=120,
            hard_vocab_limit=False, character_coverage=1.0, normalization_rule_tsv=str(rules), num_threads=1,
            minloglevel=2,
        )  # fmt: skip
    return written.getvalue()


def unigram(model: bytes):
    """XLM-R's: SentencePiece's pieces behind four tokens of its own."""
    known = sentencepiece_model_pb2.ModelProto.FromString(model)
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    # SentencePiece has three: <unk>, <s> and </s>.
    pieces += [(piece.piece, piece.score) for piece in known.pieces[3:]] + [("<mask>", 0.0)]
    assert len(pieces) <= encoders.SIZES["vocab_size"], len(pieces)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(known.normalizer_spec.precompiled_charsmap), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer


def check_unigram(tokenizer, model: bytes):
    """The ids are those of SentencePiece itself."""
    own = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in PROBES:
        expected = [3 if token == 0 else token + 1 for token in own.encode(text)]
        ids = tokenizer.encode(text).ids
        assert ids == [0, *expected, 2], (text, ids, expected)
    whole = tokenizer.encode("The cat sat on the mat.").ids
    assert 3 not in whole and len(whole) < len("The cat sat on the mat."), whole


MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "t"), ("o", "n"), ("Ġ", "a"), ("i", "n"), ("in", "g")]


def byte_pieces():
    """Bytes, and a few of them joined."""
    return [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]


def byte_level():
    """Qwen's: bytes, and a token at the end of each text."""
    pieces = byte_pieces()
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, MERGES))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|pad|>", "<|end|>"])
    end = tokenizer.token_to_id("<|end|>")
    assert end == len(pieces) + 1 < encoders.DECODER["vocab_size"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", pair="$A <|end|> $B <|end|>", special_tokens=[("<|end|>", end)]
    )
    return tokenizer


def roberta_bytes():
    """RoBERTa's: bytes behind four tokens of its own, two ends between the texts of a pair."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *byte_pieces(), "<mask>"]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    assert tokenizer.encode("a", "b").tokens == ["<s>", "a", "</s>", "</s>", "b", "</s>"]
    return tokenizer


def main():
    model = sentence_piece()
    joined = unigram(model)
    check_unigram(joined, model)
    for path, tokenizer in (
        (encoders.TOKENIZER, word_piece()),
        (encoders.UNIGRAM, joined),
        (encoders.BYTE_LEVEL, byte_level()),
        (encoders.ROBERTA_BYTES, roberta_bytes()),
    ):
        path.write_text(tokenizer.to_str() + "\n")


if __name__ == "__main__":
    main()
