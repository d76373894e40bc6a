"""What /metrics declares: TGI's series to the letter, and what an endpoint picker needs of ours."""

import json
import re
from pathlib import Path

import pytest
import yaml
from harness import metrics
from harness.client import Client
from harness.prometheus import promtool
from harness.server import ROOT

HERE = Path(__file__).parent
TABLE = json.loads((HERE / "tgi_series.json").read_text())


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The metrics of a server that has not had a request yet, and its /info."""
    from harness.server import Server

    server = Server(tmp_path_factory.mktemp("fresh") / "log")
    try:
        server.start()
        client = Client(server.port)
        yield client.get("/metrics").text, client.get("/info").json()
        server.stop()
    finally:
        server.kill()


def bounds(kind: str, info: dict) -> list[float]:
    rule = TABLE["buckets"][kind]
    if "ratio" in rule:
        values = [rule["first"]]
        for _ in range(rule["count"]):
            values.append(values[-1] * rule["ratio"])
        return values[1:]
    if "steps_of" in rule:
        return [info[rule["steps_of"]] / rule["count"] * step for step in range(1, rule["count"] + 1)]
    return [float(value) for value in range(rule["from"], rule["to"] + 1)]


def test_the_series_are_tgis_and_no_others(fresh):
    text, _ = fresh
    served = {name for name in metrics.families(text) if name.startswith("tgi_")}
    assert served == {row["name"] for row in TABLE["series"]}


@pytest.mark.parametrize("row", TABLE["series"], ids=lambda row: row["name"])
def test_type_labels_and_buckets_are_tgis_from_the_start(fresh, row):
    text, info = fresh
    family = metrics.families(text)[row["name"]]
    assert family.type == row["type"]
    assert family.labels() == {name: set(values) for name, values in row.get("labels", {}).items()}
    if row["type"] != "histogram":
        assert not family.bounds()
        return
    for written in family.bounds().values():
        assert written[-1] == "+Inf"
        assert [float(bound) for bound in written] == sorted(float(bound) for bound in written)
        if "buckets" in row:
            expected = bounds(row["buckets"], info)
            assert [float(bound) for bound in written[:-1]] == pytest.approx(expected, rel=1e-12)
            assert written[0] == TABLE["buckets"][row["buckets"]].get("begins", written[0])


def test_nothing_is_counted_before_the_first_request(fresh):
    text, _ = fresh
    for name, family in metrics.families(text).items():
        if family.type in ("counter", "histogram"):
            assert not any(family.samples.values()), f"{name}: {family.samples}"


def test_promtool_has_only_the_known_hints(fresh):
    """The names are TGI's, so promtool's advice on them cannot be taken; on ours it has none."""
    text, _ = fresh
    checked = promtool("check", "metrics", stdin=text)
    hints = [line for line in (HERE / "naming_hints.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(checked.stderr.splitlines() + checked.stdout.splitlines()) == sorted(hints)
    assert all(line.startswith("tgi_") for line in hints)


def test_the_prefixes_are_two(fresh):
    text, _ = fresh
    for name in metrics.families(text):
        assert re.match(r"(tgi|weirgate)_[a-z_]+$", name) or name == "process_start_time_seconds", name


def test_own_series_name_the_model(fresh):
    text, info = fresh
    for name, family in metrics.families(text).items():
        if name.startswith("weirgate_") and name != "weirgate_build_info":
            assert family.labels()["model"] == {info["model_id"]}, name
    assert metrics.families(text)["weirgate_build_info"].labels() == {"version": {info["version"]}}


def test_the_endpoint_picker_finds_what_its_configuration_names(fresh):
    """deploy/kubernetes/endpoint-picker.yaml against the protocol's table of types and labels."""
    text, _ = fresh
    served = metrics.families(text)
    config = yaml.safe_load((ROOT / "deploy/kubernetes/endpoint-picker.yaml").read_text())
    (engine,) = next(
        plugin["parameters"]["engineConfigs"]
        for plugin in config["plugins"]
        if plugin["type"] == "core-metrics-extractor"
    )
    for field in ("queuedRequestsSpec", "runningRequestsSpec", "kvUsageSpec"):
        assert served[engine[field]].type == "gauge"
        assert list(served[engine[field]].samples.values()) == [0]
    cache = served[engine["cacheInfoSpec"]]
    assert cache.type == "gauge"
    samples = metrics.parse(text)
    for label, series in (("block_size", "weirgate_kv_block_size_tokens"), ("num_gpu_blocks", "weirgate_kv_blocks")):
        (value,) = cache.labels()[label]
        assert float(value) == metrics.total(samples, series) > 0
    lora = served[engine["loraSpec"]]
    assert lora.type == "gauge"
    assert {"max_lora", "running_lora_adapters", "waiting_lora_adapters"} <= set(lora.labels())
    # A time in seconds, so that the latest of several can be told.
    assert all(1.7e9 < value < 4e9 for value in lora.samples.values())
    readme = (ROOT / "deploy/README.md").read_text()
    assert all(engine[field] in readme for field in engine if field.endswith("Spec"))
