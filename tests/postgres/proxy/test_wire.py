"""What is no clean HTTP is refused and the connection closed; what is, is answered in order."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.postgres.proxy import wire
from tests.postgres.proxy.conftest import wait_for

CHAT = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
CHUNKED = CHAT + "Transfer-Encoding: chunked\r\n"
SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
MALFORMED = {
    "two lengths": CHAT + "Content-Length: 0\r\nContent-Length: 4\r\n\r\n",
    "the same length twice": CHAT + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": CHAT + "Content-Length: 0, 0\r\n\r\n",
    "a signed length": CHAT + "Content-Length: +0\r\n\r\n",
    "a negative length": CHAT + "Content-Length: -1\r\n\r\n",
    "a hexadecimal length": CHAT + "Content-Length: 0x0\r\n\r\n",
    "an empty length": CHAT + "Content-Length:\r\n\r\n",
    "a length beyond 64 bits": CHAT + "Content-Length: 99999999999999999999\r\n\r\n",
    "length and chunked": CHAT + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": CHUNKED + "Content-Length: 5\r\n\r\n0\r\n\r\n",
    "chunked twice": CHUNKED + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": CHAT + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "another last coding": CHAT + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "identity": CHAT + "Transfer-Encoding: identity\r\n\r\n",
    "nearly chunked": CHAT + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked with a vertical tab": CHAT + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": CHUNKED.replace("1.1", "1.0") + "\r\n0\r\n\r\n",
    "a folded header": CHAT + "A: b\r\n c\r\n\r\n",
    "a space before the colon": CHAT + "Content-Length : 0\r\n\r\n",
    "no colon": CHAT + "Content-Length\r\n\r\n",
    "no name": CHAT + ": b\r\n\r\n",
    "NUL in a value": CHAT + "A: b\0c\r\n\r\n",
    "NUL in a name": CHAT + "A\0: b\r\n\r\n",
    "a control character": CHAT + "A: b\x01\r\n\r\n",
    "a bare CR": CHAT + "A: b\rContent-Length: 4\r\n\r\n",
    "a bare LF": CHAT + "A: b\nContent-Length: 4\r\n\r\n",
    "LF for CRLF": CHAT.replace("\r\n", "\n") + "\n",
    "no Host": "GET /health HTTP/1.1\r\n\r\n",
    "two Hosts": "GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a chunk size with 0x": CHUNKED + "\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + "\r\n-2\r\n{}\r\n0\r\n\r\n",
    "a space after a chunk size": CHUNKED + "\r\n2 \r\n{}\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": CHUNKED + "\r\n10000000000000002\r\n{}\r\n0\r\n\r\n",
    "LF after a chunk size": CHUNKED + "\r\n2\n{}\r\n0\r\n\r\n",
    "a chunk that is longer": CHUNKED + "\r\n2\r\n{}}\r\n0\r\n\r\n",
    "LF in a chunk extension": CHUNKED + "\r\n2;a\n{}\r\n0\r\n\r\n",
    "a method in small letters": "get /health HTTP/1.1\r\nHost: a\r\n\r\n",
    "no version": "GET /health\r\n\r\n",
    "a path that is not ASCII": "GET /h\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}
OTHER_REFUSALS = {
    505: ["GET /health HTTP/2.0\r\nHost: a\r\n\r\n"],
    417: [CHAT + "Content-Length: 4\r\nExpect: a-miracle\r\n\r\n"],
    414: ["GET /" + "a" * 9000 + " HTTP/1.1\r\nHost: a\r\n\r\n", "GET /" + "a" * 200000],
    431: [
        "GET /health HTTP/1.1\r\nHost: a\r\n" + "A: b\r\n" * 101 + "\r\n",
        "GET /health HTTP/1.1\r\nHost: a\r\nA: " + "b" * 70000 + "\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: a\r\nA: " + "b" * 400000,
        "GET /health HTTP/1.1\r\nHost: a\r\n" + "b" * 400000,
        "\r\n" * 200000,
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_is_400_and_closed_and_nothing_behind_it_is_read(stack: Any, what: str) -> None:
    (answer,) = wire.exchange(stack, (MALFORMED[what] + SMUGGLED).encode("latin-1"))
    assert answer.status in ((400, 505) if what == "no version" else (400,))
    assert answer.headers["connection"] == "close"
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("status", "data"), [(status, data) for status, several in OTHER_REFUSALS.items() for data in several]
)
def test_too_much_or_too_new_is_refused_and_closed(stack: Any, status: int, data: str) -> None:
    (answer,) = wire.exchange(stack, data.encode("latin-1"))
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert answer.error["message"]


@pytest.mark.parametrize(
    "data",
    [
        "1;" + "a" * 400000,
        f"1;{'a' * 1000}\r\nb\r\n" * 400,
        "1\r\nb\r\n0\r\n" + "A: b\r\n" * 100000,
    ],
)
def test_body_with_next_to_nothing_in_its_bytes_is_refused(stack: Any, data: str) -> None:
    head = f"{CHUNKED}Authorization: Bearer {stack.add_key()}\r\n\r\n"
    (answer,) = wire.exchange(stack, (head + data).encode())
    assert (answer.status, answer.headers["connection"]) == (431, "close")


def test_refusal_reaches_a_client_that_sends_on_and_on(stack: Any) -> None:
    with wire.connect(stack) as connection:
        connection.sendall(wire.request("/health", "A: " + "b" * 100000, close=False))
        for _ in range(64):
            connection.sendall(b"c" * 65536)
        connection.shutdown(socket.SHUT_WR)
        (answer,) = wire.answers(wire.read_all(connection))
    assert answer.status == 431


def test_pipelined_requests_are_answered_in_order(stack: Any) -> None:
    key = stack.add_key()
    slow = wire.chat(key, close=False, stream=True, mock={"delay": 0.05, "tokens": 3})
    data = slow + b"".join(
        wire.request(f"/v1/models/{number}", f"Authorization: Bearer {key}", close=number == 39)
        for number in range(40)
    )
    first, *others = wire.exchange(stack, data)
    assert first.body.endswith(b"data: [DONE]\n\n")
    assert [f"'{number}'" in other.error["message"] for number, other in enumerate(others)] == [True] * 40


def test_what_is_malformed_behind_a_good_request_does_not_touch_its_answer(stack: Any) -> None:
    key = stack.add_key()
    slow = wire.chat(key, close=False, mock={"delay": 0.1, "tokens": 3})
    first, second = wire.exchange(stack, slow + MALFORMED["two lengths"].encode() + SMUGGLED.encode())
    assert (first.status, second.status) == (200, 400)
    assert b"word2" in first.body


def test_a_body_that_breaks_is_400_and_its_row_says_so(stack: Any) -> None:
    key = stack.add_key("broken-body")
    # it says 100 once it looks at the request: one that breaks before is none, and has no row
    head = f"{CHUNKED}Authorization: Bearer {key}\r\nExpect: 100-continue\r\n\r\n"
    with wire.connect(stack) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"2\r\n{}}}\r\n0\r\n\r\n")
        (answer,) = wire.answers(wire.read_all(connection))
    assert answer.status == 400
    [row] = stack.rows("broken-body", 1)
    assert row["state"] == "client_gone"


@pytest.mark.parametrize("size", [10, 200_000, 3_000_000])
def test_body_of_a_request_without_valid_key_is_dropped_and_the_next_one_answered(
    stack: Any, size: int
) -> None:
    data = wire.request("/v1/chat/completions", method="POST", body=b"G" * size, close=False)
    first, second = wire.exchange(stack, data + wire.request())
    assert (first.status, second.status) == (401, 200)


def test_chunked_bodies_trailers_and_extensions_are_understood(stack: Any) -> None:
    key = stack.add_key()
    body = json.dumps({"messages": [], "mock": {"tokens": 1}})
    data = f"{CHUNKED}Authorization: Bearer {key}\r\n\r\n"
    for letter in body:
        data += f"1;a=b\r\n{letter}\r\n"
    data += "0\r\nAuthorization: Bearer x\r\n\r\n"
    first, second = wire.exchange(stack, data.encode() + wire.request())
    assert (first.status, second.status) == (200, 200)


def test_trailers_are_no_headers(stack: Any) -> None:
    key = stack.add_key()
    # the first one keeps the second waiting, so that its trailers come before it is looked at
    slow = wire.chat(key, close=False, mock={"delay": 0.1, "tokens": 2})
    sneaky = f"{CHUNKED}\r\n2\r\n{{}}\r\n0\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    _, second, _ = wire.exchange(stack, slow + sneaky + wire.request())
    assert second.status == 401


def test_an_upgrade_is_ignored_and_its_body_is_the_body(stack: Any) -> None:
    # as Java's HttpClient asks for HTTP/2
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAA")
    data = wire.chat(stack.add_key(), *upgrade, close=False, mock={"tokens": 2})
    head, _, body = data.partition(b"\r\n\r\n")
    with wire.connect(stack) as connection:
        connection.sendall(head + b"\r\n\r\n")
        connection.sendall(body[:5])
        connection.sendall(body[5:] + wire.request())
        first, second = wire.answers(wire.read_all(connection))
    assert b"word1" in first.body
    assert second.status == 200


def test_expect_continue_is_told_to_go_on_only_with_a_key(stack: Any) -> None:
    data = wire.chat(stack.add_key(), "Expect: 100-continue")
    head, _, body = data.partition(b"\r\n\r\n")
    with wire.connect(stack) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        (answer,) = wire.answers(wire.read_all(connection))
    assert answer.status == 200
    head = wire.request(
        "/v1/chat/completions", "Expect: 100-continue", "Content-Length: 5", method="POST", close=False
    )
    (answer,) = wire.exchange(stack, head)
    assert (answer.status, answer.headers["connection"]) == (401, "close")


def test_http_1_0_gets_no_chunks(stack: Any) -> None:
    data = wire.chat(stack.add_key(), stream=True).replace(b"HTTP/1.1", b"HTTP/1.0")
    (answer,) = wire.exchange(stack, data)
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["connection"] == "close"
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_head_is_get_without_body(stack: Any) -> None:
    key = f"Authorization: Bearer {stack.add_key()}"
    for path in ("/health", "/v1/models", "/nothing"):
        (get,) = wire.exchange(stack, wire.request(path, key))
        (head,) = wire.exchange(stack, wire.request(path, key, method="HEAD"), method="HEAD")
        assert (head.status, head.body) == (get.status, b"")
        if path != "/nothing":
            assert head.headers["content-length"] == get.headers["content-length"]
    (answer,) = wire.exchange(stack, wire.request("/v1/completions", method="HEAD"), method="HEAD")
    assert (answer.status, answer.headers["allow"]) == (405, "OPTIONS, POST")


@pytest.mark.parametrize(
    ("path", "status", "allow"),
    [
        ("/v1/chat/completions", 204, "OPTIONS, POST"),
        ("/v1/models", 204, "GET, HEAD, OPTIONS"),
        ("/v1/models/x", 204, "GET, HEAD, OPTIONS"),
        ("*", 204, None),
        ("/nothing", 404, None),
    ],
)
def test_options_tells_the_methods(stack: Any, path: str, status: int, allow: str | None) -> None:
    (answer,) = wire.exchange(stack, wire.request(path, method="OPTIONS"))
    assert (answer.status, answer.headers.get("allow")) == (status, allow)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "DELETE", "PUT"])
def test_other_methods_are_refused(stack: Any, method: str) -> None:
    path = "proxy:443" if method == "CONNECT" else "/health"
    (answer,) = wire.exchange(stack, wire.request(path, method=method))
    assert answer.status in (404, 405)


def test_hop_by_hop_headers_go_nowhere(stack: Any) -> None:
    key = stack.add_key()
    evil = (
        "Connection: close, X-Secret",
        "X-Secret: 1",
        "TE: trailers",
        "Proxy-Authorization: Basic YTpi",
        "Keep-Alive: 5",
    )
    (answer,) = wire.exchange(stack, wire.chat(key, *evil, "Trailer: x", "Cookie: a=b", close=False))
    assert answer.status == 200
    assert set(answer.headers) & {"x-secret", "te", "trailer", "keep-alive", "set-cookie"} == set()
    seen = stack.mock()["headers"]
    assert set(seen) <= {"host", "x-request-id", "content-type", "content-length"}


def test_harmless_request_id_is_kept_beside_ours(stack: Any) -> None:
    key = stack.add_key("named")
    chosen = "client-7f.3_" + "a" * 100
    (answer,) = wire.exchange(stack, wire.chat(key, f"X-Request-Id: {chosen}"))
    assert answer.headers["x-request-id"] == chosen
    [row] = stack.rows("named", 1)
    assert answer.headers["x-llmsvc-request-id"] == str(row["request_id"])
    for harmful in ("a b", "a" * 129, '"', "a%0d%0ab", ""):
        (answer,) = wire.exchange(stack, wire.chat(key, f"X-Request-Id: {harmful}"))
        assert answer.headers["x-request-id"] != harmful
        assert "x-llmsvc-request-id" not in answer.headers
    for path in ("/health", "/v1/models", "/nothing"):
        (answer,) = wire.exchange(stack, wire.request(path, f"X-Request-Id: {chosen}"))
        assert answer.headers["x-request-id"] == chosen


def test_two_requests_of_the_same_id_are_two_rows(stack: Any) -> None:
    key = stack.add_key("same-id")
    ours = "0193a5b0-0000-7000-8000-000000000000"
    for _ in range(2):
        wire.exchange(stack, wire.chat(key, f"X-Request-Id: {ours}"))
    rows = stack.rows("same-id", 2)
    assert ours not in {str(row["request_id"]) for row in rows}


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/chat/completions", "did you mean /v1/chat/completions?"),
        ("/models", "did you mean /v1/models?"),
        ("/v1/v1/models", "did you mean /v1/models?"),
        ("/v1/models/", "did you mean /v1/models?"),
        ("//v1/chat/completions", "did you mean /v1/chat/completions?"),
        ("/v1/responses/resp_1", "Responses API"),
        ("/v1/audio/speech", "text alone"),
        ("/v1/files", "nothing is stored"),
        ("/v1/messages/batches", "there are /v1/messages and its count_tokens"),
        ("/v1/v1/messages", "without /v1"),
        ("/api/chat", "not Ollama's"),
        ("/v1", "base of the API"),
        ("/", "base of the API"),
    ],
)
def test_404_helps(stack: Any, path: str, hint: str) -> None:
    (answer,) = wire.exchange(stack, wire.request(path, method="POST" if "chat" in path else "GET"))
    assert answer.status == 404
    assert hint in answer.error["message"]
    assert "/v1/chat/completions" in answer.error["message"]


def test_log_of_a_wrong_key_holds_no_line_end_of_the_path(stack: Any) -> None:
    path = "/v1/models/a%0aroot%20200"
    (answer,) = wire.exchange(stack, wire.request(path, "Authorization: Bearer nonsense"))
    assert answer.status == 401
    assert "\nroot 200" not in stack.log


def test_gets_have_a_ceiling_of_their_own(stack: Any) -> None:
    key = f"Authorization: Bearer {stack.add_key('reader')}"
    data = b"".join(wire.request("/v1/models", key, close=number == 199) for number in range(200))
    found = wire.exchange(stack, data)
    statuses = [answer.status for answer in found]
    assert set(statuses) == {200, 429}
    assert statuses.index(429) >= 110
    assert found[statuses.index(429)].headers["retry-after"] == "1"
    assert stack.sql("SELECT count(*) FROM llama_requests WHERE username = 'reader'") == [(0,)]


def test_every_upload_of_a_slow_reader_is_his_own(stack: Any) -> None:
    """One that reads nothing of its answers delays nobody else."""
    key = stack.add_key()
    with wire.connect(stack) as deaf:
        deaf.sendall(wire.chat(key, close=False, stream=True, mock={"tokens": 20000}))
        (answer,) = wire.exchange(stack, wire.chat(stack.add_key(), mock={"tokens": 1}))
        assert answer.status == 200


def test_clients_that_reset_at_once_leave_nothing_behind(stack: Any) -> None:
    data = wire.chat(stack.add_key("resets", hidden=True), close=False)
    for number in range(300):
        with wire.connect(stack) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(data * (1 + number % 3))
    wait_for(lambda: stack.status()["running"] == stack.status()["waiting"] == 0)
    assert "Traceback" not in stack.log


@pytest.fixture(scope="module")
def strict(cluster: Any, make_module_stack: Callable[..., Any]) -> Iterator[Any]:
    """A proxy with short times and low ceilings."""
    stack = make_module_stack(
        LLAMA_PROXY_HEADER_SECONDS=1,
        LLAMA_PROXY_BODY_SECONDS=1,
        LLAMA_PROXY_MAX_CONNECTIONS=24,
        LLAMA_PROXY_MAX_CONNECTIONS_PER_ADDRESS=8,
        LLAMA_PROXY_TRUSTED_PROXIES="127.0.0.7 192.0.2.0/24",
    )
    stack.start_backend()
    stack.start_proxy()
    stack.wait_served()
    yield stack


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", None),
        (b"GE", 408),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nA", 408),
        (wire.request(close=False) + b"POST /", 408),
        (CHAT.encode() + b"Content-Length: 9\r\n\r\n{", None),
    ],
)
def test_who_stops_in_the_middle_is_sent_away(strict: Any, data: bytes, status: int | None) -> None:
    found = wire.exchange(strict, data)
    good = [answer.status for answer in found if answer.status not in (200, 401)]
    assert good == ([] if status is None else [status])


def test_body_that_stops_is_408(strict: Any) -> None:
    key = strict.add_key("stops")
    data = wire.chat(key)
    (answer,) = wire.exchange(strict, data[:-3])
    assert answer.status == 408
    [row] = strict.rows("stops", 1)
    assert row["status_code"] == 408


def test_connections_of_one_address_have_a_ceiling_and_others_get_in(strict: Any) -> None:
    def open_one(address: str) -> socket.socket:
        """One that stays open, as it has asked something."""
        connection = socket.create_connection(strict.listener.getsockname(), wire.SECONDS, (address, 0))
        connection.sendall(wire.request(close=False))
        connection.recv(1)
        return connection

    with strict.http(strict.add_key()) as client:
        mine = [open_one("127.0.0.2") for _ in range(8)]
        try:
            (answer,) = wire.exchange(strict, wire.request(), "127.0.0.2")
            assert (answer.status, answer.error["code"]) == (429, "too_many_connections")
            assert client.get("/v1/models").status_code == 200
            # those of a trusted proxy have none of their own, but that of all
            mine += [open_one("127.0.0.7") for _ in range(20)]
            (answer,) = wire.exchange(strict, wire.request(), "127.0.0.3")
            assert (answer.status, answer.error["code"]) == (503, "too_many_connections")
        finally:
            for connection in mine:
                connection.close()
        wait_for(lambda: wire.exchange(strict, wire.request(), "127.0.0.2")[0].status == 200)


def test_address_of_a_client_is_that_which_a_trusted_proxy_tells(strict: Any) -> None:
    key = strict.add_key("forwarded")
    for address, header in [
        ("127.0.0.7", "X-Forwarded-For: 1.2.3.4, 203.0.113.9, 192.0.2.1"),
        ("127.0.0.7", 'Forwarded: for=1.2.3.4, for="[2001:db8::1]:443";proto=https'),
        ("127.0.0.1", "X-Forwarded-For: 203.0.113.9"),
    ]:
        (answer,) = wire.exchange(strict, wire.chat(key, header), address)
        assert answer.status == 200
    rows = strict.rows("forwarded", 3)
    assert [str(row["client_addr"]) for row in rows] == ["203.0.113.9", "2001:db8::1", "127.0.0.1"]


def test_wrong_keys_are_slowed_down_and_a_valid_one_from_there_is_not(stack: Any) -> None:
    wrong = wire.request("/v1/completions", "Authorization: Bearer sk-llm-wrong", method="POST", close=False)
    statuses = []
    with wire.connect(stack, "127.0.0.9") as connection:
        connection.sendall(wrong * 30 + wire.request())
        found = wire.answers(wire.read_all(connection))
    statuses = [answer.status for answer in found]
    assert statuses[:20] == [401] * 20
    assert 429 in statuses
    refused = found[statuses.index(429)]
    assert 1 <= int(refused.headers["retry-after"]) <= 3
    assert refused.error["code"] == "too_many_wrong_keys"
    valid = wire.chat(stack.add_key(), mock={"tokens": 1})
    assert wire.exchange(stack, valid, "127.0.0.9")[0].status == 200
    # without any key there is nothing to slow down, and other addresses are others
    assert wire.exchange(stack, wire.request("/v1/models"), "127.0.0.9")[0].status == 401
    other = wire.request("/v1/models", "Authorization: Bearer sk-llm-wrong")
    assert wire.exchange(stack, other, "127.0.0.10")[0].status == 401
