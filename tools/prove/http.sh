#!/usr/bin/env bash
# Runs schemathesis from openapi.json against the binary, in both profiles, and writes the counts to docs/evidence/http.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=docs/evidence/http.md
{
    tools/prove/header.sh "Generated requests against the documented API"
    echo '`.venv/test/bin/python integration-tests/fuzz_http/run.py 40`: schemathesis makes requests from `openapi.json`, valid'
    echo 'ones and others. No answer may be a 5xx, have a status or media type that is not documented, or have a'
    echo 'body that is not of its schema; events of streams included.'
    echo
    .venv/test/bin/python integration-tests/fuzz_http/run.py 40
} >"$out.tmp"
mv "$out.tmp" "$out"
echo "wrote $out"
