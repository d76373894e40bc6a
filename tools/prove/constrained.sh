#!/usr/bin/env bash
# 2,000 generations under grammars and 2,000 tool calls from random weights, and how fast constrained output is. Result: docs/evidence/constrained.md
set -euo pipefail
cd "$(dirname "$0")/../.."
table=$(mktemp)
trap 'rm -f "$table"' EXIT
status=0
.venv/prove/bin/python tools/bench/make_random_model.py
.venv/test/bin/python integration-tests/constrained/prove.py | tee "$table" || status=$?
{
    echo
    echo "## Speed"
    echo
    echo "Two models: the one that \`make prove-constrained-load\` uses, of Qwen2.5-0.5B's shape, and the demo model, of which a"
    echo "step takes less time than a mask."
    echo
    .venv/test/bin/python integration-tests/constrained/prove_speed.py --runs 5 --model-id out/random-qwen2-0.5b
    echo
    .venv/test/bin/python integration-tests/constrained/prove_speed.py
} | tee -a "$table" || status=$?
mkdir -p docs/evidence
{
    tools/prove/header.sh "Constrained generation"
    echo "\`make prove-constrained\`."
    echo
    cat "$table"
} >docs/evidence/constrained.md
exit $status
