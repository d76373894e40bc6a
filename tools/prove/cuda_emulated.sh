#!/usr/bin/env bash
# Runs every CUDA kernel and the whole engine on the emulated GPU, the sampler on 10,000 random draws, and writes what the
# tests say to docs/evidence/cuda-emulated.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=docs/evidence/cuda-emulated.md
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export WEIRGATE_SAMPLER_CASES=${WEIRGATE_SAMPLER_CASES:-10000}
cargo test --release -p weirgate-kernels --test cuda 2>&1 | tee "$log"
cargo test --release -p weirgate-engine --test cuda_emulated 2>&1 | tee -a "$log"
{
    tools/prove/header.sh "CUDA kernels on the emulated GPU"
    echo "The kernels of \`kernels/csrc\`, compiled for the host and run by \`kernels/csrc/emulate\`: each against plain f64 loops"
    echo "or the CPU device, the sampler against the CPU's on ${WEIRGATE_SAMPLER_CASES} random draws"
    echo "(\`sample::any_settings_any_logits\`), and the engine's tokens against those of the engine on the CPU."
    echo
    echo '```text'
    grep -E '^(test |test result: )' "$log"
    echo '```'
} >"$out.tmp"
mv "$out.tmp" "$out"
echo "wrote $out"
