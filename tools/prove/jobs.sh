#!/usr/bin/env bash
# A server killed at random moments while it downloads and trains, with both databases. Result: docs/evidence/jobs.md.
# Takes some ten minutes.
#   tools/prove/jobs.sh [KILLS]
set -euo pipefail
cd "$(dirname "$0")/../.."
kills=${1:-100}
table=$(mktemp)
trap 'rm -f "$table"' EXIT
status=0
.venv/test/bin/python integration-tests/management/prove_jobs.py --kills "$kills" | tee "$table" || status=1
mkdir -p docs/evidence
{
    tools/prove/header.sh "Jobs that outlive their server"
    echo "\`make prove-jobs\`: a server that is killed (SIGKILL) at random moments while it takes in, downloads and trains (by a"
    echo "worker that counts in place of training), and started again. Every job that it said it took in has to be there and to"
    echo "end well, and no two workers may be at one job at the same time: \`integration-tests/management/restarts.py\`."
    echo
    cat "$table"
} >docs/evidence/jobs.md
exit $status
