#!/usr/bin/env bash
# Clones the repository into a fresh folder, serves it as a new user would, and writes how long that took and what the README's
# examples print to docs/evidence/clean-clone.md. Cargo's downloads are kept; the build itself starts from nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
out=docs/evidence/clean-clone.md
fresh=$(mktemp -d)
make_pid=
cleanup() {
    [[ -z $make_pid ]] || kill -- "-$make_pid" 2>/dev/null || true
    rm -rf "$fresh"
}
trap cleanup EXIT

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
git clone --quiet --no-local . "$fresh/weirgate"
cd "$fresh/weirgate"
unset CARGO_TARGET_DIR
begin=$(date +%s.%N)
HOSTNAME=127.0.0.1 PORT=$port setsid make serve >"$fresh/log" 2>&1 &
make_pid=$!
deadline=$((SECONDS + 3600))
until curl -sf "http://127.0.0.1:$port/health" >/dev/null; do
    kill -0 "$make_pid" 2>/dev/null || { cat "$fresh/log"; echo "make serve ended before it served" >&2; exit 1; }
    ((SECONDS < deadline)) || { cat "$fresh/log"; echo "not ready within an hour" >&2; exit 1; }
    sleep 0.2
done
ready=$(date +%s.%N)
seconds() { python3 -c "print(f'{$2 - $1:.0f}')"; }
built=$(sed -nE 's/.*Finished .* in (.*)$/\1/p' "$fresh/log" | tail -1)

{
    tools/prove/header.sh "From a clean clone"
    echo "\`make serve\` in a fresh clone served after $(seconds "$begin" "$ready") s, $built of it the build with all dependencies."
    echo
    echo "What it printed from the first line of the server on:"
    echo
    echo '```text'
    sed -E '0,/Finished/d; s/\x1b\[[0-9;]*m//g' "$fresh/log"
    echo '```'
    echo
    echo "The README's examples (on another port than 3000):"
    echo
    echo '```text'
    PYTHONPATH=integration-tests python3 - "$port" <<'PY'
import subprocess, sys
from pathlib import Path
from harness.readme import examples

for example in examples(Path("README.md").read_text()):
    command = example.command.replace("127.0.0.1:3000", f"127.0.0.1:{sys.argv[1]}")
    output = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=30).stdout
    example.check(output)
    print("$ " + example.command + output.rstrip("\n") + "\n")
PY
    echo '```'
} >"$fresh/report.md"
mkdir -p "$root/docs/evidence"
mv "$fresh/report.md" "$root/$out"
echo "wrote $out"
