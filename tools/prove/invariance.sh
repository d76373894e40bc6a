#!/usr/bin/env bash
# Runs the scheduler, cache and batch-invariance tests and writes what they print to docs/evidence/invariance.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=docs/evidence/invariance.md
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --release -p weirgate-engine -- --nocapture 2>&1 | tee "$log"
{
    tools/prove/header.sh "Scheduler, prefix cache and batch invariance"
    echo 'Lines printed by `cargo test --release -p weirgate-engine -- --nocapture`:'
    echo
    echo '```text'
    grep -E '^(proof: |test |test result: )' "$log"
    echo '```'
} >"$out.tmp"
mv "$out.tmp" "$out"
echo "wrote $out"
