#!/usr/bin/env bash
# What constrained requests cost the free streams beside them. Result: docs/evidence/constrained-load.md
# Takes some minutes on a machine that does nothing else; arguments go to prove_load.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
table=$(mktemp)
trap 'rm -f "$table"' EXIT
status=0
.venv/test/bin/python integration-tests/constrained/prove_load.py "$@" | tee "$table" || status=$?
mkdir -p docs/evidence
{
    tools/prove/header.sh "Free streams beside constrained ones"
    echo "\`make prove-constrained-load\`."
    echo
    cat "$table"
} >docs/evidence/constrained-load.md
exit $status
