"""Single-key mode: on TCP the backend itself asks for the one key, and is what OpenAI's SDK expects."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import anthropic
import httpx
import httpx2
import openai
import pytest

KEY = "sk-llm-one-key-for-all"
HELLO = [{"role": "user", "content": "Say hello"}]
CHAT = {"model": "current", "messages": HELLO, "max_tokens": 4}


@pytest.fixture(scope="module")
def backend(start_shared, tmp_path_factory):
    credentials = tmp_path_factory.mktemp("credentials")
    (credentials / "api-key").write_text(f"{KEY}\n")
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
    ):
        backend = start_shared(
            "MODEL={models}/smollm2.gguf\nN_THREADS=1\nN_CTX=512\n",
            env={"CREDENTIALS_DIRECTORY": str(credentials)},
            sockets=[four, six],
        )
        backend.urls = [
            f"http://127.0.0.1:{four.getsockname()[1]}",
            f"http://[::1]:{six.getsockname()[1]}",
        ]
        backend.wait_for("READY=1")
        yield backend


@pytest.fixture(params=[0, 1], ids=["IPv4", "IPv6"])
def url(backend, request):
    return backend.urls[request.param]


@contextlib.contextmanager
def sdk(url: str, key: str) -> Iterator[openai.OpenAI]:
    with httpx.Client(trust_env=False, verify=False, timeout=60) as http:
        yield openai.OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0, http_client=http)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic x"}, {"authorization": f"Bearer {KEY}x"}])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("POST", "/cancel/x"), ("GET", "/")],
)
def test_without_the_key_there_is_nothing(url, method, path, headers):
    got = httpx.request(
        method, url + path, headers=headers, json=CHAT, trust_env=False, verify=False, timeout=60
    )
    assert (got.status_code, got.json()["error"]["code"]) == (401, "invalid_api_key")
    assert KEY not in got.text


def test_who_asks_without_the_key_learns_that_it_is_ready_and_no_more(url):
    for path in ("/ready", "/health"):
        got = httpx.get(url + path, trust_env=False, verify=False, timeout=60)
        assert (got.status_code, got.json()) == (200, {"status": "ok"})


def test_the_key_opens_it_for_the_sdk(url):
    with sdk(url, KEY) as client:
        answer = client.chat.completions.create(**CHAT)
        assert answer.choices[0].message.content and answer.usage.completion_tokens <= 4
        (model,) = client.models.list()
        assert model.id == answer.model == client.models.retrieve("current").id
        assert "chat" in model.to_dict()["capabilities"]
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other")
    with sdk(url, "sk-llm-other") as client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(**CHAT)


def test_the_usage_comes_in_a_stream_only_where_it_was_asked_for(url):
    options = {"stream_options": {"include_usage": True}, "temperature": 0}
    with sdk(url, KEY) as client:
        plain = list(client.chat.completions.create(**CHAT, stream=True))
        *rest, last = client.chat.completions.create(**CHAT, stream=True, **options)
    assert all(chunk.choices for chunk in plain) and not any(chunk.usage for chunk in plain)
    assert all(chunk.choices for chunk in rest)
    assert not last.choices and last.usage.completion_tokens == 4


def test_anthropics_sdk_shows_its_key_in_its_own_way(url):
    def client(key):
        http = httpx2.Client(trust_env=False, verify=False)
        return anthropic.Anthropic(api_key=key, base_url=url, max_retries=0, http_client=http)

    with client(KEY) as ours:
        assert ours.messages.create(**CHAT).content
        with ours.messages.stream(**CHAT) as stream:
            assert stream.get_final_message().usage.output_tokens <= 4
        assert ours.messages.count_tokens(model="current", messages=CHAT["messages"]).input_tokens > 4
        (model,) = ours.models.list()
        assert model.display_name == model.id
    with client(f"{KEY}x") as wrong, pytest.raises(anthropic.AuthenticationError) as refused:
        wrong.messages.create(**CHAT)
    assert refused.value.body["error"]["type"] == "authentication_error"
    # in OpenAI's API a key has one place
    answer = httpx.post(
        f"{url}/v1/chat/completions",
        headers={"x-api-key": KEY},
        json=CHAT,
        trust_env=False,
        verify=False,
        timeout=60,
    )
    assert answer.status_code == 401


def test_what_is_only_for_the_machine_itself_is_not_there(url):
    headers = {"authorization": f"Bearer {KEY}"}
    hurried = {**headers, "x-request-id": "mine"}
    with httpx.stream(
        "POST",
        f"{url}/v1/chat/completions",
        headers=hurried,
        # it does not end by itself
        json={**CHAT, "max_tokens": 60, "stream": True, "logit_bias": {"2": -100, "0": -100}},
        trust_env=False,
        verify=False,
        timeout=60,
    ) as running:
        lines = running.iter_lines()
        next(lines)
        for command in ("cancel", "finish"):
            for path in (f"/{command}/mine", f"/{command}/", f"/{command}"):
                got = httpx.post(url + path, headers=headers, trust_env=False, verify=False, timeout=60)
                assert (got.status_code, got.json()["error"]["code"]) == (404, "not_found")
        # nobody has ended it
        assert len([line for line in lines if '"content":' in line]) > 20
    for path in ("/docs", "/openapi.json", "/v1/engines", "/props", "/slots", "/metrics"):
        assert (
            httpx.get(url + path, headers=headers, trust_env=False, verify=False, timeout=60).status_code
            == 404
        )


def test_anthropics_paths_name_the_request_in_the_header_that_its_sdk_reads(url):
    headers = {"x-api-key": KEY}
    for path, body in (
        ("/v1/messages", CHAT),
        ("/v1/messages", {**CHAT, "stream": True}),
        ("/v1/messages", {}),
        ("/v1/messages/count_tokens", CHAT),
    ):
        got = httpx.post(url + path, headers=headers, json=body, trust_env=False, verify=False, timeout=60)
        assert got.headers["request-id"] == got.headers["x-request-id"], got.text
        if got.status_code == 400:
            assert got.json()["request_id"] == got.headers["request-id"]
    refused = httpx.post(f"{url}/v1/messages", json=CHAT, trust_env=False, verify=False, timeout=60)
    assert refused.status_code == 401
    assert refused.json()["request_id"] == refused.headers["request-id"]
    other = httpx.post(
        f"{url}/v1/chat/completions",
        headers={"authorization": f"Bearer {KEY}"},
        json=CHAT,
        trust_env=False,
        verify=False,
        timeout=60,
    )
    assert "request-id" not in other.headers


def test_the_unix_socket_needs_no_key(backend):
    assert backend.client.get("/health").json()["model"] == "m"
    assert backend.chat().status_code == 200


def test_without_a_key_in_the_credentials_it_does_not_start(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        backend = start(
            "MODEL={models}/smollm2.gguf\n",
            env={"CREDENTIALS_DIRECTORY": str(tmp_path)},
            sockets=[listener],
        )
        assert backend.finish() == 78
    (line,) = [line for line in backend.output.splitlines() if line]
    assert "/etc/llmsvc/credentials/api-key: holds no key" in json.dumps(line)
