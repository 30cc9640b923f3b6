"""A folder of embeddings of a few drawings, and servers of it."""

import contextlib
import http.client
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

from fastapi.testclient import TestClient
from PIL import Image

from diptych.front.loading import load
from diptych.serve.app import create_app
from diptych.serve.collection import open_collections
from diptych.serve.limits import Limits
from diptych.serve.run import listen, serve
from diptych.serve.service import Service

SOURCE = "glyphs:split=val:design=noto:part=1/6"
HERE = "http://127.0.0.1"


def service(*folders: Path, token: str | None = None, source: str | None = None, **limits):
    chosen = Limits(**limits)
    collections = open_collections(folders, lambda _: load("tiny"), chosen, source=source)
    return Service(collections, chosen, token=token)


@contextlib.contextmanager
def client(*folders: Path, **settings) -> Iterator[TestClient]:
    with TestClient(create_app(service(*folders, **settings)), base_url=HERE) as found:
        yield found


class Server:
    """A server on the loopback interface, in a thread."""

    def __init__(self, port: int):
        self.port = port

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)


@contextlib.contextmanager
def server(folder: Path, **limits) -> Iterator[Server]:
    listening = listen("127.0.0.1", 0)
    started = threading.Event()
    stops = []
    thread = threading.Thread(
        target=serve,
        args=(service(folder, **limits), listening, "127.0.0.1"),
        kwargs={"started": started.set, "stops": stops.append},
    )
    thread.start()
    assert started.wait(30)
    try:
        yield Server(listening.getsockname()[1])
    finally:
        stops[0]()
        thread.join(20)
        assert not thread.is_alive()


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def posted(connection: http.client.HTTPConnection, path: str, value) -> tuple[int, bytes]:
    headers = {"content-type": "application/json"}
    connection.request("POST", path, json.dumps(value), headers)
    reply = connection.getresponse()
    return reply.status, reply.read()
