#!/usr/bin/env bash
# Modelfiles, manifests and Go templates under libFuzzer. Result: docs/evidence/fuzz-store.md
#   tools/prove/fuzz_store.sh [SECONDS]   of wall time for all three side by side; more calls add to the corpus
set -euo pipefail
exec "$(dirname "$0")/fuzz.sh" store "The model store's texts under libFuzzer" store "${1:-900}" \
    modelfile manifest go_template <<'TEXT'
`make prove-fuzz-store`: Modelfiles are read, written and read again; manifests lie in a store that is listed and shown;
Go templates are parsed and rendered. A panic, a path outside of the store, a text that reads back as another one, an
output beyond its limit, 20 seconds or 2 GiB of memory is a finding. Guided by coverage, with checks for overflow, from
`fuzz/corpus`; all runs so far.
TEXT
