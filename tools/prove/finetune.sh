#!/usr/bin/env bash
# LoRA fine-tuning: parity with PEFT, answers learned by heart, resuming. Result: docs/evidence/finetune.md
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo test --release -p weirgate-finetune -- --nocapture 2>&1 | tee "$work/tests"
status=0
.venv/prove/bin/python tools/finetune/prove.py >"$work/tables" || status=$?
mkdir -p docs/evidence
{
    tools/prove/header.sh "LoRA fine-tuning"
    echo '`make prove-finetune`. Everything on the CPU, in f32.'
    echo
    cat "$work/tables"
    echo
    echo 'Lines printed by `cargo test --release -p weirgate-finetune -- --nocapture`; the goldens are those of peft and'
    echo 'transformers (`tools/parity/make_finetune.py`):'
    echo
    echo '```text'
    grep -E '^(proof: |test |test result: )' "$work/tests"
    echo '```'
} >docs/evidence/finetune.md
exit $status
