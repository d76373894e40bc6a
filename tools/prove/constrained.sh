#!/usr/bin/env bash
# 2,000 generations under grammars and 2,000 tool calls from random weights, and how fast constrained output is. Result: docs/evidence/constrained.md
set -euo pipefail
cd "$(dirname "$0")/../.."
table=$(mktemp)
trap 'rm -f "$table"' EXIT
.venv/test/bin/python integration-tests/constrained/prove.py | tee "$table"
{
    echo
    echo "## Speed"
    echo
    .venv/test/bin/python integration-tests/constrained/prove_speed.py
} | tee -a "$table"
mkdir -p docs/evidence
{
    tools/prove/header.sh "Constrained generation"
    echo "\`make prove-constrained\`."
    echo
    cat "$table"
} >docs/evidence/constrained.md
