"""weirgate-benchmark against a real server: its figures are those of the requests it says it made."""

import contextlib
import json
import socketserver
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from harness import metrics
from harness.client import Client

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "target/release/weirgate-benchmark"


def load(server, tmp_path, *flags: str) -> dict:
    out = tmp_path / "report.json"
    command = [TOOL, "load", "--url", server.url, "--no-tui", "--json", out, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    for stage in report["stages"]:
        assert f"| {stage['label']} | {stage['requests']} |" in done.stdout
    return report


def counted(server, name: str) -> float:
    return metrics.total(metrics.parse(Client(server.port).get("/metrics").text), name)


@pytest.mark.parametrize("api", ["tgi", "completions", "chat"])
def test_closed_loop_counts_what_the_server_counts(server, tmp_path, api):
    before = counted(server, "tgi_request_success")
    flags = ["--concurrency", "1,3", "-n", "6", "--warmup", "2", "--prompt-tokens", "48", "--output-tokens", "9"]
    report = load(server, tmp_path, "--api", api, *flags)
    # Two requests to learn what a word is, then two stages of two and six.
    assert counted(server, "tgi_request_success") - before == 2 + 2 * (2 + 6)
    assert [stage["label"] for stage in report["stages"]] == ["1 client", "3 clients"]
    for stage in report["stages"]:
        assert (stage["requests"], stage["succeeded"], stage["errors"]) == (6, 6, {})
        assert stage["output_tokens"] == 6 * 9
        assert abs(stage["prompt_tokens"] - 6 * 48) <= 6 * 5
        assert stage["ttft_ms"]["count"] == 6
        assert 0 < stage["ttft_ms"]["p50"] <= stage["e2e_ms"]["p50"]
        assert stage["output_tokens_per_s"] == pytest.approx(54 / stage["seconds"])


def test_token_ids_are_exact(server, tmp_path):
    flags = ["--api", "completions", "--token-ids", "4096", "--prompt-tokens", "20-60", "-c", "2", "-n", "5"]
    first, again = (load(server, tmp_path, *flags, "--output-tokens", "4", "--seed", "7") for _ in range(2))
    assert 5 * 20 <= first["stages"][0]["prompt_tokens"] <= 5 * 60
    assert first["stages"][0]["prompt_tokens"] == again["stages"][0]["prompt_tokens"]


def test_open_loop_sends_at_its_rate(server, tmp_path):
    flags = ["--rate", "20", "-n", "30", "--prompt-tokens", "16", "--output-tokens", "4", "--warmup", "0"]
    stage = load(server, tmp_path, *flags, "--objective", "e2e=60000", "--svg", str(tmp_path / "plots"))["stages"][0]
    assert (stage["requests"], stage["succeeded"]) == (30, 30)
    # 30 arrivals at 20/s take 1.5 s on average, whatever the server does.
    assert 0.5 < stage["seconds"] < 10
    assert stage["goodput"]["share"] == 1.0
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == ["between-tokens.svg", "first-token.svg", "whole-request.svg"]
    for plot in (tmp_path / "plots").iterdir():
        assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_replay_shares_the_prefixes_of_the_trace(server, tmp_path):
    trace = tmp_path / "trace.jsonl"
    lines = [
        {"timestamp": 100 * i, "input_length": 520 + i, "output_length": 3, "hash_ids": [0, i + 1]} for i in range(6)
    ]
    trace.write_text("\n".join(map(json.dumps, lines)))
    before = counted(server, "weirgate_prefix_cache_hit_tokens_total")
    stage = load(server, tmp_path, "--trace", str(trace), "--trace-speed", "2", "--warmup", "0")["stages"][0]
    assert (stage["requests"], stage["succeeded"], stage["output_tokens"]) == (6, 6, 18)
    hits = counted(server, "weirgate_prefix_cache_hit_tokens_total") - before
    # Whoever comes after the first finds most of the 512 shared tokens.
    assert hits >= 3 * 400


def test_errors_are_counted_by_kind(server, tmp_path):
    # More tokens than the model has positions.
    flags = ["--concurrency", "2", "-n", "4", "--prompt-tokens", "3000", "--warmup", "0"]
    stage = load(server, tmp_path, *flags)["stages"][0]
    assert (stage["requests"], stage["succeeded"]) == (4, 0)
    assert list(stage["errors"].values()) == [4]
    assert "validation" in next(iter(stage["errors"]))


def test_a_server_that_is_not_there_is_said(tmp_path):
    command = [TOOL, "load", "--url", "http://127.0.0.1:9", "--no-tui"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "connection" in done.stderr


def test_engine_mode_speaks_the_flags_of_tgi(tmp_path):
    link = tmp_path / "text-generation-benchmark"
    link.symlink_to(TOOL)
    flags = ["-b", "1,2", "-s", "16", "-d", "4", "-r", "3", "-w", "1", "--no-tui", "--json", "-"]
    done = subprocess.run([link, *flags], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout)
    assert [report["batch_size"] for report in reports] == [1, 2]
    for report in reports:
        assert report["prefill_ms"]["count"] == 3
        assert report["decode_step_ms"]["count"] == 9
        assert report["decode_tokens_per_s"]["p50"] > 0


class OnceOnly(socketserver.StreamRequestHandler):
    """Answers the first request of a connection and closes it at the second, unannounced, as servers may."""

    def handle(self):
        answered = False
        while line := self.rfile.readline():
            length = 0
            while (header := self.rfile.readline()) not in (b"\r\n", b""):
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.rfile.read(length)
            if answered:
                return
            answered = True
            if line.startswith(b"POST"):
                self.prompted()
            body = b'{"data":[{"id":"m"}]}' if line.startswith(b"GET") else EVENTS
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def prompted(self):
        """Called when a prompt has come, before its answer."""


class TogetherOnly(OnceOnly):
    """Answers nobody before every client has sent its first prompt, and notes when each came."""

    def prompted(self):
        self.server.arrivals.append(time.monotonic())
        self.server.everybody.wait(timeout=30)


EVENTS = b"".join(
    b"data: " + event + b"\n\n"
    for event in (
        b'{"choices":[{"index":0,"text":"a"}]}',
        b'{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":1}}',
        b"[DONE]",
    )
)


@contextlib.contextmanager
def listening(handler):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_kept_connection_that_is_closed_costs_no_request(tmp_path):
    with listening(OnceOnly) as server:
        flags = ["--api", "completions", "--token-ids", "100", "-c", "2", "-n", "12", "--output-tokens", "1"]
        stage = load(server, tmp_path, *flags)["stages"][0]
    assert (stage["requests"], stage["succeeded"], stage["errors"]) == (12, 12, {})


def test_clients_begin_one_after_the_other(tmp_path):
    with listening(TogetherOnly) as server:
        server.arrivals, server.everybody = [], threading.Barrier(4)
        flags = ["--api", "completions", "--token-ids", "100", "-c", "4", "-n", "4", "--output-tokens", "1"]
        began = time.monotonic()
        stage = load(server, tmp_path, *flags, "--warmup", "0", "--ramp-up", "2")["stages"][0]
    assert (stage["requests"], stage["succeeded"], stage["errors"]) == (4, 4, {})
    # Clients begin 0, 0.5, 1 and 1.5 s after the stage, which begins after the tool.
    for client, arrived in enumerate(sorted(server.arrivals)):
        assert arrived - began >= 0.5 * client
    assert stage["seconds"] >= 1.5
