#!/usr/bin/env bash
# JSON-Schema-Test-Suite by keyword and draft. Result: docs/benchmarks/json-schema-test-suite.md
set -euo pipefail
cd "$(dirname "$0")/../.."
out=docs/benchmarks/json-schema-test-suite.md
report=$(mktemp)
trap 'rm -f "$report"' EXIT
.venv/test/bin/python tools/schema_suite/cases.py out/schema-suite.jsonl
cargo build -q --release -p weirgate-grammar --example schema_suite
target/release/examples/schema_suite out/schema-suite.jsonl demo-model/files/tokenizer.json >"$report"
mkdir -p docs/benchmarks
{
    tools/prove/header.sh "JSON Schema: JSON-Schema-Test-Suite"
    echo "\`make prove-schemas\`: the required tests of each draft, with the demo model's vocabulary. \`right/schemas\`: a schema is"
    echo "right if it compiles and takes exactly its valid instances. The others are refused with a keyword and its path,"
    echo "but for those marked \`n\`, of which a valid instance is rejected (often for the order of its keys, which is the"
    echo "schema's here), and \`w\`, of which an invalid one is accepted."
    echo
    cat "$report"
} >"$out"
echo "wrote $out"
