#!/usr/bin/env bash
# Packs the inputs of a fuzz target that reach something no other one does into fuzz/corpus/TARGET.tar.xz, which the next
# run starts from. After a run.
#   tools/prove/fuzz_keep.sh TARGET
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$1
least=$(mktemp -d)
trap 'rm -r "$least"' EXIT
fuzz/target/x86_64-unknown-linux-gnu/release/"$target" -merge=1 -max_len=4096 "$least" "fuzz/out/$target/corpus" "fuzz/corpus/$target"
tar -C "$least" --sort=name --mtime=@0 --owner=0 --group=0 -c . | xz -9e >"fuzz/corpus/$target.tar.xz"
echo "fuzz/corpus/$target.tar.xz: $(find "$least" -type f | wc -l) inputs"
