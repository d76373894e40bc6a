#!/usr/bin/env bash
# LoRA adapters: parity with PEFT, batches of many adapters, and their cost. Result: docs/evidence/lora.md
# Takes some minutes on a machine that does nothing else; arguments go to tools/bench/lora.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo test --release -p weirgate-engine --test adapters -- --nocapture 2>&1 | tee "$work/tests"
status=0
.venv/prove/bin/python tools/bench/lora.py "$@" >"$work/table" || status=$?
mkdir -p docs/evidence
{
    tools/prove/header.sh "LoRA adapters"
    echo "\`make prove-lora\`. The goal is 70 % of the base model's throughput at the same load."
    echo
    cat "$work/table"
    echo
    echo 'Lines printed by `cargo test --release -p weirgate-engine --test adapters -- --nocapture`; the goldens are those of'
    echo 'peft 0.21.2 (`tools/parity/make_adapters.py`):'
    echo
    echo '```text'
    grep -E '^(proof: |test |test result: )' "$work/tests"
    echo '```'
} >docs/evidence/lora.md
exit $status
