#!/usr/bin/env bash
# GGUF files under libFuzzer. Result: docs/evidence/fuzz-gguf.md
#   tools/prove/fuzz_gguf.sh [SECONDS]   more calls add to the corpus
set -euo pipefail
exec "$(dirname "$0")/fuzz.sh" gguf "GGUF files under libFuzzer" models "${1:-3600}" gguf <<'TEXT'
`make prove-fuzz-gguf`: each input is read as a GGUF file: header, metadata, tensors, tokenizer, the model's description;
every tensor that is found is read whole. A panic, an overflow, 20 seconds or 2 GiB of memory is a finding. Guided by
coverage, with checks for overflow, from `fuzz/corpus`; all runs so far.
TEXT
