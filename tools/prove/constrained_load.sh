#!/usr/bin/env bash
# What constrained requests cost the free streams beside them. Result: docs/evidence/constrained-load.md
# Takes some minutes on a machine that does nothing else; arguments go to prove_load.py. The model has the shape of
# Qwen2.5-0.5B, 152k tokens included: the demo model is faster than any client on the same processors.
set -euo pipefail
cd "$(dirname "$0")/../.."
table=$(mktemp)
trap 'rm -f "$table"' EXIT
status=0
.venv/prove/bin/python tools/bench/make_random_model.py
.venv/test/bin/python integration-tests/constrained/prove_load.py --model-id out/random-qwen2-0.5b "$@" | tee "$table" || status=$?
mkdir -p docs/evidence
{
    tools/prove/header.sh "Free streams beside constrained ones"
    echo "\`make prove-constrained-load\`."
    echo
    cat "$table"
} >docs/evidence/constrained-load.md
exit $status
