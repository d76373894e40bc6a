"""`openapi.json`: what is committed is what is served, and it offers all of TGI's."""

import copy
import json
import re
import subprocess

import pytest
from harness.client import Client
from harness.server import BINARY, ROOT, Server
from harness.superset import differences

CONTRACT = json.loads((ROOT / "integration-tests/contracts/tgi-2.4.1.json").read_text())
COMMITTED = ROOT / "openapi.json"
KEY = "Secret-Key-1"
#: What answers without the key where a key is set: probes, scrapers, listings.
PUBLIC = {"/", "/health", "/ping", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}
PUBLIC |= {"/info", "/metrics", "/v1/models"}


@pytest.fixture(scope="module")
def document():
    return json.loads(COMMITTED.read_text())


def deliberate() -> set[str]:
    """The differences that docs/deviations.md gives a reason for."""
    text = (ROOT / "docs/deviations.md").read_text()
    section = text.partition("## OpenAPI document")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE)
    assert all(len(reason) > 20 for _, reason in rows), "a difference without a reason"
    return {difference for difference, _ in rows}


def test_committed_is_served(client, document):
    response = client.get("/api-doc/openapi.json")
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == document, "run `make openapi`"


@pytest.mark.parametrize("command", ["openapi", "print-schema"])
def test_committed_is_printed(command, document):
    printed = subprocess.run([BINARY, command], capture_output=True, text=True, check=True, timeout=20)
    assert printed.stdout == COMMITTED.read_text(), "run `make openapi`"


def test_a_reader_that_has_seen_enough_is_no_failure():
    """`weirgate openapi | head -1`: the rest is longer than a pipe holds."""
    with subprocess.Popen([BINARY, "openapi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as printing:
        assert printing.stdout.readline() == "{\n"
        printing.stdout.close()
        assert printing.stderr.read() == ""
    assert printing.returncode == 0


def test_offers_all_of_tgi(document):
    assert set(differences(CONTRACT, document)) == deliberate()


def test_what_is_referred_to_is_there(document):
    named = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', COMMITTED.read_text()))
    assert len(named) > 100 and named <= set(document["components"]["schemas"])


def test_a_contract_offers_itself():
    assert differences(CONTRACT, CONTRACT) == []


#: Ways to break a copy of the contract, and what is said then.
BROKEN = [
    (lambda d: d["paths"].pop("/tokenize"), "POST /tokenize: missing"),
    (lambda d: d["paths"]["/"]["post"]["responses"].pop("424"), "POST / 424: missing"),
    (lambda d: d["paths"]["/info"]["get"].update(operationId="x"), "GET /info: operationId is x"),
    (
        lambda d: d["paths"]["/"]["post"]["responses"]["200"]["content"].pop("text/event-stream"),
        "POST / 200 text/event-stream: missing",
    ),
    (
        lambda d: d["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"].update(
            {"$ref": "#/components/schemas/ChatRequest"}
        ),
        "POST /generate request application/json: is ChatRequest, not GenerateRequest",
    ),
    (lambda d: d["components"]["schemas"].pop("FunctionName"), None),
    (
        lambda d: d["components"]["schemas"]["GenerateParameters"]["properties"].pop("top_p"),
        "GenerateParameters.top_p: missing",
    ),
    (
        lambda d: d["components"]["schemas"]["GenerateParameters"]["properties"]["stop"]["items"].update(type="integer"),
        "GenerateParameters.stop[]: type is ['integer'], not ['string']",
    ),
    (
        lambda d: d["components"]["schemas"]["GenerateParameters"]["properties"]["seed"].pop("nullable"),
        "GenerateParameters.seed: is not nullable",
    ),
    (
        lambda d: d["components"]["schemas"]["ChatRequest"]["required"].append("model"),
        "ChatRequest.model: required",
    ),
    (
        lambda d: d["components"]["schemas"]["Token"]["required"].remove("logprob"),
        "Token.logprob: not required",
    ),
    (
        lambda d: d["components"]["schemas"]["Usage"]["properties"]["total_tokens"].update(type="string"),
        "Usage.total_tokens: type is ['string'], not ['integer']",
    ),
    (
        lambda d: d["components"]["schemas"]["Usage"]["properties"]["total_tokens"].update(nullable=True),
        "Usage.total_tokens: is nullable",
    ),
    (
        lambda d: d["components"]["schemas"]["FinishReason"]["enum"].append("abort"),
        "FinishReason: enum is ['abort', 'eos_token', 'length', 'stop_sequence'], "
        "not ['eos_token', 'length', 'stop_sequence']",
    ),
    (lambda d: d["components"]["schemas"]["SagemakerRequest"]["oneOf"].pop(1), "SagemakerRequest: lacks ChatRequest"),
    (
        lambda d: d["components"]["schemas"]["SagemakerResponse"]["oneOf"].append({"type": "string"}),
        "SagemakerResponse: may also be string",
    ),
    (
        lambda d: d["components"]["schemas"]["GrammarType"]["oneOf"].pop(1),
        "GrammarType: lacks object",
    ),
]


@pytest.mark.parametrize("damage, expected", BROKEN, ids=[str(expected) for _, expected in BROKEN])
def test_a_broken_contract_is_noticed(damage, expected):
    """The comparison itself: every kind of damage is reported, and nothing else."""
    broken = copy.deepcopy(CONTRACT)
    damage(broken)
    if expected is None:
        # A component that others refer to.
        with pytest.raises(KeyError):
            differences(CONTRACT, broken)
    else:
        assert differences(CONTRACT, broken) == [expected]


def test_wider_requests_are_no_difference():
    wider = copy.deepcopy(CONTRACT)
    parameters = wider["components"]["schemas"]["GenerateParameters"]["properties"]
    parameters["seed"] = {"type": ["integer", "null"]}
    parameters["min_p"] = {"type": "number"}
    parameters["grammar"] = {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/GrammarType"}]}
    chat = wider["components"]["schemas"]["ChatRequest"]
    chat["properties"]["stop"] = {"anyOf": [{"type": "string"}, chat["properties"]["stop"] | {"nullable": True}]}
    chat["allOf"] = [{"type": "object", "properties": {"n": chat["properties"].pop("n")}}]
    assert differences(CONTRACT, wider) == []


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("openapi") / "log", env={"API_KEY": KEY})
    try:
        server.start()
        yield Client(server.port)
        server.stop()
    finally:
        server.kill()


def test_every_route_asks_for_the_key(guarded, document):
    """The public list is exact in both directions, on the wire and in the document."""
    answered = {}
    for path, item in document["paths"].items():
        for method in item.keys() & {"get", "post", "put", "patch", "delete", "head"}:
            status = guarded.request(method.upper(), path.replace("{", "").replace("}", ""), None).status
            answered[method, path] = status
            assert ("401" in item[method]["responses"]) == (status == 401), f"{method} {path} in the document"
    assert len(answered) >= 20
    assert {where for where, status in answered.items() if status != 401} == {("get", path) for path in PUBLIC}
