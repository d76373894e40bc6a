#!/usr/bin/env bash
# Debian's Prometheus scrapes the binary under a scripted load for a minute, then every query of both dashboards must
# answer with data, and every counter must equal what its load did. Result: docs/evidence/metrics.md
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${PROVE_SECONDS:-60}
answers=$(mktemp)
log=$(mktemp)
trap 'rm -f "$answers" "$log"' EXIT

PROVE_SECONDS=$seconds PROVE_REPORT=$answers .venv/test/bin/python -m pytest -p no:cacheprovider -q \
    integration-tests/observability | tee "$log"

{
    tools/prove/header.sh "Metrics"
    cat <<TEXT
\`make prove-metrics\`: Prometheus $(.venv/debian/usr/bin/prometheus --version 2>&1 | sed -n 's/.*version \([^ ]*\).*/\1/p') \
of Debian scrapes the demo model every second through $seconds s of scripted load; then each query of text-generation-inference's
29 charts (in our words, over the series it reads) and of \`deploy/grafana/weirgate.json\` is asked once.

$(tail -1 "$log" | sed 's/^=* *//; s/ *=*$//') in \`integration-tests/observability\`.

| dashboard | chart | query | answer (first values) |
|---|---|---|---|
TEXT
    cat "$answers"
} >docs/evidence/metrics.md
echo "docs/evidence/metrics.md: $(wc -l <"$answers") queries with data"
