"""What every request passes before it is answered: host and origin, token, concurrency, size and
time; and what every reply has: headers for browsers, an error in one line, a count."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse

from diptych.serve.limits import Refused
from diptych.serve.routes import COOKIE
from diptych.serve.service import Service

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'; object-src 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_HEALTH = "/api/v1/health"
_OPEN = (_HEALTH, "/api/v1/session")  # they need no token

_log = logging.getLogger("diptych.serve")


class Guard:
    """ASGI middleware around the whole application.

    `hosts` are the names under which the server may be addressed, so that no web page can reach it
    by a name of its own that leads to 127.0.0.1; None allows all.
    """

    def __init__(self, app: App, service: Service, hosts: Collection[str] | None):
        self.app = app
        self.service = service
        self.hosts = hosts

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        reply = _Reply(send)
        full = self.service.full and scope["path"] != _HEALTH
        self.service.in_progress += 1
        try:
            if full:
                raise Refused(503, "too many requests at once; try again in a moment")
            await self._answer(scope, receive, reply)
        except Refused as error:
            await reply.error(scope, error.status, error.message)
        except Exception:
            number = secrets.token_hex(4)
            _log.exception("request %s failed", number)
            await reply.error(scope, 500, f"the server failed; its log says more ({number})")
        finally:
            self.service.in_progress -= 1
            seconds = time.perf_counter() - begun
            self.service.counters.request(_route(scope), _method(scope), reply.status, seconds)

    async def _answer(
        self, scope: MutableMapping[str, Any], receive: Receive, reply: "_Reply"
    ) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self._check(scope["path"], headers)
        limits = self.service.limits
        try:
            async with asyncio.timeout(limits.seconds):
                body = await _body(headers, receive, limits.body)
        except TimeoutError:
            raise Refused(408, f"the request did not arrive in {limits.seconds:g} s") from None
        try:
            async with asyncio.timeout(limits.seconds):
                await self.app(scope, _once(body, receive), reply.send)
        except TimeoutError:
            raise Refused(504, f"there is no reply after {limits.seconds:g} s") from None

    def _check(self, path: str, headers: dict[bytes, str]) -> None:
        host = headers.get(b"host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            raise Refused(400, "the server is not reached by this name; use its own address")
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refused(403, "a page of another site may not use this server")
        if not path.startswith("/api/") or path in _OPEN:
            return
        scheme, _, token = headers.get(b"authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else None
        if not self.service.allowed(bearer, _cookie(headers.get(b"cookie", ""))):
            raise Refused(401, "the server needs its token, in the header Authorization: Bearer")


class _Reply:
    """The way back to the client; it remembers the status and adds headers."""

    def __init__(self, send: Send):
        self._send = send
        self.status = 499  # the client went away, unless a reply begins
        self.begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.status = message["status"]
            own = {name.lower() for name, _ in message.get("headers", ())}
            more = [*_HEADERS, (b"cache-control", b"no-store")]
            added = [pair for pair in more if pair[0] not in own]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await self._send(message)

    async def error(self, scope: MutableMapping[str, Any], status: int, error: str) -> None:
        """Answer with an error; if a reply has begun, break it off."""
        if self.begun:
            raise ConnectionAbortedError(error)
        response = problem(status, error)
        await response(scope, _nothing, self.send)


def problem(status: int, error: str) -> JSONResponse:
    """Return the reply for an error."""
    headers = {}
    if status == 503:
        headers["retry-after"] = "1"
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in (408, 413):
        headers["connection"] = "close"
    return JSONResponse({"status": status, "error": error}, status, headers)


async def _body(headers: dict[bytes, str], receive: Receive, max_bytes: int) -> bytes:
    """Return the whole body. Raises Refused if it is larger than `max_bytes`, by its header or as it
    arrives."""
    large = Refused(413, f"the request is larger than {max_bytes:,} bytes; send less")
    length = headers.get(b"content-length", "0")
    if length.isdigit() and int(length[:20]) > max_bytes:
        raise large
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the client went away")
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise large
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _once(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body once, then what the client does."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _cookie(header: str) -> str | None:
    for pair in header.split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value
    return None


def _route(scope: MutableMapping[str, Any]) -> str:
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "other"


def _method(scope: MutableMapping[str, Any]) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"
