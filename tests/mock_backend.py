"""A small backend that keeps the backend contract without a model: for tests and the benchmark.

    python tests/mock_backend.py INSTANCES NAME [--tokens 8] [--delay 0.0] [--slots 1] [--drain SECONDS]
                                 [--log FILE]

listens on INSTANCES/NAME/http.sock and creates INSTANCES/NAME/ready. On SIGTERM it ends what runs after the
drain time. FILE gets a line for each request that ended, with its tokens. GET /mock tells what it saw.

A request steers it by an object `mock` in its body: `tokens`, `delay` (seconds before each token), `silent`
(seconds before the first byte), `until` (a file: no byte before it is there), `status` (answer with that
error), `die` (exit after so many tokens, -1: before any byte), `cut` (end a stream after so many tokens as if
it were whole), `linger` (seconds between the [DONE] of a stream and its end).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

HEADERS = {True: b"text/event-stream; charset=utf-8", False: b"application/json"}


MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
COUNTS = (f"{MESSAGES}/count_tokens", f"{RESPONSES}/input_tokens")


class Mock:
    def __init__(self, name: str, tokens: int, delay: float, slots: int) -> None:
        self.name, self.tokens, self.delay, self.slots = name, tokens, delay, slots
        self.free = asyncio.Semaphore(slots)
        self.running: dict[str, asyncio.Task[Any]] = {}
        self.finished: OrderedDict[str, dict[str, int]] = OrderedDict()
        self.stopping = False
        self.finishing: set[str] = set()
        self.log: Path | None = None
        self.seen = {"requests": 0, "peak": 0, "counting_peak": 0, "bodies": [], "headers": []}
        self.counting = 0
        self.cancelled: set[str] = set()
        """Requests that were cancelled, by word or by a closed connection, or both."""
        self.served: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        path = scope["path"]
        if path == "/health":
            await answer(send, 200, self.health())
        elif path == "/mock":
            await answer(send, 200, self.told())
        elif path.startswith("/cancel/"):
            await self.cancel(path.removeprefix("/cancel/"), send)
        elif path.startswith("/finish/"):
            self.finishing.add(path.removeprefix("/finish/"))
            await answer(send, 200, {})
        else:
            body = b""
            more = True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
            await self.model(scope, json.loads(body), receive, send)

    def told(self) -> dict[str, Any]:
        return {
            **self.seen,
            "cancelled": len(self.cancelled),
            "running": sorted(self.running),
            "served": self.served,
        }

    def health(self) -> dict[str, Any]:
        return {
            "status": "ok",
            "model": self.name,
            "model_file": f"{self.name}.gguf",
            "engine": "mock",
            "engine_version": "1",
            "slots": self.slots,
            "n_ctx": 4096,
            "n_ctx_train": 4096,
            "device": "cpu",
            "n_gpu_layers": 0,
            "n_layers": 1,
            "busy_since": None,
            "embedding": False,
            "capabilities": ["chat", "completions"],
        }

    async def cancel(self, request_id: str, send) -> None:
        task = self.running.get(request_id)
        if task is not None:
            self.cancelled.add(request_id)
            task.cancel()
            await asyncio.wait([task])
        usage = self.finished.get(request_id)
        if usage is None:
            await answer(send, 404, error(404, "no such request"))
        else:
            await answer(send, 200, usage)

    async def model(self, scope, body: dict[str, Any], receive, send) -> None:
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"none").decode()
        budget = int(headers.get(b"x-token-budget", b"1000000"))
        self.seen["requests"] += 1
        if not sound(body):
            await answer(send, 400, refusal(scope["path"])(400, "the mock cannot read this"))
            return
        self.seen["headers"] = sorted(name.decode() for name, _ in scope["headers"])
        self.seen["bodies"] = [*self.seen["bodies"][-99:], body]
        work = asyncio.ensure_future(self.generate(request_id, scope["path"], body, send, budget))
        self.running[request_id] = work
        busy = sum(not task.done() for task in self.running.values())
        self.seen["peak"] = max(self.seen["peak"], busy)
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():
                self.cancelled.add(request_id)
                work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            del self.running[request_id]

    def stop(self) -> None:
        """The drain time is over."""
        self.stopping = True
        for task in self.running.values():
            task.cancel()

    async def generate(self, request_id: str, path: str, body: dict[str, Any], send, budget: int) -> None:
        usage = {"prompt_tokens": prompt_tokens(body), "completion_tokens": 0}
        try:
            if path in COUNTS:
                await self.count(body, send, usage)
                return
            async with self.free:
                self.served.append(body.get("user", ""))
                await self._generate(request_id, path, body, send, usage, budget)
        except asyncio.CancelledError:
            if not self.stopping:
                raise
            problem = refusal(path)(503, "the model is being stopped", "model_stopping")
            if body.get("stream") is True and usage["completion_tokens"]:
                total = {**usage, "total_tokens": sum(usage.values())}
                if path == MESSAGES:
                    await typed(send, {**problem, "usage": anthropic_usage(usage)})
                elif path == RESPONSES:
                    told = problem["error"]
                    await typed(send, {"type": "error", "code": told["code"], "error": told})
                    failed = response(self.name, "failed", text_of(usage), usage, error=told)
                    await typed(send, {"type": "response.failed", "response": failed})
                else:
                    await event(send, {"choices": [], "usage": total})
                    await event(send, problem)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await answer(send, 503, problem)
        finally:
            self.finished[request_id] = usage
            if self.log:
                with self.log.open("a") as lines:
                    lines.write(json.dumps({"id": request_id, **usage}) + "\n")
            while len(self.finished) > 100:
                self.finished.popitem(last=False)

    async def count(self, body: dict[str, Any], send, usage: dict[str, int]) -> None:
        """Beside whatever is generated."""
        self.counting += 1
        self.seen["counting_peak"] = max(self.seen["counting_peak"], self.counting)
        try:
            await asyncio.sleep(body.get("mock", {}).get("silent", 0))
            await answer(send, 200, {"input_tokens": usage["prompt_tokens"]})
        finally:
            self.counting -= 1

    async def _generate(
        self, request_id: str, path: str, body: dict[str, Any], send, usage: dict[str, int], budget: int
    ) -> None:
        steer = body.get("mock", {})
        if path == "/v1/rerank":
            # a reranker reads the query with each document
            texts = [str(document) for document in body.get("documents") or []]
            usage["prompt_tokens"] = sum(len(f"{body.get('query')} {text}".split()) for text in texts)
        if usage["prompt_tokens"] > budget or (usage["prompt_tokens"] == budget and path != "/v1/rerank"):
            total = {**usage, "total_tokens": usage["prompt_tokens"]}
            refused = refusal(path)(429, "the prompt is larger than the budget", "token_budget_exceeded")
            told = anthropic_usage(usage) if path.startswith(MESSAGES) else total
            await answer(send, 429, {**refused, "usage": told})
            return
        if "status" in steer:
            await answer(send, steer["status"], refusal(path)(steer["status"], "the mock was told to fail"))
            return
        if steer.get("die") == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(steer.get("silent", 0))
        while "until" in steer and not Path(steer["until"]).exists():
            await asyncio.sleep(0.01)
        most = body.get("max_output_tokens" if path == RESPONSES else "max_tokens") or 10**9
        count = min(steer.get("tokens", self.tokens), most)
        count = min(count, budget - usage["prompt_tokens"])
        reason = "stop"
        delay = steer.get("delay", self.delay)
        stream = body.get("stream") is True
        kind = "chat.completion" if path.startswith("/v1/chat") else "text_completion"
        base = {"id": "mock", "created": 1, "model": body.get("model")}
        text = ""
        for number in range(count):
            if delay:
                await asyncio.sleep(delay)
            if request_id in self.finishing:
                reason = "length"
                break
            if steer.get("cut") == number:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            if steer.get("die") == number:
                os.kill(os.getpid(), signal.SIGKILL)
            if stream and number == 0:
                await start(send, 200, stream=True)
                if path == MESSAGES:
                    await typed(send, {"type": "message_start", "message": message(self.name, "", usage)})
                    await typed(send, {"type": "content_block_start", "index": 0, "content_block": TEXT})
                if path == RESPONSES:
                    begun = response(self.name, "in_progress", None, usage)
                    await typed(send, {"type": "response.created", "response": begun})
            usage["completion_tokens"] += 1
            text += f"word{number} "
            if stream and path == MESSAGES:
                delta = {"type": "text_delta", "text": f"word{number} "}
                await typed(send, {"type": "content_block_delta", "index": 0, "delta": delta})
            elif stream and path == RESPONSES:
                at = {"output_index": 0, "content_index": 0, "item_id": "msg_mock", "logprobs": []}
                await typed(send, {"type": "response.output_text.delta", **at, "delta": f"word{number} "})
            elif stream:
                choice = {"index": 0, "delta": {"content": f"word{number} "}, "finish_reason": None}
                await event(send, {**base, "object": kind + ".chunk", "choices": [choice]})
        total = {**usage, "total_tokens": sum(usage.values())}
        if path == "/v1/rerank":
            found = [{"index": at, "relevance_score": -at} for at, _ in enumerate(texts)]
            total = {"prompt_tokens": usage["prompt_tokens"], "total_tokens": usage["prompt_tokens"]}
            usage["completion_tokens"] = 0
            await answer(send, 200, {"object": "list", "model": self.name, "results": found, "usage": total})
        elif path == RESPONSES:
            status = "completed" if reason == "stop" else "incomplete"
            made = response(self.name, status, text, usage)
            if not stream:
                await answer(send, 200, made)
                return
            await typed(send, {"type": f"response.{status}", "response": made})
            await asyncio.sleep(steer.get("linger", 0))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif path == MESSAGES:
            stop = {"stop_reason": "end_turn" if reason == "stop" else "max_tokens", "stop_sequence": None}
            if not stream:
                await answer(
                    send, 200, {**message(self.name, text, usage), **stop, "usage": anthropic_usage(usage)}
                )
                return
            await typed(send, {"type": "content_block_stop", "index": 0})
            await typed(send, {"type": "message_delta", "delta": stop, "usage": anthropic_usage(usage)})
            await typed(send, {"type": "message_stop"})
            await asyncio.sleep(steer.get("linger", 0))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif stream:
            if not count:
                await start(send, 200, stream=True)
            choice = {"index": 0, "delta": {}, "finish_reason": reason}
            await event(send, {**base, "object": kind + ".chunk", "choices": [choice]})
            await event(send, {**base, "object": kind + ".chunk", "choices": [], "usage": total})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
            await asyncio.sleep(steer.get("linger", 0))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif path == "/v1/embeddings":
            data = [{"object": "embedding", "index": 0, "embedding": [0.5] * 8}]
            total = {"prompt_tokens": usage["prompt_tokens"], "total_tokens": usage["prompt_tokens"]}
            usage["completion_tokens"] = 0
            await answer(send, 200, {"object": "list", "data": data, "model": self.name, "usage": total})
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "text": text}
            choices = [{**choice, "finish_reason": reason}]
            await answer(send, 200, {**base, "object": kind, "choices": choices, "usage": total})


def sound(body: dict[str, Any]) -> bool:
    """Whether it has the types that we read, as a real backend finds out with care."""
    messages, most = body.get("messages", []), body.get("max_tokens", body.get("max_output_tokens"))
    known = (
        isinstance(body.get("documents") or [], list)
        and isinstance(messages, list)
        and all(isinstance(message, dict) for message in messages)
    )
    return known and (most is None or type(most) is int) and isinstance(body.get("mock", {}), dict)


def prompt_tokens(body: dict[str, Any]) -> int:
    texts = [str(m.get("content")) for m in body.get("messages", [])]
    texts += [str(body.get(name)) for name in ("prompt", "input") if body.get(name)]
    return sum(len(text.split()) for text in texts)


async def disconnected(receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def start(send, status: int, stream: bool) -> None:
    headers = [(b"content-type", HEADERS[stream])]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def event(send, chunk: dict[str, Any]) -> None:
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def typed(send, told: dict[str, Any]) -> None:
    """An event of Anthropic's."""
    data = f"event: {told['type']}\ndata: {json.dumps(told)}\n\n".encode()
    await send({"type": "http.response.body", "body": data, "more_body": True})


TEXT = {"type": "text", "text": ""}


def message(model: str, text: str, usage: dict[str, int]) -> dict[str, Any]:
    content = [{"type": "text", "text": text}] if text else []
    told = {"id": "msg_mock", "type": "message", "role": "assistant", "model": model, "content": content}
    return {**told, "stop_reason": None, "stop_sequence": None, "usage": anthropic_usage(usage)}


def text_of(usage: dict[str, int]) -> str:
    return "".join(f"word{number} " for number in range(usage["completion_tokens"]))


def response(model: str, status: str, text: str | None, usage: dict[str, int], **more: Any) -> dict[str, Any]:
    """A response object of OpenAI's; without a text it has only begun."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = {"id": "msg_mock", "type": "message", "role": "assistant", "status": status, "content": [part]}
    told = {"id": "resp_mock", "object": "response", "created_at": 1, "model": model, "status": status}
    told |= {"output": [] if text is None else [item], "tools": [], "tool_choice": "auto"}
    used = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    used = {**used, **details, "total_tokens": sum(usage.values())}
    return {**told, "parallel_tool_calls": True, **more, "usage": None if text is None else used}


def anthropic_usage(usage: dict[str, int]) -> dict[str, int]:
    return {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}


def anthropic_error(status: int, said: str, code: str | None = None) -> dict[str, Any]:
    told = {"type": "mock", "message": said, "details": {"error_code": code or str(status)}}
    return {"type": "error", "error": told, "request_id": "mock"}


async def answer(send, status: int, body: dict[str, Any]) -> None:
    await start(send, status, stream=False)
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


def error(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "mock", "param": None, "code": code or str(status)}}


def refusal(path: str) -> Callable[..., dict[str, Any]]:
    return anthropic_error if path.startswith(MESSAGES) else error


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("instances", type=Path)
    parser.add_argument("name")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--drain", type=float, default=30.0)
    parser.add_argument("--log", type=Path)
    args = parser.parse_args()
    directory = args.instances / args.name
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "http.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    app = Mock(args.name, args.tokens, args.delay, args.slots)
    app.log = args.log
    ready = directory / "ready"

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets)
            ready.touch()

        async def shutdown(self, sockets=None) -> None:
            asyncio.get_running_loop().call_later(args.drain, app.stop)
            await super().shutdown(sockets)

    config = uvicorn.Config(app, loop="uvloop", http="httptools", lifespan="off", log_level="critical")
    try:
        Server(config).run(sockets=[listener])
    finally:
        ready.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
