"""Models by hub id: from a local server with the hub's layout, from the cache alone, and with neither."""

import pytest
from harness import fake_hub
from harness.client import Client
from harness.server import DEMO_MODEL, free_port, run_to_exit

REPOSITORY = "acme/demo"
QUESTION = {"messages": [{"role": "user", "content": "Which port do you listen on?"}], "temperature": 0.0}


@pytest.fixture
def home(tmp_path):
    return {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}


def answer(server) -> str:
    return Client(server.port).post_ok("/v1/chat/completions", QUESTION)["choices"][0]["message"]["content"]


def test_no_network_and_no_cache(home):
    endpoint = f"http://127.0.0.1:{free_port()}"
    code, output, _ = run_to_exit(
        ["--model-id", REPOSITORY, "--port", str(free_port())], env=home | {"HF_ENDPOINT": endpoint}, seconds=55
    )
    assert code == 1
    assert "panicked" not in output
    for what in (REPOSITORY, endpoint, home["HF_HOME"]):
        assert what in output, f"does not say that it tried {what}:\n{output}"


def test_offline_and_no_cache(home):
    env = home | {"HF_HUB_OFFLINE": "1"}
    code, output, seconds = run_to_exit(["--model-id", REPOSITORY, "--port", str(free_port())], env=env)
    assert code == 1
    assert REPOSITORY in output and "HF_HUB_OFFLINE" in output and home["HF_HOME"] in output
    assert seconds < 1, "offline there is nothing to wait for"


def test_downloads_serves_and_serves_again_offline(start_server, home, server, tmp_path):
    with fake_hub.serving(REPOSITORY, DEMO_MODEL) as hub:
        online = start_server("--model-id", REPOSITORY, env=home | {"HF_ENDPOINT": hub.url})
        info = Client(online.port).get("/info").json()
        assert info["model_id"] == REPOSITORY
        assert info["model_sha"] == fake_hub.COMMIT
        # The same checkpoint as the one in the binary.
        assert answer(online) == answer(server)
        assert online.stop() is None
        assert any(request.startswith("GET") and "model.safetensors" in request for request in hub.requests)
    snapshot = tmp_path / "hf/hub/models--acme--demo/snapshots" / fake_hub.COMMIT
    assert (snapshot / "model.safetensors").read_bytes() == (DEMO_MODEL / "model.safetensors").read_bytes()
    offline = start_server("--model-id", REPOSITORY, env=home | {"HF_HUB_OFFLINE": "1"})
    assert answer(offline) == answer(server)


def test_second_start_fetches_no_weights_again(start_server, home):
    with fake_hub.serving(REPOSITORY, DEMO_MODEL) as hub:
        env = home | {"HF_ENDPOINT": hub.url}
        start_server("--model-id", REPOSITORY, env=env).stop()
        hub.requests.clear()
        start_server("--model-id", REPOSITORY, env=env).stop()
        assert not [request for request in hub.requests if request.startswith("GET") and "resolve" in request]


def test_a_download_that_broke_off_is_resumed(start_server, home, server):
    with fake_hub.serving(REPOSITORY, DEMO_MODEL) as hub:
        hub.cut_after["model.safetensors"] = 100_000
        resumed = start_server("--model-id", REPOSITORY, env=home | {"HF_ENDPOINT": hub.url})
        assert not hub.cut_after, "the weights were asked for and cut"
        assert answer(resumed) == answer(server)


def test_a_private_model_needs_the_token(start_server, home):
    with fake_hub.serving(REPOSITORY, DEMO_MODEL, token="hf_secret") as hub:
        env = home | {"HF_ENDPOINT": hub.url}
        code, output, _ = run_to_exit(["--model-id", REPOSITORY, "--port", str(free_port())], env=env)
        assert code == 1
        assert REPOSITORY in output and "HF_TOKEN" in output
        private = start_server("--model-id", REPOSITORY, env=env | {"HF_TOKEN": "hf_secret"})
        assert "hf_secret" not in private.output()


def test_a_model_the_hub_does_not_have(home):
    with fake_hub.serving(REPOSITORY, DEMO_MODEL) as hub:
        code, output, _ = run_to_exit(
            ["--model-id", "acme/other", "--port", str(free_port())], env=home | {"HF_ENDPOINT": hub.url}
        )
    assert code == 1
    assert "acme/other" in output


def test_download_command_prints_the_folder(home, tmp_path):
    with fake_hub.serving(REPOSITORY, DEMO_MODEL) as hub:
        code, output, _ = run_to_exit(["download", REPOSITORY], env=home | {"HF_ENDPOINT": hub.url})
    assert code == 0, output
    snapshot = tmp_path / "hf/hub/models--acme--demo/snapshots" / fake_hub.COMMIT
    assert output.splitlines()[-1] == str(snapshot)
    assert (snapshot / "config.json").exists()


@pytest.mark.parametrize("name", ["../../etc", "acme/$(id)", "a/b/c", "acme/..", "http://127.0.0.1:1/x"])
def test_names_that_are_no_hub_ids(home, name):
    """Refused before anything is asked of any server."""
    with fake_hub.serving(REPOSITORY, DEMO_MODEL) as hub:
        code, output, _ = run_to_exit(
            ["--model-id", name, "--port", str(free_port())], env=home | {"HF_ENDPOINT": hub.url}
        )
        assert hub.requests == []
    assert code == 1, output
