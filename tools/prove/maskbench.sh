#!/usr/bin/env bash
# MaskBench's sample under vocabularies of 32k and 128k tokens, on one core. Result: docs/benchmarks/maskbench.md
set -euo pipefail
cd "$(dirname "$0")/../.."
out=docs/benchmarks/maskbench.md
report=$(mktemp)
trap 'rm -f "$report"' EXIT
.venv/test/bin/python tools/maskbench/vocabularies.py
cargo build -q --release -p weirgate-grammar --example maskbench
taskset -c 0 target/release/examples/maskbench out/vocabularies/bpe-32000.json out/vocabularies/bpe-128000.json >"$report"
mkdir -p docs/benchmarks
{
    tools/prove/header.sh "JSON Schema: MaskBench"
    echo "\`make prove-maskbench\`: 1,388 schemas of MaskBench with their valid and invalid instances, one thread on one core,"
    echo "vocabularies trained on local text (\`tools/maskbench/vocabularies.py\`). Strict mode: a schema is fully right if it"
    echo "compiles, takes every valid instance (compact JSON, keys in the instance's order) and rejects every invalid one; a"
    echo "refusal is not right. An instance is taken if each of its tokens is in the mask and the text may end after the last."
    echo "Generated keys come in the schema's order, so an instance that has them in another order is rejected as it is"
    echo "written. It is then tried with its keys in other orders: where one is taken, that order is the reason of the rejection."
    echo
    cat "$report"
} >"$out"
echo "wrote $out"
