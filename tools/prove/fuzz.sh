#!/usr/bin/env bash
# Runs fuzz targets side by side under libFuzzer, guided by coverage, and writes what came of all runs so far.
#   tools/prove/fuzz.sh NAME TITLE FEATURES SECONDS TARGET...   <text of docs/evidence/fuzz-NAME.md
# Needs a nightly compiler. Inputs that were found stay in fuzz/out, which git does not see; `fuzz_keep.sh` packs those that
# are worth keeping.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=$1 title=$2 features=$3 seconds=$4
shift 4
targets=("$@")
text=$(cat)
coverage="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks"
RUSTFLAGS=$coverage cargo +nightly build -q --release --target x86_64-unknown-linux-gnu --target-dir fuzz/target \
    -p weirgate-fuzz --no-default-features --features "$features" "${targets[@]/#/--bin=}"
[[ $seconds == 0 ]] && exit 0
sum() { awk '{ all += $1 } END { print all + 0 }'; }
status=0
for target in "${targets[@]}"; do
    out=fuzz/out/$target
    mkdir -p "$out/corpus" "$out/found"
    packed=fuzz/corpus/$target.tar.xz
    [[ ! -e $packed ]] || tar -C "$out/corpus" -xJf "$packed"
    fuzz/target/x86_64-unknown-linux-gnu/release/"$target" "$out/corpus" "fuzz/corpus/$target" -max_len=4096 -timeout=20 \
        -rss_limit_mb=2048 -max_total_time="$seconds" -artifact_prefix="$out/found/" -print_final_stats=1 \
        -ignore_timeouts=0 >>"$out/log" 2>&1 &
done
for _ in "${targets[@]}"; do
    wait -n || status=1
done
mkdir -p docs/evidence
{
    tools/prove/header.sh "$title"
    echo "$text"
    echo
    echo "| target | runs | inputs | of them kept | seconds | findings |"
    echo "|---|---:|---:|---:|---:|---:|"
    for target in "${targets[@]}"; do
        log=fuzz/out/$target/log
        inputs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | sum)
        runs=$(grep -c '^stat::number_of_executed_units' "$log")
        spent=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second(s)/\1/p' "$log" | sum)
        kept=$(find "fuzz/out/$target/corpus" -type f | wc -l)
        found=$(find "fuzz/out/$target/found" -type f | wc -l)
        echo "| $target | $runs | $inputs | $kept | $spent | $found |"
    done
} >"docs/evidence/fuzz-$name.md"
exit $status
