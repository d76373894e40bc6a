"""Trains byte-level BPE vocabularies of 32,000 and 128,000 tokens on text that any machine with the toolchain has: the
repository, Python's library, the sources of the crates, and the benchmark's schemas and instances. Kept in out/vocabularies."""

import gzip
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT.parent / "shared/data/maskbench-sample.jsonl.gz"
OUT = ROOT / "out/vocabularies"
SIZES = (32_000, 128_000)
MAX_FILE_BYTES = 400_000
MAX_TOTAL_BYTES = 100_000_000
# Local text has digits and alphabets written thousands of times in a row.
MAX_TOKEN_LENGTH = 128
SUFFIXES = {".py", ".rs", ".md", ".json", ".toml", ".yaml", ".txt"}


def folders() -> Iterator[Path]:
    for name in ("docs", "grammar", "engine", "router", "integration-tests", "tools"):
        yield ROOT / name
    yield Path(sysconfig.get_paths()["stdlib"])
    yield Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "registry/src"


def texts() -> Iterator[str]:
    if SAMPLE.exists():
        yield from gzip.decompress(SAMPLE.read_bytes()).decode().splitlines()
    total = 0
    for folder in folders():
        for path in sorted(folder.rglob("*")):
            if path.suffix not in SUFFIXES or not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
                continue
            text = path.read_text(errors="ignore")
            total += len(text)
            if total > MAX_TOTAL_BYTES:
                return
            yield text


def train(size: int) -> Path:
    path = OUT / f"bpe-{size}.json"
    if path.exists():
        return path
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_LENGTH,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    OUT.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    tokenizer.save(str(partial))
    partial.rename(path)
    return path


if __name__ == "__main__":
    for size in SIZES:
        print(train(size), file=sys.stderr)
