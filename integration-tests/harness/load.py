"""Many streaming clients at once, each recording when what happened."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass
class Stream:
    """One request's life. Times are `time.monotonic()`; `None` where it did not come to that."""

    status: int | None = None
    sent_at: float | None = None
    headers_at: float | None = None
    event_times: list[float] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    body: str = ""
    ended_at: float | None = None
    # What broke the connection, if something did.
    broken: str | None = None

    @property
    def error(self) -> dict | None:
        """The error event that ended the stream, if one did."""
        return self.events[-1] if self.events and "error" in self.events[-1] else None

    @property
    def text(self) -> str:
        """What the token events of /generate_stream add up to."""
        return "".join(event["token"]["text"] for event in self.events if "token" in event)

    @property
    def generated_text(self) -> str | None:
        """The full text in the last event, if the stream came to its proper end."""
        return self.events[-1].get("generated_text") if self.events else None


def session() -> aiohttp.ClientSession:
    """No limit on connections, and a new one for each request, as from separate clients."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None, sock_connect=30))


async def stream(http: aiohttp.ClientSession, url: str, body: Any, record: Stream | None = None) -> Stream:
    """Posts `body` and reads server-sent events to the end; never raises for what the server does."""
    record = record if record is not None else Stream()
    record.sent_at = time.monotonic()
    try:
        async with http.post(url, json=body) as response:
            record.headers_at = time.monotonic()
            record.status = response.status
            if response.status != 200:
                record.body = await response.text()
            else:
                await _read_events(response, record)
    except (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError) as error:
        record.broken = f"{type(error).__name__}: {error}"
    record.ended_at = time.monotonic()
    return record


async def _read_events(response: aiohttp.ClientResponse, record: Stream):
    async for line in response.content:
        payload = line.strip()
        if payload.startswith(b"data: {"):
            record.event_times.append(time.monotonic())
            record.events.append(json.loads(payload[len(b"data: ") :]))


async def get(http: aiohttp.ClientSession, url: str) -> Stream:
    """Gets `url`; never raises for what the server does."""
    record = Stream(sent_at=time.monotonic())
    try:
        async with http.get(url) as response:
            record.status = response.status
            record.body = await response.text()
    except (aiohttp.ClientError, ConnectionError) as error:
        record.broken = f"{type(error).__name__}: {error}"
    record.ended_at = time.monotonic()
    return record


async def plain(http: aiohttp.ClientSession, url: str, body: Any) -> Stream:
    """Posts `body` and reads one JSON answer; never raises for what the server does."""
    record = Stream(sent_at=time.monotonic())
    try:
        async with http.post(url, json=body) as response:
            record.headers_at = time.monotonic()
            record.status = response.status
            record.body = await response.text()
    except (aiohttp.ClientError, ConnectionError) as error:
        record.broken = f"{type(error).__name__}: {error}"
    record.ended_at = time.monotonic()
    return record


async def all_streaming(streams: list[Stream], seconds: float):
    """Returns when every stream has had its first event; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not all(each.events for each in streams):
        assert time.monotonic() < deadline, f"not all streaming within {seconds} s: {streams}"
        await asyncio.sleep(0.005)
