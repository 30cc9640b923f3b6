"""The socket of a server, and uvicorn on it."""

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from diptych.errors import InputError
from diptych.serve.app import LOOPBACK, create_app
from diptych.serve.service import Service

_CONNECTIONS = 512  # open at the same time; more get 503 from uvicorn
_SHUTDOWN = 5  # seconds for requests in progress, when the server is stopped


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at `host` and `port`; port 0 chooses a free one.

    Raises InputError if the port is in use or not allowed, or the host is no address of this
    machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        opened = socket.create_server((host, port), family=family, backlog=128)
        # asyncio turns Nagle's algorithm off for sockets that name their protocol, and those that
        # they accept; with it, each reply waits 40 ms for the client's acknowledgement.
        return socket.socket(family, opened.type, socket.IPPROTO_TCP, fileno=opened.detach())
    except socket.gaierror as error:
        raise InputError(
            f"{host!r} is no address ({error.strerror}); name one of this machine with --host"
        ) from None
    except OverflowError:
        raise InputError(f"port {port} does not exist; name one from 1 to 65535") from None
    except OSError as error:
        remedies = {
            errno.EADDRINUSE: f"port {port} is in use; name another one with --port, or 0 for any",
            errno.EACCES: f"port {port} needs more rights; name one from 1024 on with --port",
            errno.EADDRNOTAVAIL: f"{host!r} is no address of this machine; name one with --host",
        }
        if error.errno not in remedies:
            raise
        raise InputError(remedies[error.errno]) from None


def local(host: str) -> bool:
    """Whether only this machine reaches a server at `host`.

    >>> local("127.0.0.1"), local("0.0.0.0")
    (True, False)
    """
    return host in LOOPBACK or host.startswith("127.")


def serve(
    service: Service,
    listening: socket.socket,
    host: str,
    *,
    make_app: Callable[..., FastAPI] = create_app,
    started: Callable[[], None] | None = None,
    stops: Callable[[Callable[[], None]], None] | None = None,
) -> None:
    """Answer requests until SIGINT or SIGTERM.

    `make_app` makes the application of a service and the names of its host. `started` is called when
    the server answers; `stops` receives a function that ends it, for a server that does not run in
    the main thread.
    """
    hosts = {*LOOPBACK, host.lower()} if local(host) else None
    server = _Server(_config(service, make_app(service, hosts=hosts)), started)
    if stops is not None:
        stops(server.stop)
    if threading.current_thread() is threading.main_thread():
        # uvicorn raises SIGTERM again after it has ended in order, which would end the process
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            server.run(sockets=[listening])
        finally:
            signal.signal(signal.SIGTERM, before)
    else:
        server.run(sockets=[listening])


def _config(service: Service, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_protocol(service.limits.head),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_SHUTDOWN,
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None] | None):
        super().__init__(config)
        self._then = started

    def stop(self) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._then is not None:
            self._then()


def _protocol(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, which closes a connection whose request's head has not arrived
    after `seconds`. uvicorn itself waits for ever."""

    class Patient(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._timer is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._timer = self.loop.call_later(seconds, self.transport.abort)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Patient
