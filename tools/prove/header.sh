#!/usr/bin/env bash
# Prints the head of an evidence file: title, commit, date, machine, toolchain. Usage: header.sh "Title"
set -euo pipefail
cd "$(dirname "$0")/../.."
dirty=$(git diff --quiet HEAD -- ':!docs' && echo "" || echo " with uncommitted changes")
cat <<EOF
# $1

| | |
|---|---|
| commit | $(git rev-parse --short=12 HEAD)$dirty |
| date | $(date -u +%F) |
| machine | $(lscpu | sed -n 's/^Model name: *//p' | head -1), $(nproc) cores, $(awk '/MemTotal/ {printf "%.0f", $2 / 1048576}' /proc/meminfo) GiB |
| toolchain | $(rustc --version) |

EOF
