"""An OpenAI-compatible server over an exported model: /v1/chat/completions, /v1/models, adapters as model names.

Over `export`: `labkit serve FOLDER` runs it, and `running` gives one inside a notebook or a test.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from labkit.errors import LabError
from labkit.export import OnnxModel

if TYPE_CHECKING:
    from fastapi import FastAPI

BASE = "base"
HOST, PORT = "127.0.0.1", 8000
LOOK = 0.25  # seconds between two looks at whether a client that waits is still there
AFTER = 1  # seconds after which a client that was sent away may come again


@dataclass(frozen=True)
class Limits:
    """What one server takes: bytes of a request, tokens of an answer, requests that run and that wait.

    One that comes when `running` and `waiting` are full is told to come back (429).
    """

    body: int = 256_000
    tokens: int = 512
    running: int = 2
    waiting: int = 16


@dataclass
class State:
    """What the server is doing, for /health; only touched from the event loop, but for `stop`."""

    taken: int = 0
    running: int = 0
    done: int = 0
    refused: int = 0
    hung_up: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


class Refused(Exception):
    """An answer that is an error, in the form that OpenAI's clients read."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def app(model: OnnxModel, limits: Limits = Limits()) -> FastAPI:  # noqa: B008  (frozen)
    """The web application.

    Args:
        model: its adapters become model names; without one the name is "base".
        limits: see `Limits`.
    """
    try:
        from fastapi import FastAPI, Request
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import JSONResponse, StreamingResponse
    except ImportError as error:
        raise LabError("FastAPI is not installed", where="serving",
                       todo="Run `pip install -c constraints.txt -e '.[serving]'` in the course's folder") from error

    state, names, started = State(), [BASE, *model.adapters], int(time.time())
    pool = ThreadPoolExecutor(limits.running, thread_name_prefix="answer")

    @asynccontextmanager
    async def life(_) -> AsyncIterator[None]:
        yield
        state.stop.set()  # answers that are being written end at their next token
        pool.shutdown(wait=True)

    class Stream(StreamingResponse):
        """A client may be gone before the first piece is asked for: its place is given free all the same."""

        def __init__(self, writing: _Writing, events: AsyncIterator[str]):
            super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
            self.writing = writing

        async def __call__(self, scope, receive, send) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                self.writing.hang_up()
                self.writing.close()

    web = FastAPI(title="labkit", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    web.add_middleware(_BodyLimit, most=limits.body)

    @web.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        headers = {"Retry-After": str(AFTER)} if error.status == 429 else {}
        return JSONResponse(_error(str(error), error.code, error.param), error.status, headers)

    @web.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        message = f"{where}: not supported here" if first["type"] == "extra_forbidden" else f"{where}: {first['msg']}"
        return JSONResponse(_error(message, "invalid_request", where or None), 400)

    @web.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "running": state.running, "waiting": state.taken - state.running, "done": state.done,
                "refused": state.refused, "hung_up": state.hung_up}

    @web.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": started, "owned_by": "labkit"}
                                           for name in names]}

    async def chat(body, request: Request):
        ask = _asked(body, model, names, limits)
        if state.taken >= limits.running + limits.waiting:
            state.refused += 1
            raise Refused(429, f"{state.taken} requests are being answered or wait; come back in a moment",
                          "rate_limit_exceeded")
        state.taken += 1
        pieces = _Writing(model, ask, pool, state)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
        if body.stream:
            usage = bool(body.stream_options and body.stream_options.include_usage)
            return Stream(pieces, _events(pieces, head, usage))
        return await _whole(pieces, head, request)

    chat.__annotations__ |= {"body": _body_form(), "request": Request}  # FastAPI reads them; names here are local
    web.post("/v1/chat/completions")(chat)
    return web


def _body_form():
    """The request as OpenAI's clients send it; what this server cannot do is refused, not passed over."""
    from pydantic import BaseModel, ConfigDict, Field

    class Text(BaseModel):
        type: Literal["text"]
        text: str

    class Turn(BaseModel):
        role: Literal["system", "user", "assistant"]
        content: str | list[Text]

    class StreamOptions(BaseModel):
        include_usage: bool = False

    class Body(BaseModel):
        model_config = ConfigDict(extra="forbid")
        model: str
        messages: list[Turn] = Field(min_length=1)
        max_tokens: int | None = Field(None, ge=1)
        max_completion_tokens: int | None = Field(None, ge=1)
        temperature: float = Field(0.0, ge=0, le=2)
        top_p: float = Field(1.0, gt=0, le=1)
        seed: int | None = None
        stop: str | list[str] | None = None
        stream: bool = False
        stream_options: StreamOptions | None = None
        n: Literal[1] = 1
        user: str | None = None

    return Body


@dataclass(frozen=True)
class _Ask:
    turns: list[dict[str, str]]
    adapter: str | None
    tokens: int
    options: dict[str, Any]
    stops: list[str]
    prompt_tokens: int


def _asked(body, model: OnnxModel, names: list[str], limits: Limits) -> _Ask:
    """What is asked, checked before anything runs.

    Raises:
        Refused: an unknown model, too many tokens, or a prompt that is empty or too long.
    """
    if body.model not in names:
        raise Refused(404, f"there is no model {body.model!r}; there are {', '.join(names)}", "model_not_found",
                      "model")
    tokens = body.max_completion_tokens or body.max_tokens or limits.tokens
    if tokens > limits.tokens:
        raise Refused(400, f"{tokens} tokens are asked for, and {limits.tokens} are the most", "invalid_request",
                      "max_tokens")
    turns = [{"role": turn.role, "content": turn.content if isinstance(turn.content, str)
              else "".join(part.text for part in turn.content)} for turn in body.messages]
    try:
        ids = model.prompt_ids(turns)
    except LabError as error:
        code = "context_length_exceeded" if "tokens" in error.what else "invalid_request"
        raise Refused(400, str(error), code, "messages") from None
    stops = [body.stop] if isinstance(body.stop, str) else list(body.stop or [])
    return _Ask(turns, None if body.model == BASE else body.model, tokens,
                {"temperature": body.temperature, "top_p": body.top_p, "seed": body.seed},
                [stop for stop in stops if stop], len(ids))


class _Writing:
    """One answer being written in a thread of the pool; `async for` gives its pieces as (text, end)."""

    def __init__(self, model: OnnxModel, ask: _Ask, pool: ThreadPoolExecutor, state: State):
        self.ask, self.tokens = ask, 0
        self._model, self._pool, self._state = model, pool, state
        self._gone, self._queue, self._loop = threading.Event(), asyncio.Queue(), asyncio.get_running_loop()
        self._over = False

    def hang_up(self) -> None:
        """Nobody reads any more: the thread ends at its next token."""
        self._gone.set()

    def close(self) -> None:
        """Give the place free, once."""
        if not self._over:
            self._over = True
            self._state.taken -= 1

    async def pieces(self) -> AsyncIterator[tuple[str, str]]:
        """The answer's pieces; the last has an end: stop or length.

        Raises:
            Refused: the model failed.
        """
        future = self._loop.run_in_executor(self._pool, self._write)
        try:
            while True:
                kind, text, end = await self._queue.get()
                if kind == "error":
                    raise Refused(500, text, "server_error")
                if kind == "piece":
                    self.tokens += 1
                yield text, end
                if end:
                    self._state.done += 1
                    return
        finally:
            self.hang_up()
            if not future.done():
                future.cancel()  # where it still waits for a thread
            self.close()

    def _put(self, *what) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, what)
        except RuntimeError:  # the loop is closed: the server went down meanwhile
            self._gone.set()

    def _write(self) -> None:
        """In a thread: token after token, until the end, a stop text, or nobody listening."""
        if self._gone.is_set():
            return
        self._loop.call_soon_threadsafe(self._count, 1)
        try:
            ask, held = self.ask, ""
            keep = max((len(stop) for stop in ask.stops), default=1) - 1  # a stop text may come in two pieces
            for piece in self._model.stream(ask.turns, ask.tokens, adapter=ask.adapter, **ask.options):
                if self._gone.is_set():
                    return
                held += piece.text
                found = [held.index(stop) for stop in ask.stops if stop in held]
                end = "stop" if found else piece.end or ("length" if self._state.stop.is_set() else "")
                held = held[: min(found)] if found else held
                out = held if end else held[: len(held) - keep]
                held = held[len(out) :]
                self._put("piece", out, end)
                if end:
                    return
        except Exception as error:
            self._put("error", str(error) if isinstance(error, LabError) else "the model failed on this request", "")
        finally:
            try:
                self._loop.call_soon_threadsafe(self._count, -1)
            except RuntimeError:
                pass

    def _count(self, more: int) -> None:
        self._state.running += more


def _usage(writing: _Writing) -> dict[str, int]:
    asked, said = writing.ask.prompt_tokens, writing.tokens
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


async def _whole(writing: _Writing, head: dict, request) -> dict[str, Any]:
    """The answer in one piece; a client that goes away meanwhile takes its request with it."""

    async def read() -> tuple[str, str]:
        text, end = "", ""
        async for piece, end in writing.pieces():  # noqa: B007
            text += piece
        return text, end

    reading = asyncio.ensure_future(read())
    try:
        while not (await asyncio.wait({reading}, timeout=LOOK))[0]:
            if await request.is_disconnected():
                writing._state.hung_up += 1
                raise Refused(499, "the client went away", "client_closed_request")
        text, end = reading.result()
    finally:
        if not reading.done():
            writing.hang_up()
            reading.cancel()
            await asyncio.wait({reading})
        writing.close()
    choice = {"index": 0, "message": {"role": "assistant", "content": text.strip()}, "finish_reason": end,
              "logprobs": None}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(writing)}


async def _events(writing: _Writing, head: dict, usage: bool) -> AsyncIterator[str]:
    """The answer as server-sent events, one a piece, and [DONE] at the end."""
    head = {**head, "object": "chat.completion.chunk"}

    def event(delta: dict, end: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": end, "logprobs": None}
        return f"data: {json.dumps({**head, 'choices': [choice]}, ensure_ascii=False)}\n\n"

    ended = False
    pieces = writing.pieces()
    try:
        yield event({"role": "assistant", "content": ""})
        async for text, end in pieces:
            if text:
                yield event({"content": text})
            if end:
                yield event({}, end)
        if usage:
            yield f"data: {json.dumps({**head, 'choices': [], 'usage': _usage(writing)})}\n\n"
        yield "data: [DONE]\n\n"
        ended = True
    except Refused as error:  # the head is sent: the error comes as an event
        yield f"data: {json.dumps(_error(str(error), error.code, error.param))}\n\n"
        ended = True
    finally:
        if not ended:
            writing._state.hung_up += 1
        await pieces.aclose()
        writing.close()


def _error(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    kind = "rate_limit_error" if code == "rate_limit_exceeded" else "server_error" if code == "server_error" \
        else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _BodyLimit:
    """Refuses a request whose body is larger than allowed: by what it says of itself, and by what really comes."""

    def __init__(self, app, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > self.most:
            return await self._refuse(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > self.most:
                return await self._refuse(scope, receive, send)
        given = False

        async def again():
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return await self.app(scope, again, send)

    async def _refuse(self, scope, receive, send) -> None:
        from fastapi.responses import JSONResponse

        answer = JSONResponse(_error(f"the request has more than {self.most:,} bytes", "request_too_large"), 413,
                              {"Connection": "close"})
        await answer(scope, receive, send)


# ------------------------------------------------------------------ running it


def _server(model: OnnxModel, host: str, port: int, limits: Limits):
    import uvicorn

    config = uvicorn.Config(app(model, limits), host=host, port=port, log_level="warning", access_log=False,
                            timeout_graceful_shutdown=10, limit_concurrency=None)
    return uvicorn.Server(config)


def serve(folder: str | Path, host: str = HOST, port: int = PORT, limits: Limits = Limits()) -> None:  # noqa: B008
    """Serve an exported model until Ctrl-C or a TERM signal; answers that are being written are ended first.

    Raises:
        LabError: the folder holds no exported model, or the port is taken.
    """
    import socket

    model = OnnxModel(folder)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise LabError(f"this address cannot be taken ({error.strerror})", where=f"{host}:{port}",
                           todo="Choose another --port, or stop what listens there") from error
    print(f"{model}\nmodels: {', '.join([BASE, *model.adapters])}\nhttp://{host}:{port}/v1  (Ctrl-C ends it)",
          flush=True)
    _server(model, host, port, limits).run()


@contextmanager
def running(model: OnnxModel, limits: Limits = Limits(), port: int = 0) -> Iterator[str]:  # noqa: B008
    """A server in a thread of this process, on this machine only; gives its address, ending in /v1.

    Args:
        port: 0 takes a free one.
    """
    server = _server(model, HOST, port, limits)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise LabError("the server did not start", where=f"{HOST}:{port}", todo="Choose another port")
            time.sleep(0.02)
        yield f"http://{HOST}:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(timeout=15)
