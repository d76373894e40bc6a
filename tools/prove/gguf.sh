#!/usr/bin/env bash
# Logits of every GGUF type beside llama.cpp's. Result: docs/evidence/gguf-logits.md
set -euo pipefail
cd "$(dirname "$0")/../.."
table=$(mktemp)
trap 'rm -f "$table"' EXIT
status=0
.venv/peer/bin/python tools/parity/gguf_logits.py | tee "$table" || status=$?
mkdir -p docs/evidence
{
    tools/prove/header.sh "Logits of GGUF files"
    echo "\`make prove-gguf\`."
    echo
    cat "$table"
} >docs/evidence/gguf-logits.md
exit $status
