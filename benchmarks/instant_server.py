"""A chat endpoint that costs nothing: ready-made answers over bare asyncio, so that a benchmark measures its client.

`with instant_server(replies, latency_s) as base_url:` runs it in its own process. Each request gets the next reply of
the list, whatever it asks. It understands just enough HTTP/1.1: keep-alive, Content-Length, no chunks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection


class _Instant(asyncio.Protocol):
    """One connection."""

    def __init__(self, answers: Iterator[bytes], latency_s: float) -> None:
        self._answers, self._latency_s = answers, latency_s
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._later = asyncio.get_running_loop().call_later

    def data_received(self, data: bytes) -> None:
        self._buffer = buffer = self._buffer + data if self._buffer else data
        while (head := buffer.find(b"\r\n\r\n")) >= 0:
            field = buffer.find(b"ontent-Length:", 0, head)
            length = int(buffer[field + 14 : buffer.find(b"\r\n", field)]) if field >= 0 else 0
            end = head + 4 + length
            if len(buffer) < end:
                return
            buffer = self._buffer = buffer[end:]
            if self._latency_s:
                self._later(self._latency_s, self._transport.write, next(self._answers))
            else:
                self._transport.write(next(self._answers))


def answer_bytes(text: str) -> bytes:
    """A whole HTTP response with a chat completion that says `text`."""
    value = {
        "id": "chatcmpl-instant",
        "object": "chat.completion",
        "created": 0,
        "model": "instant",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1500, "completion_tokens": len(text) // 4, "total_tokens": 1500 + len(text) // 4},
    }
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@contextlib.contextmanager
def instant_server(replies: Sequence[str], latency_s: float = 0.0, core: int | None = None) -> Iterator[str]:
    """The server in a process of its own, on `core`; yields its base URL."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_run, args=(theirs, replies, latency_s, core), daemon=True
    )
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.terminate()
        process.join()


def _run(pipe: Connection, replies: Sequence[str], latency_s: float, core: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if core is not None:
        os.sched_setaffinity(0, {core})
    asyncio.run(_serve(pipe, [answer_bytes(text) for text in replies], latency_s))


async def _serve(pipe: Connection, answers: list[bytes], latency_s: float) -> None:
    def forever() -> Iterator[bytes]:
        while True:
            yield from answers

    endless = forever()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Instant(endless, latency_s), "127.0.0.1", 0, backlog=1024)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()
