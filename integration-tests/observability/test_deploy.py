"""The files under deploy/ are valid by the tools that read them, and agree with the binary."""

import json
import re

import kubernetes_validate
import pytest
import yaml
from harness import metrics
from harness.prometheus import promtool
from harness.server import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = "1.31"


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()))


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "scrape.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts(command):
    checked = promtool(*command[:-1], DEPLOY / "prometheus" / command[-1])
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_a_test():
    alerts = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
    names = {rule["alert"] for group in alerts["groups"] for rule in group["rules"]}
    tests = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yml").read_text())
    fired = {each["alertname"] for test in tests["tests"] for each in test["alert_rule_test"] if "exp_alerts" in each}
    assert fired == names


def expressions() -> dict[str, str]:
    alerts = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
    found = {rule["alert"]: rule["expr"] for group in alerts["groups"] for rule in group["rules"]}
    for panel in json.loads((DEPLOY / "grafana/weirgate.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    return found


def test_every_series_that_is_read_is_served(client):
    """Alerts and dashboard name series by hand; a misspelt one would be silent for ever."""
    served = set()
    for name, family in metrics.families(client.get("/metrics").text).items():
        suffixes = ("_bucket", "_sum", "_count") if family.type == "histogram" else ("",)
        served |= {name + suffix for suffix in suffixes}
    for title, expression in expressions().items():
        read = set(re.findall(r"\b(?:tgi|weirgate|process)_[a-z_]+\b(?=[{\[)\s]|$)", expression))
        assert read - {"weirgate_pods"} <= served, f"{title}: {read - served}"


@pytest.mark.parametrize("name", ["deployment.yaml", "service.yaml"])
def test_manifests_fit_kubernetes_schemas(name):
    for document in documents(name):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_schemas_do_refuse():
    deployment = documents("deployment.yaml")[0]
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)


def test_the_manifests_agree_with_each_other_and_the_binary(client):
    deployment, claim = documents("deployment.yaml")
    (service,) = documents("service.yaml")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    port = str(container["ports"][0]["containerPort"])
    assert environment["PORT"] == port == pod["metadata"]["annotations"]["prometheus.io/port"]
    assert int(environment["GRACEFUL_TERMINATION_TIMEOUT"]) < pod["spec"]["terminationGracePeriodSeconds"]
    paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for path in paths.values():
        assert client.get(path).status == 200
    assert client.get(pod["metadata"]["annotations"]["prometheus.io/path"]).status == 200
    (volume,) = (each for each in pod["spec"]["volumes"] if "persistentVolumeClaim" in each)
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_grafana_gets_what_its_format_asks_for():
    dashboard = json.loads((DEPLOY / "grafana/weirgate.json").read_text())
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(dashboard)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
    variables = {f"${{{each['name']}}}" for each in dashboard["templating"]["list"]}
    assert "${datasource}" in variables
