"""Debian's Prometheus scrapes the real binary under load, and every query of two dashboards answers with data.

PROVE_SECONDS lengthens the load (`make prove-metrics`), PROVE_REPORT names a file for a table of the answers.
"""

import asyncio
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import load, metrics
from harness.client import Client
from harness.prometheus import Prometheus
from harness.server import ROOT

HERE = Path(__file__).parent
SECONDS = int(os.environ.get("PROVE_SECONDS", "12"))
REPORT = os.environ.get("PROVE_REPORT")
SERVICE = "weirgate-under-test"
# They begin alike, for longer than a KV block, so that the prefix cache has something to find.
STORY = "Once upon a time, in a forest far behind the mountains, there was an old house, and in the old house lived"
PROMPTS = [f"{STORY} {number} foxes who" for number in range(2, 10)]
CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: weirgate
    static_configs:
      - targets: ["127.0.0.1:{port}"]
        labels: {{container: {service}}}
"""


@dataclass
class Chart:
    dashboard: str
    title: str
    query: str


def charts() -> list[Chart]:
    theirs = json.loads((HERE / "tgi_dashboard.json").read_text())["charts"]
    found = [Chart("tgi", chart["chart"], query) for chart in theirs for query in chart["queries"]]
    for panel in json.loads((ROOT / "deploy/grafana/weirgate.json").read_text())["panels"]:
        found += [Chart("weirgate", panel["title"], target["expr"]) for target in panel.get("targets", [])]
    return found


async def work(port: int, seconds: float):
    """Rounds of everything that a chart can show, until the time is over."""
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + seconds
    async with load.session() as http:
        number = 0
        while time.monotonic() < until:
            number += 1
            parameters = {"max_new_tokens": 40, "do_sample": True, "temperature": 1.1, "seed": number}
            bodies = [{"inputs": prompt, "parameters": parameters} for prompt in PROMPTS]
            good = [load.stream(http, f"{url}/generate_stream", body) for body in bodies]
            chat = {"model": "tgi", "messages": [{"role": "user", "content": PROMPTS[number % 8]}], "max_tokens": 20}
            wrong = {"inputs": "Hello", "parameters": {"temperature": 0.0}}
            rest = [
                load.plain(http, f"{url}/v1/chat/completions", chat),
                load.plain(http, f"{url}/v1/completions", {"model": "tgi", "prompt": PROMPTS[:3], "max_tokens": 9}),
                load.plain(http, f"{url}/generate", wrong),
                leave(http, f"{url}/generate_stream"),
            ]
            await asyncio.gather(*good, *rest)
            await asyncio.sleep(0.2)


async def leave(http, url: str):
    """A client that goes away after the first bytes."""
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": 500, "ignore_eos": True}}
    async with http.post(url, json=body) as response:
        await response.content.readany()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A Prometheus that has watched a server under load until just now."""
    from harness.server import Server

    folder = tmp_path_factory.mktemp("prometheus")
    # A pool with little room, so that it fills.
    server = Server(folder / "log", "--max-batch-total-tokens", "512", "--max-total-tokens", "512")
    watching = None
    try:
        server.start()
        watching = Prometheus(folder, CONFIG.format(port=server.port, service=SERVICE)).start()
        asyncio.run(work(server.port, SECONDS))
        # Two more scrapes see the end of it.
        time.sleep(2.5)
        yield watching, metrics.parse(Client(server.port).get("/metrics").text)
        server.stop()
    finally:
        if watching:
            watching.stop()
        server.kill()


def resolved(query: str) -> str:
    """Grafana's variables as it would fill them in for this server."""
    values = {
        "$__rate_interval": f"{SECONDS}s",
        "$service": SERVICE,
        "$model": "weirgate-demo",
        "$instance": ".*",
    }
    for name, value in values.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


def values(prometheus: Prometheus, query: str) -> list[float]:
    numbers = [float(series["value"][1]) for series in prometheus.query(resolved(query))]
    return [number for number in numbers if math.isfinite(number)]


def test_the_other_dashboard_has_its_29_charts():
    assert len({chart.title for chart in charts() if chart.dashboard == "tgi"}) == 29


@pytest.mark.timeout(240)
@pytest.mark.parametrize("chart", charts(), ids=lambda chart: f"{chart.dashboard}: {chart.title}")
def test_every_query_answers_with_data(prometheus, chart):
    watching, _ = prometheus
    found = values(watching, chart.query)
    assert found, f"{chart.title}: no data for {resolved(chart.query)}"
    if REPORT:
        with open(REPORT, "a") as report:
            shown = ", ".join(f"{number:.4g}" for number in found[:4]) + (", …" if len(found) > 4 else "")
            report.write(f"| {chart.dashboard} | {chart.title} | `{chart.query.replace('|', '&#124;')}` | {shown} |\n")


def test_the_dashboards_variables_find_the_server(prometheus):
    watching, _ = prometheus
    (found,) = watching.query("weirgate_requests_running")
    assert found["metric"]["model"] == "weirgate-demo"
    assert found["metric"]["container"] == SERVICE
    assert watching.query("tgi_request_count")[0]["metric"]["container"] == SERVICE


@pytest.mark.parametrize(
    "series",
    [
        "tgi_request_count",
        "tgi_request_success",
        "tgi_request_failure",
        "tgi_batch_concat",
        "weirgate_generated_tokens_total",
        "weirgate_prefix_cache_hit_tokens_total",
        "weirgate_request_cancellations_total",
    ],
)
def test_prometheus_has_what_the_server_counted(prometheus, series):
    """The load moved every counter that a chart divides by, and the last scrape is the server's last word."""
    watching, samples = prometheus
    (found,) = values(watching, f"sum({series})")
    assert found == metrics.total(samples, series) > 0
