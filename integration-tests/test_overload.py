"""500 streaming clients at once where 64 may be served."""

import asyncio

import pytest
from harness import load, metrics
from harness.client import Client
from harness.server import resident_bytes, wait_for

CLIENTS = 500
ADMITTED = 64
NEW_TOKENS = 400
PROMPTS = [f"Once upon a time there were {n} foxes" for n in range(2, 18)]


def body(prompt: str) -> dict:
    return {"inputs": prompt, "parameters": {"max_new_tokens": NEW_TOKENS, "do_sample": False, "ignore_eos": True}}


async def round_of(server) -> list[load.Stream]:
    async with load.session() as http:
        url = f"{server.url}/generate_stream"
        return await asyncio.gather(*(load.stream(http, url, body(PROMPTS[n % len(PROMPTS)])) for n in range(CLIENTS)))


def check_round(records: list[load.Stream], alone: dict[str, str]):
    refused = [record for record in records if record.status == 429]
    served = [(n, record) for n, record in enumerate(records) if record.status == 200]
    assert len(served) == ADMITTED
    assert len(refused) == CLIENTS - ADMITTED
    for record in refused:
        assert record.body == '{"error":"Model is overloaded","error_type":"overloaded"}'
    for n, record in served:
        assert record.broken is None and record.error is None, record
        assert record.generated_text == alone[PROMPTS[n % len(PROMPTS)]]
        assert len(record.event_times) == NEW_TOKENS
    first_finish = min(record.ended_at for _, record in served)
    assert max(record.sent_at for record in records) < first_finish, "a stream ended before the last client arrived"
    assert max(record.ended_at for record in refused) < first_finish, "a refusal waited for a place"


@pytest.mark.timeout(240)
def test_exactly_the_excess_is_refused(start_server):
    # A pool of just what 64 streams need: the first round touches all of it.
    pool = ADMITTED * (NEW_TOKENS + 32)
    server = start_server("--max-concurrent-requests", str(ADMITTED), "--max-batch-total-tokens", str(pool))
    client = Client(server.port)
    alone = {prompt: client.post_ok("/generate", body(prompt))["generated_text"] for prompt in PROMPTS}
    assert len(set(alone.values())) > len(PROMPTS) // 2, "prompts that differ should be told apart by their answers"

    memory = []
    for _ in range(3):
        check_round(asyncio.run(round_of(server)), alone)
        wait_for(lambda: metrics.engine(client.get("/metrics").text).idle, 5, "no used KV blocks")
        memory.append(resident_bytes(server.router_pid()))
    # The first round fills buffers and allocator arenas; after it nothing may grow.
    assert memory[2] <= memory[1] * 1.05, f"resident bytes after each round: {memory}"
    assert client.post_ok("/generate", body(PROMPTS[0]))["generated_text"] == alone[PROMPTS[0]]
    samples = metrics.parse(client.get("/metrics").text)
    assert samples['tgi_request_failure{err="overloaded"}'] == 3 * (CLIENTS - ADMITTED)


def test_a_pool_too_small_for_all_changes_no_text(start_server):
    """Sequences are preempted and computed again; nobody notices but in time."""
    server = start_server("--max-batch-total-tokens", "1024", "--max-total-tokens", "512")
    client = Client(server.port)
    parameters = {"max_new_tokens": 300, "do_sample": True, "temperature": 1.2, "ignore_eos": True}
    bodies = [{"inputs": prompt, "parameters": parameters | {"seed": n}} for n, prompt in enumerate(PROMPTS)]
    alone = [client.post_ok("/generate", each)["generated_text"] for each in bodies]

    async def together():
        async with load.session() as http:
            return await asyncio.gather(*(load.stream(http, f"{server.url}/generate_stream", each) for each in bodies))

    records = asyncio.run(together())
    assert [record.generated_text for record in records] == alone
    text = client.get("/metrics").text
    assert metrics.total(metrics.parse(text), "weirgate_preemptions_total") > 0
    assert metrics.engine(text).idle
