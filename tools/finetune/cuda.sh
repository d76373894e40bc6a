#!/usr/bin/env bash
# The training worker for NVIDIA GPUs: target/cuda/release/weirgate-finetune. No GPU is needed to build it, and no driver: where
# there is none, a stand-in is linked whose every call fails. With it in LD_LIBRARY_PATH the worker starts, finds no GPU and
# trains on the CPU, which is how the binary is tried here.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools/setup --cuda
tools/setup --cuda-libraries

link=$PWD/.venv/cuda/link
rm -rf "$link"
mkdir -p "$link"
# Wheels have no names without a version, by which linkers look.
for library in "$PWD"/.cuda/lib/lib{cudart,nvrtc}.so.* "$PWD"/.venv/cuda/lib/python*/site-packages/nvidia/cu13/lib/lib{cublas,cublasLt,curand}.so.*; do
    name=$(basename "$library")
    ln -s "$library" "$link/$name"
    ln -s "$library" "$link/${name%.so.*}.so"
done
driver=$(ldconfig -p | awk '/libcuda\.so\.1 .*x86-64/ {print $NF; exit}')
if [[ -n $driver ]]; then
    ln -s "$driver" "$link/libcuda.so"
else
    # Every function that the bindings declare; 34 is CUDA_ERROR_STUB_LIBRARY.
    bindings=$(cargo metadata --format-version 1 --features weirgate-finetune/cuda | python3 -c '
import json, pathlib, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "cudarc":
        print(pathlib.Path(package["manifest_path"]).parent / "src/driver/sys/mod.rs")' | sort -V | tail -1)
    grep -oE '\bfn cu[A-Z][A-Za-z0-9_]*' "$bindings" | sort -u | sed 's/^fn \(.*\)/int \1(void) { return 34; }/' >"$link/stand_in.c"
    cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$link/libcuda.so.1" "$link/stand_in.c"
    ln -s libcuda.so.1 "$link/libcuda.so"
fi

# The oldest chips that are supported; newer ones compile the kernels' PTX when they are first used.
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80} CUDA_HOME=$PWD/.cuda PATH=$PWD/.cuda/bin:$PATH LIBRARY_PATH=$link CARGO_TARGET_DIR=target/cuda
cargo build --release -p weirgate-finetune --features cuda
echo "target/cuda/release/weirgate-finetune; where CUDA's libraries are not installed: LD_LIBRARY_PATH=$link"
