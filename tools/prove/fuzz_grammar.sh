#!/usr/bin/env bash
# Schemas, regular expressions and Lark grammars under libFuzzer. Result: docs/evidence/fuzz-grammar.md
#   tools/prove/fuzz_grammar.sh [SECONDS]   of wall time for all three side by side; more calls add to the corpus
set -euo pipefail
exec "$(dirname "$0")/fuzz.sh" grammar "Grammars under libFuzzer" "" "${1:-900}" schema regex lark <<'TEXT'
`make prove-fuzz-grammar`: each input is compiled by both backends (Lark by one) and followed for some tokens;
a panic, a compilation or a mask of more than 10 seconds, 2 GiB of memory, or a step back that leads elsewhere is a
finding. Guided by coverage, with checks for overflow, from `fuzz/corpus`; all runs so far.
TEXT
