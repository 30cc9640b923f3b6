"""RELIABILITY 27: what the server refuses, and that a refusal says nothing of the server."""

import base64
import logging
import socket
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from tests.data.helpers import greys, video
from tests.serve.helpers import HERE, client, png, posted, server, service

from diptych.errors import InputError
from diptych.serve.app import create_app
from diptych.serve.limits import Limits
from diptych.serve.run import listen

PIXEL = png(Image.new("RGB", (1, 1)))


def refused(reply, status, *parts):
    assert reply.status_code == status, reply.text
    assert reply.json().keys() == {"status", "error"}
    assert reply.json()["status"] == status
    assert "\n" not in reply.json()["error"]
    for part in parts:
        assert part in reply.json()["error"]


def header(width, height):
    """A PNG that ends where its pixels would begin."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + chunk + checksum + b"\0\0\0\x0aIDAT"


def searched(**query):
    return {"queries": [query]}


def encoded(data):
    return base64.b64encode(data).decode()


def test_27_a_body_above_the_limit_is_413(emb):
    with client(emb, body=2_000) as served:
        assert served.post("/api/v1/search", json=searched(plus=["a dog"])).status_code == 200
        refused(served.post("/api/v1/search", json={"pad": "x" * 2_000}), 413, "2,000")
        chunks = iter([b"x" * 1_000] * 3)
        refused(served.post("/api/v1/search", content=chunks), 413)
        files = {"image": ("a.png", PIXEL + b"x" * 2_000)}
        refused(served.post("/api/v1/search/image", files=files), 413)
        huge = {"content-length": "9" * 30}
        refused(served.post("/api/v1/search", content=b"{}", headers=huge), 413)


def test_27_pixels_above_the_limit_are_422_before_they_are_decoded(emb, monkeypatch):
    long = video(greys(*[9] * 21, size=(100, 100)))
    monkeypatch.setattr(Image.Image, "load", None)
    with client(emb, pixels=10_000) as served:
        for size in ((101, 100), (60_000, 60_000), (1, 300_000)):
            files = {"image": ("a.png", header(*size))}
            reply = served.post("/api/v1/search/image", files=files)
            refused(reply, 422, f"{size[0]} x {size[1]} pixels", "10,000")
            body = {"names": ["a"], "images": [encoded(header(*size))]}
            refused(served.post("/api/v1/classify", json=body), 422, "10,000")
        files = {"image": ("a.mp4", long)}
        reply = served.post("/api/v1/search/image", files=files)
        refused(reply, 422, "21 frames of 100 x 100 pixels", "200,000")


def test_27_a_thin_image_that_scaling_would_blow_up_is_422(served):
    files = {"image": ("thin.png", png(Image.new("RGB", (1, 300_000))))}
    refused(served.post("/api/v1/search/image", files=files), 422, "too large")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "html"),
        (header(20, 20), "ends early"),
        (b"GIF89a", "cannot be read"),
        (b"%PDF-1.7", "unsupported"),
        (b"\x1f\x8b" + b"\0" * 400, "a volume"),
        (video(greys(10, 20))[:-9], "ends early"),
    ],
    ids=["empty", "html", "cut", "gif", "pdf", "gzip", "cut video"],
)
def test_27_what_is_no_image_is_422(served, data, part):
    refused(served.post("/api/v1/search/image", files={"image": ("a.png", data)}), 422, part)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("search?plus=a&k=201", "k is 201"),
        ("search?plus=a&k=0", "k: "),
        ("search?plus=a&k=1e9", "k: "),
        ("search?plus=a&k=" + "9" * 5_000, "k: "),
        ("search?plus=a&k=100&offset=1950", "offset + k is above 2,000"),
        ("search?plus=a&offset=-1", "offset: "),
        ("search?plus=a&nprobe=3", "nprobe: "),
        ("search?minus=a", "give one of them"),
        ("search?plus=%20", "plus.0: "),
        ("search?plus=" + "a" * 2_001, "plus.0: "),
        ("search?" + "&".join(["plus=a"] * 17), "plus: "),
        ("search?plus=a&minus=a", "nothing is asked for"),
        ("search?row=-1", "row.0: "),
        ("search?row=1.5", "row.0: "),
        ("collections/drawings/rows?k=1000", "k is 1000"),
        ("collections/drawings/rows/1/image?size=9999", "size: "),
        ("collections/drawings/rows/x/image", "row: "),
    ],
)
def test_27_a_parameter_beyond_its_limits_is_422(served, path, part):
    refused(served.get(f"/api/v1/{path}"), 422, part)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", ""),
        (b"{", ""),
        (b"null", ""),
        (b"[" * 100_000, ""),
        (b'{"queries": [{"plus": ["\\ud83d"]}]}', "queries.0.plus.0"),
        (b'{"queries": [{"plus": ["a"]}], "k": ' + b"9" * 5_000 + b"}", ""),
        (b'{"queries": [{"plus": ["a"]}], "k": 1e400}', "k"),
        (b"\xff\xfe", ""),
        ({"queries": []}, "queries"),
        ({"queries": [{}]}, "give one of them"),
        ({"queries": [{"plus": ["a"]}] * 33}, "queries"),
        (searched(plus="a"), "queries.0.plus"),
        (searched(plus=[1]), "queries.0.plus.0"),
        (searched(plus=["a"], where="x"), "queries.0.where"),
        ({**searched(plus=["a"]), "model": "tiny"}, "model"),
        (searched(images=["not base64!"]), "queries.0.images.0: not base64"),
        (searched(images=["http://127.0.0.1/a.png"]), "not base64"),
        (searched(images=["/etc/passwd0"]), "cannot be read"),
        (searched(images=["data:image/png;base64,aaaa"]), "not base64"),
    ],
)
def test_27_a_bad_body_is_422(served, body, part):
    headers = {"content-type": "application/json"}
    how = {"content": body} if isinstance(body, bytes) else {"json": body}
    refused(served.post("/api/v1/search", headers=headers, **how), 422, part)


@pytest.mark.parametrize(
    ("where", "part"),
    [
        ("price <", "a value is missing at the end"),
        ("colour = 'red'", "column of grouped"),
        ("group < 3", "group"),
        ("x" * 2000, "1000"),
    ],
)
def test_27_a_filter_that_does_not_fit_is_refused_without_a_path(kept, where, part):
    with client(kept) as served:
        for path in ("/api/v1/search", "/api/v1/collections/grouped/rows"):
            words = {"plus": "a dog"} if path.endswith("search") else {}
            reply = served.get(path, params={**words, "where": where})
            refused(reply, 422, part)
            assert str(kept.parent) not in reply.text


def test_27_words_that_look_like_files_or_addresses_are_words(served, tmp_path, monkeypatch):
    """No path and no address in a request is opened."""
    monkeypatch.chdir(tmp_path)
    path = Path("names.txt")
    path.write_text("cat\ndog\n")
    for names in ([str(path)], ["http://127.0.0.1:9/names"], ["x.json"]):
        found = served.post("/api/v1/classify", json={"names": names, "rows": [0]}).json()
        assert found["images"][0][0]["name"] == names[0]
    asked = {"names": ["cat"], "rows": [0]}
    for template in (str(path), "images", "prompts.json"):
        reply = served.post("/api/v1/classify", json={**asked, "templates": [template]})
        refused(reply, 422, "{}")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/collections/..%2f..%2fetc/rows",
        "/api/v1/collections/%2e%2e/rows",
        "/api/v1/collections/drawings%00/rows",
        "/api/v1/collections/drawings/rows/..%2f..%2f..%2fetc%2fpasswd/image",
        "/api/v1/collections/drawings/rows/99999/image",
        "/page/..%2fapp.py",
        "/page/%2e%2e/app.py",
        "/page//etc/passwd",
        "/page/..%5capp.py",
        "/..%2f..%2fetc%2fpasswd",
    ],
)
def test_27_no_path_leads_out(served, path):
    reply = served.get(path)
    refused(reply, 404)
    assert "import" not in reply.text
    assert "root:" not in reply.text


def blocked(served_by):
    """Make searches of a service wait for an event, which is returned."""
    go_on = threading.Event()
    [collection] = served_by.collections.values()
    run = collection.top.run

    def waits(wanted):
        go_on.wait(20)
        return run(wanted)

    collection.top.run = waits
    return go_on


def test_27_one_request_too_many_is_503_with_retry_after(emb):
    full = service(emb, concurrent=2)
    go_on = blocked(full)
    with TestClient(create_app(full), base_url=HERE) as served, ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(served.get, "/api/v1/search?plus=a") for _ in range(2)]
        while not full.full:
            pass
        reply = served.get("/api/v1/search?plus=a")
        refused(reply, 503)
        assert reply.headers["retry-after"] == "1"
        assert served.get("/api/v1/health").status_code == 200
        go_on.set()
        assert [each.result().status_code for each in waiting] == [200, 200]
        assert served.get("/api/v1/search?plus=a").status_code == 200


def test_27_a_reply_that_takes_too_long_is_504_and_its_thread_counts_until_it_ends(emb):
    slow = service(emb, seconds=0.3, concurrent=1)
    go_on = threading.Event()
    [collection] = slow.collections.values()
    browse = collection.browse
    collection.browse = lambda *asked: go_on.wait(20) and browse(*asked)
    with TestClient(create_app(slow), base_url=HERE) as served:
        refused(served.get("/api/v1/collections/drawings/rows"), 504, "0.3 s")
        refused(served.get("/api/v1/collections/drawings/rows"), 503)
        go_on.set()
        while slow.full:
            pass
        assert served.get("/api/v1/collections/drawings/rows").status_code == 200


def test_27_a_failure_is_500_without_a_trace_of_where(emb, caplog):
    broken = service(emb)
    [collection] = broken.collections.values()

    def fails(*_):
        raise InputError(f"{emb}/metadata_0.parquet is damaged")

    collection.index.hits = fails
    with TestClient(create_app(broken), base_url=HERE) as served:
        with caplog.at_level(logging.ERROR, "diptych.serve"):
            reply = served.get("/api/v1/search?plus=a")
        refused(reply, 500, "its log says more")
        for secret in ("Traceback", str(emb), "damaged", "line ", ".py"):
            assert secret not in reply.text
        assert "is damaged" in caplog.text
        assert served.get("/api/v1/health").status_code == 200


def test_27_other_hosts_and_pages_of_other_sites_are_refused(served):
    refused(served.get("/api/v1/health", headers={"host": "evil.example"}), 400)
    refused(served.get("/", headers={"host": "127.0.0.1.evil.example:80"}), 400)
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        refused(served.get("/api/v1/search?plus=a", headers={"origin": origin}), 403)
    assert served.get("/api/v1/health", headers={"origin": HERE}).status_code == 200
    for host in ("localhost:8420", "[::1]:8420"):
        assert served.get("/api/v1/health", headers={"host": host}).status_code == 200
    asked = {"origin": HERE, "access-control-request-method": "POST"}
    reply = served.options("/api/v1/search", headers=asked)
    assert reply.status_code == 405
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]


def closed(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    try:
        while part := connection.recv(4096):
            received += part
    except ConnectionResetError:
        pass
    return received


def test_27_a_slow_client_is_cut_off(emb):
    with server(emb, head=0.3, seconds=0.3) as running:
        with socket.create_connection(("127.0.0.1", running.port), 20) as silent:
            assert closed(silent) == b""
        with socket.create_connection(("127.0.0.1", running.port), 20) as drips:
            drips.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")
            assert closed(drips) == b""
        with socket.create_connection(("127.0.0.1", running.port), 20) as body:
            body.sendall(
                b"POST /api/v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{"
            )
            assert closed(body).startswith(b"HTTP/1.1 408 ")
        again = running.connection()
        for _ in range(3):  # a quick client may go on for longer
            again.request("GET", "/api/v1/health")
            assert again.getresponse().read().startswith(b'{"status":"ok"')
        again.close()


def test_27_a_large_body_is_413_on_the_wire(emb):
    with server(emb, body=1_000) as running:
        connection = running.connection()
        assert posted(connection, "/api/v1/search", searched(plus=["a dog"]))[0] == 200
        connection.putrequest("POST", "/api/v1/search")
        connection.putheader("Content-Length", "100000000000")
        connection.endheaders()
        reply = connection.getresponse()
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        connection.close()


def test_27_limits_and_addresses_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="the limit k is 0; give a number above 0"):
        Limits(k=0)
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert taken.proto == socket.IPPROTO_TCP  # or asyncio would leave Nagle's algorithm on
        with pytest.raises(InputError, match=f"port {port} is in use; name another one"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError, match="port 70000 does not exist"):
        listen("127.0.0.1", 70_000)
    with pytest.raises(InputError, match="no address of this machine"):
        listen("192.0.2.1", 0)
