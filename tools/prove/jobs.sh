#!/usr/bin/env bash
# A server killed at random moments while it downloads, trains and deploys, with both databases; the management API's tests
# over PostgreSQL; a data set of a gigabyte and 100,000 jobs; data sets in an S3 server that checks signatures. Result:
# docs/evidence/jobs.md. Takes some twenty-five minutes.
#   tools/prove/jobs.sh [KILLS]
set -euo pipefail
cd "$(dirname "$0")/../.."
kills=${1:-100}
table=$(mktemp)
large=$(mktemp)
buckets=$(mktemp)
suite=$(mktemp)
trap 'rm -f "$table" "$large" "$buckets" "$suite"' EXIT
status=0
.venv/test/bin/python integration-tests/management/prove_jobs.py --kills "$kills" | tee "$table" || status=1
# Those that name their databases run over both in `make test`, and one starts its server by itself.
WEIRGATE_TEST_DATABASE=PostgreSQL .venv/test/bin/python -m pytest -p no:cacheprovider --tb=short -q \
    -k "not SQLite and not PostgreSQL and not bucket and not as_a_user" integration-tests/management | tee "$suite" || status=1
version=0.14.1
[ -x out/s3s-fs/bin/s3s-fs ] ||
    cargo install s3s-fs --version "$version" --locked --features binary --root out/s3s-fs --target-dir out/s3s-fs/build
.venv/test/bin/python integration-tests/management/prove_large.py | tee "$large" || status=1
.venv/test/bin/python -m pytest -p no:cacheprovider -k "bucket and s3s" --tb=short -q \
    integration-tests/management/test_datasets.py | tee "$buckets" || status=1
mkdir -p docs/evidence
{
    tools/prove/header.sh "Jobs that outlive their server"
    echo "\`make prove-jobs\`: a server that is killed (SIGKILL) at random moments while it takes jobs in, downloads over a slow"
    echo "line, trains (by a worker that counts in place of training) and deploys, and started again. Every job that it said it"
    echo "took in has to be there (else it is lost) and to end well, and none may be begun while it is under way (by the server's"
    echo "log, and for trainings by a lock of the worker's): \`integration-tests/management/restarts.py\`."
    echo
    cat "$table"
    echo
    echo "The tests of \`integration-tests/management\` that \`make test\` runs over SQLite, over PostgreSQL:"
    echo
    sed 's/^/    /' "$suite"
    echo
    echo "Data sets of a gigabyte and lists of 100,000 jobs over HTTP: \`integration-tests/management/prove_large.py\`. What lists ask"
    echo "of the databases goes by indices: \`jobs/src/tests/table.rs\`."
    echo
    cat "$large"
    echo
    echo "Data sets in the buckets of \`s3s-fs\` $version: \`integration-tests/management/test_datasets.py\`."
    echo
    sed 's/^/    /' "$buckets"
} >docs/evidence/jobs.md
exit $status
