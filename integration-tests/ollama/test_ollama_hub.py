"""Models of `hf.co`, by the names that Ollama has for them: user, repository, and the quantization as the tag."""

import ollama as library
import pytest
from harness.gguf_files import quantize
from harness.hugging_face import CONTENT_HOST, HOST, HuggingFace
from harness.ollama_api import PROMPT

NAME = "hf.co/demo/tiny-GGUF"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantizations")
    for kind in ("Q8_0", "F16"):
        quantize(folder / f"{kind}.gguf", kind)
    return {kind: folder / f"{kind}.gguf" for kind in ("Q8_0", "F16")}


def test_a_quantization_is_pulled_by_its_tag(start_server, files, tmp_path):
    hub = HuggingFace("demo/tiny-GGUF", files, tmp_path)
    try:
        server = start_server("--model-store", str(tmp_path / "models"), env=hub.environment)
        client = library.Client(server.url)
        parts = list(client.pull(f"{NAME}:F16", stream=True))
        assert parts[0].status == "pulling manifest" and parts[-1].status == "success"
        size = files["F16"].stat().st_size
        assert any(part.completed == part.total == size for part in parts)
        assert client.pull(NAME).status == "success"
        listed = {model.model: model.details.quantization_level for model in client.list().models}
        assert listed[f"{NAME}:F16"] == "F16" and listed[f"{NAME}:latest"] == "Q8_0"
        for name in (f"{NAME}:F16", NAME):
            answer = client.generate(name, PROMPT)
            assert 0 < answer.eval_count <= 5, "its parameters are in effect"
        # A model that is asked for and not here is not brought by itself; as the base of another one, it is.
        with pytest.raises(library.ResponseError) as error:
            client.pull(f"{NAME}:Q4_K_M")
        assert error.value.status_code == 404
        client.delete(NAME)
        assert client.create("mine", from_=f"{NAME}:Q8_0", system="Short.").status == "success"
        assert client.generate("mine", PROMPT).eval_count <= 5
        hosts = {(host, request.split()[1].split("/")[1]) for host, request, _ in hub.requests}
        assert {(HOST, "v2"), (CONTENT_HOST, "repos")} == hosts
    finally:
        hub.close()


def test_another_certificate_is_no_hub(start_server, files, tmp_path):
    hub = HuggingFace("demo/tiny-GGUF", {"Q8_0": files["Q8_0"]}, tmp_path)
    try:
        environment = {"HTTPS_PROXY": hub.environment["HTTPS_PROXY"]}
        server = start_server("--model-store", str(tmp_path / "models"), env=environment)
        with pytest.raises(library.ResponseError) as error:
            library.Client(server.url).pull(NAME)
        assert error.value.status_code == 502 and not hub.requests
    finally:
        hub.close()
