#!/usr/bin/env bash
# The CPU device on 64-bit Arm, without one: builds everything for it, and runs the tests of the ops and of the
# quantized products under QEMU, on a processor with plain NEON, on one with dot products, and on one with matrix
# products of int8.
# Writes docs/evidence/arm.md. Needs rustup, for the target's standard library, and the Debian packages that
# `tools/setup --arm` installs: a C and C++ compiler for the target, and QEMU's user mode.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=aarch64-unknown-linux-gnu
tools/setup --arm
rustup target list --installed | grep -qx "$target" || rustup target add "$target"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc

out=docs/evidence/arm.md
logs=$(mktemp -d)
trap 'rm -r "$logs"' EXIT
cargo check --release -p weirgate -p weirgate-benchmark --target "$target"
cargo test --release --no-run --target "$target" -p weirgate-kernels --lib --test cpu 2>&1 | tee "$logs/built"
cargo test --release --no-run --target "$target" -p weirgate-engine --test gguf 2>&1 | tee -a "$logs/built"

# The binary built from the source file $1.
binary() { sed -n "s|^ *Executable .*$1 (\(.*\))\$|\1|p" "$logs/built" | head -1; }

# Runs all tests on processor model $1.
run() {
    local emulated=(qemu-aarch64-static -L /usr/aarch64-linux-gnu -cpu "$1")
    (
        cd kernels
        "${emulated[@]}" ../"$(binary 'unittests src/lib.rs')" cpu::
        "${emulated[@]}" ../"$(binary tests/cpu/main.rs)"
        cd ../engine
        "${emulated[@]}" ../"$(binary tests/gguf/main.rs)" products::
    ) >"$logs/$1" 2>&1
}
models=(cortex-a53 cortex-a76 max)
has=("NEON" "NEON and dot products" "NEON, dot products and matrix products of int8")
runs=()
for model in "${models[@]}"; do
    run "$model" &
    runs+=($!)
done
failed=0
for run in "${runs[@]}"; do wait "$run" || failed=1; done
((!failed)) || { cat "$logs"/*; exit 1; }

# How often instruction $1 occurs in the test binary of the products.
count() { aarch64-linux-gnu-objdump -d --no-show-raw-insn "$(binary tests/gguf/main.rs)" | grep -cw "$1" || true; }

{
    tools/prove/header.sh "The CPU device on 64-bit Arm"
    echo "Compiled for \`$target\` and run by $(qemu-aarch64-static --version | head -1)."
    echo "Every test runs on each instruction set that the emulated processor has, against plain f64 loops: ops at odd"
    echo "shapes in f32, f16 and bf16, and the products of all quantized types; results do not depend on batch or threads,"
    echo "and all NEON paths give the same bits. An emulator says nothing of speed."
    echo
    echo "| processor | has | tests passed | failed |"
    echo "|---|---|---|---|"
    for i in "${!models[@]}"; do
        awk -v row="| ${models[i]} | ${has[i]} |" \
            '/^test result:/ { passed += $4; failed += $6 } END { print row, passed, "|", failed, "|" }' \
            "$logs/${models[i]}"
    done
    echo
    echo "The test binary of the products has $(count sdot) \`sdot\`, $(count usdot) \`usdot\` and $(count usmmla) \`usmmla\`"
    echo "instructions."
    echo
    echo '```text'
    grep -hE '^test ' "$logs/max"
    echo '```'
} >"$out.tmp"
mv "$out.tmp" "$out"
echo "wrote $out"
