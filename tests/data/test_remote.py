"""Shards behind URLs: the samples of the same files, and one line for what cannot be read."""

import io
import tarfile
from contextlib import suppress

import fsspec
import numpy as np
import pytest
from PIL import Image

import diptych
from diptych.data import remote
from diptych.data.images import MemberImage
from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.errors import InputError


def shard(first: int, count: int = 3) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(first, first + count):
            image = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(image, "png")
            for ending, data in {"png": image.getvalue(), "txt": b"number %d" % number}.items():
                member = tarfile.TarInfo(f"{number:03d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    """A folder with two shards, by its URL."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = {
        "memory": "memory://bucket/data",
        "file": f"file://{tmp_path}/data",
        "chained": f"simplecache::file://{tmp_path}/data",
    }[request.param]
    files, path = fsspec.core.url_to_fs(url.rpartition("::")[2])
    files.makedirs(path)
    for number in range(2):
        files.pipe_file(f"{path}/{number}.tar", shard(3 * number))
    yield url
    with suppress(FileNotFoundError):
        files.rm(path, recursive=True)


everywhere = pytest.mark.parametrize("place", ["memory", "file", "chained"], indirect=True)
in_memory = pytest.mark.parametrize("place", ["memory"], indirect=True)


@everywhere
@pytest.mark.parametrize("pattern", ["*.tar", "{0..1}.tar", "{0,1}.tar"])
def test_the_samples_are_those_of_the_files(place, pattern):
    source = open_source(f"{place}/{pattern}")
    assert list(source.keys()) == ["000", "001", "002", "003", "004", "005"]
    sample = source[4]
    assert sample.captions() == ["number 4"]
    assert np.asarray(sample.images["main"].decode()).max() == 4
    assert len(open_source(f"{place}/{pattern}:part=1/2")) == 3
    assert diptych.check(f"{place}/{pattern}").report.damaged == {}


@in_memory
def test_a_damaged_shard_is_reported_as_that_of_a_file(place):
    files, path = fsspec.core.url_to_fs(place)
    files.pipe_file(f"{path}/1.tar", shard(3)[:2000])
    source = open_source(f"{place}/*.tar")
    assert [*source.damage.values()] == ["truncated"]
    image = source[0].images["main"]
    files.pipe_file(f"{path}/0.tar", shard(0)[:520])
    with pytest.raises(BadSample, match="truncated"):
        image.read()
    files.rm(f"{path}/0.tar")
    with pytest.raises(BadSample, match="missing"):
        image.read()


@in_memory
def test_an_index_is_cached_until_a_shard_changes(place, monkeypatch):
    monkeypatch.setattr("diptych.data.sources.tarindex._CACHED_FROM_URLS", 1)
    first = list(open_source(f"{place}/*.tar").keys())
    with monkeypatch.context() as patch:
        patch.setattr("diptych.data.sources.tarindex.index_shard", None)
        assert list(open_source(f"{place}/*.tar").keys()) == first
    files, path = fsspec.core.url_to_fs(place)
    files.pipe_file(f"{path}/1.tar", shard(3, 4))
    assert len(open_source(f"{place}/*.tar")) == 7


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere/{0..1}.tar", r"nowhere/0\.tar: no such file; check the path"),
        ("memory://nowhere/*.tar", "the pattern matches no file"),
        ("s3://bucket/a.tar", "cannot be read: Install s3fs to access S3; or download it"),
        ("bogus://bucket/a.tar", "cannot be read: Protocol not known: bogus"),
        ("https://127.0.0.1:9/a.tar", r"a\.tar cannot be read .* check the name, the network"),
        ("https://example.com/a.csv", "only tar shards are read by URL.*download it"),
    ],
)
def test_what_cannot_be_read_is_one_line(url, message):
    with pytest.raises(InputError, match=message) as caught:
        open_source(url)
    assert "\n" not in str(caught.value)


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setattr("diptych.data.remote.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"needs fsspec; install it with: pip install 'diptych\[data\]'"
    ):
        open_source("memory://bucket/a.tar")


class Server:
    """Fails some times, then answers."""

    def __init__(self, failures, answer=b"123", missing=False):
        self.failures = failures
        self.answer = answer
        self.missing = missing

    def cat_file(self, path, start, end):
        self.failures -= 1
        if self.failures >= 0:
            why = TimeoutError("no\nanswer")
            if self.missing:  # as fsspec says over HTTP
                raise FileNotFoundError(path) from why
            raise why
        return self.answer


@pytest.mark.parametrize("missing", [False, True])
def test_a_server_that_does_not_answer_damages_no_sample(monkeypatch, missing):
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0))
    server = Server(2, missing=missing)
    monkeypatch.setattr(remote, "_file_system", lambda url: (server, url))
    assert MemberImage("s3://b/a.tar", 0, 3).read() == b"123"
    server.failures = 3
    with pytest.raises(
        InputError, match=r"a\.tar cannot be read \(TimeoutError: no answer\); check"
    ):
        MemberImage("s3://b/a.tar", 0, 3).read()
    server.failures = 0
    server.answer = bytes(2000)
    with pytest.raises(
        InputError, match=r"does not read parts of files.* simplecache::s3://b/a\.tar"
    ):
        MemberImage("s3://b/a.tar", 0, 3).read()
