#!/usr/bin/env bash
# Several models on one server under load, and a server that is killed while it writes models. Result:
# docs/evidence/residency.md. Takes some ten minutes on a machine that does nothing else.
#   tools/prove/residency.sh [SECONDS [KILLS]]
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-300} kills=${2:-50}
tables=$(mktemp)
trap 'rm -f "$tables"' EXIT
status=0
python=.venv/test/bin/python
{
    echo "## Models come and go beside streams, and among $seconds seconds of everything"
    echo
    $python integration-tests/ollama/prove_residency.py --seconds "$seconds" || echo "**a limit was exceeded**"
    echo
    echo "## A server killed while it creates, copies, deletes and pulls"
    echo
    $python integration-tests/ollama/prove_kill.py --kills "$kills" || echo "**something half-written was visible**"
} | tee "$tables"
grep -q '^\*\*' "$tables" && status=1
mkdir -p docs/evidence
{
    tools/prove/header.sh "Several models on one server"
    echo "\`make prove-residency\`: what loads cost, what a mixed load does, and what a kill leaves behind; how is told in"
    echo "\`integration-tests/ollama/prove_residency.py\` and \`prove_kill.py\`."
    echo
    cat "$tables"
} >docs/evidence/residency.md
exit $status
