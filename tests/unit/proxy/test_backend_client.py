"""The client for a backend's socket, against a server that sends exactly the bytes of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from llmsvc.proxy import backend_client
from llmsvc.proxy.backend_client import Connections, LostError, RefusedError

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

Say = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers each request by the next of `says`; notes the requests, and on which connection they came."""

    def __init__(self) -> None:
        self.says: list[bytes | Say] = []
        self.requests: list[tuple[int, bytes]] = []
        self.connections = 0
        self.ended = asyncio.Semaphore(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections = self.connections + 1
        self.reader = reader
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                self.requests.append((number, head + await reader.readexactly(length)))
                say = self.says.pop(0)
                if isinstance(say, bytes):
                    writer.write(say)
                    await writer.drain()
                else:
                    await say(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.ended.release()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_unix_server(server.serve, tmp_path / "http.sock")
    yield server
    listener.close()


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Connections:
    return Connections(tmp_path / "http.sock")


async def ask(client: Connections, path: str = "/v1/completions") -> tuple[int, str, bytes]:
    response = await client.post(path, b'{"a": 1}', "x-request-id: 7\r\n")
    return response.status, response.content_type, await response.read()


async def test_a_connection_is_kept_and_the_request_goes_out_whole(
    server: Server, client: Connections
) -> None:
    server.says = [OK, OK, OK]
    assert await ask(client) == (200, "application/json", b"{}")
    assert await ask(client) == (200, "application/json", b"{}")
    assert (await (await client.get("/health")).read()) == b"{}"
    assert [number for number, _ in server.requests] == [1, 1, 1]
    assert server.requests[0][1] == (
        b"POST /v1/completions HTTP/1.1\r\nhost: backend\r\ncontent-type: application/json\r\n"
        b'content-length: 8\r\nx-request-id: 7\r\n\r\n{"a": 1}'
    )
    assert server.requests[2][1] == b"GET /health HTTP/1.1\r\nhost: backend\r\n\r\n"


async def test_two_requests_at_once_have_two_connections(server: Server, client: Connections) -> None:
    server.says = [OK, OK]
    assert [status for status, *_ in await asyncio.gather(ask(client), ask(client))] == [200, 200]
    assert server.connections == 2


async def test_a_stream_is_read_as_it_comes(server: Server, client: Connections) -> None:
    async def say(writer: asyncio.StreamWriter) -> None:
        for part in (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", CHUNKED[10:], b"3\r\nab", b"c\r\n"):
            writer.write(part)
            await asyncio.sleep(0)
        await more.wait()
        writer.write(b"2\r\nde\r\n0\r\n\r\n")

    more = asyncio.Event()
    server.says = [say, OK]
    response = await client.post("/v1/completions")
    assert (response.status, response.content_type) == (200, "text/event-stream")
    got = b""
    while len(got) < 3:
        got += await response.read_some()
    assert got == b"abc"
    assert not response.complete
    more.set()
    assert await response.read_some() == b"de"
    assert await response.read_some() == b""
    assert await ask(client) == (200, "application/json", b"{}")
    assert server.connections == 1


@pytest.mark.parametrize(
    "cut",
    [b"", CHUNKED[:30], CHUNKED + b"3\r\nab", OK[:-1], b"SSH-2.0\r\n\r\n", OK[:17] + b"x: y\r\n" * 20_000],
)
async def test_an_answer_that_is_cut_or_none_is_lost(server: Server, client: Connections, cut: bytes) -> None:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(cut)
        if len(cut) < 1000:
            writer.close()
        else:
            # a head without an end is given up, not waited for
            await server.reader.read()

    server.says = [say, OK]
    with pytest.raises(LostError):
        await asyncio.wait_for(ask(client), 20)
    # and it spoils no other
    assert await ask(client) == (200, "application/json", b"{}")
    assert server.connections == 2


async def test_a_request_that_nobody_took_is_told_from_one_that_was_lost(tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        await Connections(tmp_path / "http.sock").get("/health")
    (tmp_path / "http.sock").touch()
    with pytest.raises(RefusedError):
        await Connections(tmp_path / "http.sock").get("/health")


async def test_who_leaves_takes_the_connection_along(server: Server, client: Connections) -> None:
    async def say(writer: asyncio.StreamWriter) -> None:
        asked.set()
        writer.write(begin)
        await server.reader.read()

    for begin in (b"", CHUNKED + b"1\r\na\r\n"):
        asked = asyncio.Event()
        server.says = [say]
        task = asyncio.ensure_future(ask(client))
        await asked.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if not begin:
            await asyncio.wait_for(server.ended.acquire(), 20)
    # the one whose head was there is closed by its owner
    server.says = [CHUNKED]
    (await client.post("/v1/completions")).close()
    server.says = [OK]
    await ask(client)
    assert len({number for number, _ in server.requests}) == len(server.requests)


async def test_a_connection_that_was_idle_for_long_or_is_closed_is_not_used(
    server: Server, client: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.says = [OK, OK, OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), OK]
    await ask(client)
    monkeypatch.setattr(backend_client, "_KEEPALIVE_SECONDS", 0.0)
    await ask(client)
    assert server.connections == 2
    await server.ended.acquire()
    monkeypatch.undo()
    await ask(client)
    await ask(client)
    assert [number for number, _ in server.requests] == [1, 2, 2, 3]


async def test_an_answer_that_nobody_reads_stops_at_a_bound(server: Server, client: Connections) -> None:
    size = 64 * 1024 * 1024
    sent = 0

    async def say(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(bytes(1024 * 1024))
            sent += 1024 * 1024
            await writer.drain()

    server.says = [say]
    response = await client.get("/mock")
    last = -1
    while sent != last:
        last = sent
        for _ in range(100):
            await asyncio.sleep(0)
    assert sent < size / 4
    assert len(await response.read()) == size


async def test_who_leaves_as_its_answer_comes_does_not_cut_the_next_request_on_its_connection(
    server: Server, client: Connections
) -> None:
    server.says = [OK, OK]
    leaving = asyncio.create_task(ask(client))
    connection = client.keep

    def keep(kept: backend_client._Connection) -> None:
        # the answer is there, and its task has yet to see it
        connection(kept)
        leaving.cancel()

    client.keep = keep  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await leaving
    client.keep = connection  # type: ignore[method-assign]
    assert await ask(client) == (200, "application/json", b"{}")
    assert [number for number, _ in server.requests] == [1, 1]
