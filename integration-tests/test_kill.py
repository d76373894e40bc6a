"""What clients and the launcher see when the router dies, when it is asked to stop, and when a client goes away."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from harness import load, metrics
from harness.client import Client
from harness.server import Server, wait_for

# Long enough to be in flight whenever a test strikes.
LONG = {"max_new_tokens": 1000, "do_sample": False, "ignore_eos": True}
PROMPTS = [f"Once upon a time, {name} went" for name in ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal")]


def body(prompt: str, **parameters) -> dict:
    return {"inputs": prompt, "parameters": LONG | parameters}


def read_metrics(server: Server) -> dict[str, float]:
    return metrics.parse(Client(server.port).get("/metrics").text)


def engine(server: Server) -> metrics.Engine:
    return metrics.engine(Client(server.port).get("/metrics").text)


def test_router_killed_under_load(start_server):
    server = start_server()
    killed_at, streams, plains = asyncio.run(_kill_router_under_load(server))
    for stream in streams:
        assert stream.ended_at - killed_at < 1
        assert stream.generated_text is None, "no stream passes for finished"
        assert stream.broken or stream.error, f"a stream that was cut looks whole: {stream}"
    for plain in plains:
        assert plain.ended_at - killed_at < 1
        assert plain.broken or plain.status in (500, 502, 503), plain
    wait_for(lambda: server.health() == 200, killed_at + 5 - time.monotonic(), "serving again 5 s after the kill")
    answer = Client(server.port).post_ok("/generate", body("Once", max_new_tokens=4, details=True))
    assert answer["details"]["generated_tokens"] == 4
    wait_for(lambda: engine(server).idle, 2, "no used KV blocks")


async def _kill_router_under_load(server: Server):
    streams = [load.Stream() for _ in PROMPTS]
    router = server.router_pid()
    async with load.session() as http:
        url = f"{server.url}/generate_stream"
        tasks = [
            asyncio.create_task(load.stream(http, url, body(prompt), record))
            for prompt, record in zip(PROMPTS, streams, strict=True)
        ]
        plain_tasks = [
            asyncio.create_task(load.plain(http, f"{server.url}/generate", body(prompt))) for prompt in PROMPTS
        ]
        await load.all_streaming(streams, 10)
        assert not any(task.done() for task in tasks + plain_tasks)
        os.kill(router, signal.SIGKILL)
        killed_at = time.monotonic()
        done, pending = await asyncio.wait(tasks + plain_tasks, timeout=5)
        assert not pending, f"{len(pending)} clients still wait 5 s after the kill"
    return killed_at, streams, [task.result() for task in plain_tasks]


def test_launcher_gives_the_router_a_new_life_each_time(start_server):
    server = start_server()
    seen = {server.router_pid()}
    for _ in range(2):
        os.kill(server.router_pid(), signal.SIGKILL)
        wait_for(lambda: server.health() != 200, 5, "gone after the kill")
        server.wait_ready(5)
        seen.add(server.router_pid())
    assert len(seen) == 3


def test_launcher_killed_leaves_no_router(start_server):
    server = start_server()
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not server.survivors(), 2, "the router ends with its launcher")
    assert server.health() is None


@pytest.mark.parametrize(("command", "timeout"), [((), 90), (("serve",), 25)], ids=["plain", "sagemaker"])
def test_terminate_under_load_finishes_what_is_in_flight(start_server, command, timeout):
    server = start_server(command=command)
    assert f"requests in flight get {timeout} s" not in server.output()
    expected = [Client(server.port).post_ok("/generate", body(prompt))["generated_text"] for prompt in PROMPTS]
    streams, plains, refused = asyncio.run(_terminate_under_load(server))
    assert server.wait_exit(20) == 0
    assert [stream.generated_text for stream in streams] == expected
    assert [plain.status for plain in plains] == [200] * len(plains)
    assert refused, "while requests were finishing, new ones were still accepted"
    assert f"requests in flight get {timeout} s" in server.output()
    assert not server.survivors()


async def _terminate_under_load(server: Server):
    streams = [load.Stream() for _ in PROMPTS]
    async with load.session() as http:
        url = f"{server.url}/generate_stream"
        tasks = [
            asyncio.create_task(load.stream(http, url, body(prompt), record))
            for prompt, record in zip(PROMPTS, streams, strict=True)
        ]
        plains = [asyncio.create_task(load.plain(http, f"{server.url}/generate", body(PROMPTS[0]))) for _ in range(2)]
        await load.all_streaming(streams, 10)
        assert not any(task.done() for task in tasks)
        server.terminate()
        refused = False
        while not refused and not any(task.done() for task in tasks):
            late = await load.plain(http, f"{server.url}/generate", body("Late", max_new_tokens=1))
            refused = late.broken is not None or late.status == 503
        await asyncio.gather(*tasks)
        return streams, [await task for task in plains], refused


def test_terminate_cuts_what_does_not_fit_the_timeout(start_server):
    # A stalled engine stands for a request that would never end.
    server = start_server(
        "--graceful-termination-timeout", "1", "--fault-stall-after-steps", "20", "--watchdog-timeout", "0"
    )

    async def stalled():
        record = load.Stream()
        async with load.session() as http:
            task = asyncio.create_task(load.stream(http, f"{server.url}/generate_stream", body(PROMPTS[0]), record))
            await load.all_streaming([record], 10)
            server.terminate()
            return await asyncio.wait_for(task, 10)

    record = asyncio.run(stalled())
    assert record.generated_text is None
    assert record.broken or record.error
    assert server.wait_exit(10) == 0
    assert not server.survivors()


def test_interrupt_stops_it_too(start_server):
    server = start_server()
    server.process.send_signal(signal.SIGINT)
    assert server.wait_exit(10) == 0
    assert not server.survivors()


@pytest.mark.parametrize("route", ["/generate_stream", "/generate"])
def test_a_client_that_leaves_frees_its_blocks(start_server, route):
    server = start_server()
    before = read_metrics(server)
    asyncio.run(_leave(server, route))
    # Far less time than 8 × 1000 tokens take; the success counter says whether any ran to its end.
    wait_for(lambda: engine(server).idle, 2, "no used KV blocks")
    after = read_metrics(server)
    assert after["tgi_request_success"] == before["tgi_request_success"], "one was finished for nobody"
    assert after['tgi_request_failure{err="dropped"}'] == len(PROMPTS)
    answer = Client(server.port).post_ok("/generate", body("Once", max_new_tokens=4, details=True))
    assert answer["details"]["generated_tokens"] == 4


async def _leave(server: Server, route: str):
    async with load.session() as http:
        send = load.stream if route.endswith("stream") else load.plain
        tasks = [asyncio.create_task(send(http, server.url + route, body(prompt))) for prompt in PROMPTS]
        deadline = time.monotonic() + 10
        while (state := await _engine(http, server)).running < len(PROMPTS):
            assert time.monotonic() < deadline, "not all running"
            assert not any(task.done() for task in tasks)
        assert state.used_blocks > 0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _engine(http, server: Server) -> metrics.Engine:
    return metrics.engine((await load.get(http, f"{server.url}/metrics")).body)


def test_leaving_during_a_long_prefill_frees_the_blocks(start_server):
    # One prompt token a step: the client is gone long before its prompt is computed.
    server = start_server("--max-batch-prefill-tokens", "1", "--max-batch-size", "1")

    async def leave():
        async with load.session() as http:
            long = body("Once upon a time there was a fox. " * 20)
            task = asyncio.create_task(load.stream(http, f"{server.url}/generate_stream", long))
            deadline = time.monotonic() + 10
            while (await _engine(http, server)).used_blocks == 0:
                assert time.monotonic() < deadline and not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    wait_for(lambda: engine(server).idle, 2, "no used KV blocks")
    assert read_metrics(server)['tgi_request_failure{err="dropped"}'] == 1


@pytest.mark.parametrize("given", [None, "4194304"])
def test_the_router_gives_freed_memory_back(start_server, given):
    """glibc raises the bound as a model is loaded where it is not set; who sets it knows better."""
    server = start_server(env={"MALLOC_MMAP_THRESHOLD_": given} if given else {})
    environment = Path(f"/proc/{server.router_pid()}/environ").read_bytes().split(b"\0")
    assert f"MALLOC_MMAP_THRESHOLD_={given or 1 << 20}".encode() in environment
