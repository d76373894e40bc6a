"""An engine that stops stepping is noticed and replaced."""

import asyncio

from harness import load
from harness.client import Client
from harness.server import wait_for

STALL_AFTER = 60


def test_a_stalled_engine_is_replaced(start_server):
    server = start_server("--watchdog-timeout", "2", "--fault-stall-after-steps", str(STALL_AFTER))
    first = server.router_pid()
    short = {"inputs": "Once", "parameters": {"max_new_tokens": 4, "details": True, "ignore_eos": True}}
    assert Client(server.port).post_ok("/generate", short)["details"]["generated_tokens"] == 4
    assert server.health() == 200

    async def stall():
        async with load.session() as http:
            parameters = {"max_new_tokens": 4 * STALL_AFTER, "ignore_eos": True}
            url = f"{server.url}/generate_stream"
            return await asyncio.wait_for(load.stream(http, url, {"inputs": "Once", "parameters": parameters}), 15)

    record = asyncio.run(stall())
    assert 0 < len(record.events) <= STALL_AFTER
    assert record.generated_text is None
    assert record.broken or record.error, "the client of a stalled engine is told"
    wait_for(lambda: server.health() != 200 or server.router_pid() != first, 5, "unready or already replaced")
    server.wait_ready(10)
    assert server.router_pid() != first
    assert "stall" in server.output().lower()
    assert Client(server.port).post_ok("/generate", short)["details"]["generated_tokens"] == 4


def test_readiness_fails_before_the_router_is_replaced(start_server):
    """Polled while it stalls, /health says 503 or nothing; it never goes from 200 to 200 unnoticed."""
    server = start_server("--watchdog-timeout", "2", "--fault-stall-after-steps", "5")

    async def watch():
        seen = []
        async with load.session() as http:
            parameters = {"max_new_tokens": 50, "ignore_eos": True}
            url = f"{server.url}/generate_stream"
            task = asyncio.create_task(load.stream(http, url, {"inputs": "Once", "parameters": parameters}))
            while not task.done():
                seen.append((await load.get(http, f"{server.url}/health")).status)
                await asyncio.sleep(0.02)
            for _ in range(5):
                seen.append((await load.get(http, f"{server.url}/health")).status)
        return seen

    assert any(status in (503, None) for status in asyncio.run(watch()))
    server.wait_ready(10)


def test_an_idle_engine_is_left_alone(start_server):
    server = start_server("--watchdog-timeout", "1")
    router = server.router_pid()
    # Idle for more than twice the timeout is what is tested here, so time has to pass.
    asyncio.run(asyncio.sleep(2.5))
    assert server.health() == 200
    assert server.router_pid() == router
