#!/usr/bin/env bash
# Every quantization against the stored and the dequantized weights; what the tests print goes to docs/evidence/quantization.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=docs/evidence/quantization.md
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --release -p weirgate-engine --test gguf -- --nocapture 2>&1 | tee "$log"
.venv/test/bin/python -m pytest -p no:cacheprovider -rP integration-tests/test_gguf.py 2>&1 | tee -a "$log"
table() {
    echo "| $2 |"
    echo "|$(tr -dc '|' <<<"$2" | sed 's/|/---|/g')---|"
    grep -ohE "$1 \| .*" "$log" | sed -E "s/^$1 //; s/$/ |/"
    echo
}
{
    tools/prove/header.sh "Quantized weights"
    echo "Perplexity of the demo model over stories drawn anew, from log-probabilities over HTTP; the difference is to the"
    echo "weights as they are stored (bf16). Questions: how many of the 18 known answers come out differently, greedily."
    echo
    table perplexity "file | perplexity | difference | answers"
    echo "Largest relative error (in the norm) of the logits after a token, against the dequantized weights in f32, and"
    echo "against the stored weights. Mixtures of the demo model, then its shape with matrices of random blocks:"
    echo
    table "demo model" "mixture | from dequantized | from stored"
    table "random blocks" "type | from dequantized"
    echo "Relative root mean square error of the demo model's matrices, as \`weirgate quantize\` writes them:"
    echo
    table rmse "mixture | tensor | type | error"
} >"$out.tmp"
mv "$out.tmp" "$out"
echo "wrote $out"
