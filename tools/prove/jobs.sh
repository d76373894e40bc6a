#!/usr/bin/env bash
# A server killed at random moments while it downloads and trains, with both databases; data sets in an S3 server that
# checks signatures. Result: docs/evidence/jobs.md. Takes some twenty minutes.
#   tools/prove/jobs.sh [KILLS]
set -euo pipefail
cd "$(dirname "$0")/../.."
kills=${1:-100}
table=$(mktemp)
buckets=$(mktemp)
trap 'rm -f "$table" "$buckets"' EXIT
status=0
.venv/test/bin/python integration-tests/management/prove_jobs.py --kills "$kills" | tee "$table" || status=1
version=0.14.1
[ -x out/s3s-fs/bin/s3s-fs ] ||
    cargo install s3s-fs --version "$version" --locked --features binary --root out/s3s-fs --target-dir out/s3s-fs/build
.venv/test/bin/python -m pytest -p no:cacheprovider -k "bucket and s3s" --tb=short -q \
    integration-tests/management/test_datasets.py | tee "$buckets" || status=1
mkdir -p docs/evidence
{
    tools/prove/header.sh "Jobs that outlive their server"
    echo "\`make prove-jobs\`: a server that is killed (SIGKILL) at random moments while it takes in, downloads and trains (by a"
    echo "worker that counts in place of training), and started again. Every job that it said it took in has to be there and to"
    echo "end well, and no two workers may be at one job at the same time: \`integration-tests/management/restarts.py\`."
    echo
    cat "$table"
    echo
    echo "Data sets in the buckets of \`s3s-fs\` $version: \`integration-tests/management/test_datasets.py\`."
    echo
    sed 's/^/    /' "$buckets"
} >docs/evidence/jobs.md
exit $status
