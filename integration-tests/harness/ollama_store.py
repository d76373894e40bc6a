"""A folder of models as Ollama itself lays it out."""

import hashlib
import json
from pathlib import Path


def _blob(root: Path, content: bytes, kind: str) -> dict:
    digest = hashlib.sha256(content).hexdigest()
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    (root / "blobs" / f"sha256-{digest}").write_bytes(content)
    return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}


def install(root: Path, name: str, weights: bytes, made_of: str = "", **layers: bytes):
    """Writes a model of Llama's family, which reads pictures, too, and of the type Q8_0; `made_of` is its parent."""
    families = ["llama", "clip"]
    config = {"model_format": "gguf", "model_family": "llama", "model_families": families, "model_type": "1M", "file_type": "Q8_0"}
    image = _blob(root, json.dumps(config).encode(), "x")
    image["mediaType"] = "application/vnd.docker.container.image.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": image,
        "layers": [_blob(root, weights, "model")] + [_blob(root, text, kind) for kind, text in layers.items()],
    }
    if made_of:
        manifest["layers"][0]["from"] = made_of
    path = root / "manifests/registry.ollama.ai/library" / name / "latest"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))
