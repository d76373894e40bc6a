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


def test_the_page_with_a_slash(client):
    response = client.get("/docs/")
    assert response.status == 308
    assert response.headers["Location"] == "../docs"


@pytest.mark.parametrize("file", ["swagger-ui-bundle.js", "swagger-ui.css"])
def test_swagger_ui_is_the_published_one(client, file):
    """The bytes of the npm package that tools/swagger_ui names, with and without compression."""
    published = dict(
        reversed(line.split()) for line in (ROOT / "router/src/api/docs/swagger-ui/SHA256SUMS").read_text().splitlines()
    )
    packed = client.request("GET", f"/docs/{file}", None, {"Accept-Encoding": "gzip, deflate"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert hashlib.sha256(gzip.decompress(packed.body)).hexdigest() == published[file]
    plain = client.request("GET", f"/docs/{file}", None, {"Accept-Encoding": "identity"})
    assert plain.headers["Content-Encoding"] is None
    assert hashlib.sha256(plain.body).hexdigest() == published[file]
