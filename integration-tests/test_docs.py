"""Swagger UI at `/docs`: it shows the served document and needs nothing from elsewhere."""

import gzip
import hashlib
import re

import pytest
from harness.server import ROOT


def test_the_page_loads_from_here_alone(client):
    page = client.get("/docs")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sorted(loaded) == ["docs/start.js", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css"]
    for address in loaded:
        assert client.get(f"/{address}").status == 200
    start = client.get("/docs/start.js").text
    (document,) = re.findall(r'url: "([^"]+)"', start)
    assert client.get(f"/{document}").json()["openapi"].startswith("3.1")


def test_the_management_page_loads_from_beside_it(client):
    page = client.get("/api/docs/")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sorted(loaded) == ["start.js", "swagger-ui-bundle.js", "swagger-ui.css"]
    kinds = {name: client.get(f"/api/docs/{name}") for name in loaded}
    assert all(answer.status == 200 and answer.body for answer in kinds.values())
    assert kinds["start.js"].headers["Content-Type"] == "text/javascript; charset=utf-8"
    (document,) = re.findall(r'url: "([^"]+)"', kinds["start.js"].text)
    assert "/api/v1/jobs/" in client.get(f"/api/docs/{document}").json()["paths"]


def test_the_page_with_a_slash(client):
    response = client.get("/docs/")
    assert response.status == 308
    assert response.headers["Location"] == "../docs"


@pytest.mark.parametrize("folder", ["docs", "api/docs"])
@pytest.mark.parametrize("file", ["swagger-ui-bundle.js", "swagger-ui.css"])
def test_swagger_ui_is_the_published_one(client, folder, file):
    """The bytes of the npm package that tools/swagger_ui names, with and without compression."""
    published = dict(
        reversed(line.split()) for line in (ROOT / "router/src/api/docs/swagger-ui/SHA256SUMS").read_text().splitlines()
    )
    packed = client.request("GET", f"/{folder}/{file}", None, {"Accept-Encoding": "gzip, deflate"})
    kind = {"js": "text/javascript", "css": "text/css"}[file.rpartition(".")[2]]
    assert (packed.status, packed.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert hashlib.sha256(gzip.decompress(packed.body)).hexdigest() == published[file]
    plain = client.request("GET", f"/{folder}/{file}", None, {"Accept-Encoding": "identity"})
    assert plain.headers["Content-Encoding"] is None
    assert hashlib.sha256(plain.body).hexdigest() == published[file]
