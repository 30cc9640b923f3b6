"""Files: limits are told like a full disk, locks end with their process, links are followed, JSON
is not trusted."""

import errno
import multiprocessing
import os
import resource

import pytest
import torch
from safetensors.torch import save_file

from diptych import files
from diptych.errors import InputError
from diptych.files import (
    followed,
    is_full,
    locked,
    read_json,
    text_of,
    whole_lines,
    write_atomic,
)


def limited(path, answers):
    """In a process of its own, whose files may have 4,096 bytes: what writing more is told as."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    tensors = {"x": torch.zeros(4096)}
    for write in (
        lambda place: save_file(tensors, place),
        lambda place: place.write_bytes(bytes(9999)),
    ):
        try:
            write_atomic(path, write)
        except BaseException as error:
            answers.put((type(error).__name__, str(error)))


def test_a_limit_on_the_size_of_files_is_told_like_a_full_disk(tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=limited, args=(tmp_path / "x", answers))
    process.start()
    for _ in range(2):
        name, message = answers.get(timeout=60)
        assert name == "InputError"
        assert "no space left to write" in message
    process.join()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after(tmp_path, monkeypatch):
    flushed = []

    def fsync(handle):
        flushed.append((os.fstat(handle).st_ino, (tmp_path / "x").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "x", lambda place: place.write_text("x"))
    nodes = [path.stat().st_ino for path in (tmp_path / "x", tmp_path)]
    assert flushed == list(zip(nodes, (False, True), strict=True))


def test_other_errors_of_the_system_are_not_a_full_disk():
    assert is_full(OSError(errno.EFBIG, "File too large"))
    assert not is_full(OSError(errno.EACCES, "Permission denied"))


def _wait(runs, go):
    runs.set()
    go.wait(60)


def test_a_torn_last_line_is_removed(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert whole_lines(path) == []
    for torn, kept in (("", []), ("a\nb\n", ["a\n", "b\n"]), ("a\nb", ["a\n"]), ("a", [])):
        path.write_text(torn)
        assert whole_lines(path) == kept
        assert path.read_text() == "".join(kept)


def test_a_text_that_is_not_utf8_is_told_with_its_line(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("dog\ncafé\n".encode("latin-1"))
    with pytest.raises(InputError, match="names.txt: line 2 is not UTF-8; save the file as UTF-8"):
        text_of(path)
    path.write_bytes("dog\ncafé\n".encode("utf-8-sig"))
    assert text_of(path) == "dog\ncafé\n"


def test_a_lock_is_for_one_and_no_forked_process_keeps_it(tmp_path):
    context = multiprocessing.get_context("fork")
    runs, go = context.Event(), context.Event()
    worker = context.Process(target=_wait, args=(runs, go))
    with locked(tmp_path, "busy"):
        with pytest.raises(InputError, match="busy"), locked(tmp_path, "busy"):
            pass
        worker.start()
        assert runs.wait(60)
        with pytest.raises(InputError, match="busy"), locked(tmp_path, "busy"):
            pass
    with locked(tmp_path, "busy"):  # though the worker goes on, as after its parent was killed
        assert worker.is_alive()
    go.set()
    worker.join()


def test_links_are_followed_where_they_lead_somewhere(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert followed(tmp_path / "link") == (tmp_path / "nowhere").resolve()
    assert followed(tmp_path / "plain") == tmp_path / "plain"
    with pytest.raises(InputError, match="leads back to itself"):
        followed(tmp_path / "loop")


def test_json_that_is_too_large_or_no_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_JSON", 8)
    (tmp_path / "x.json").write_text('{"a": 12345}')
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "x.json", "12 bytes"),
        (tmp_path / "pipe", "is not a file"),
        (tmp_path, "not a file"),
    ):
        with pytest.raises(InputError, match=f"{message}.*; mend it"):
            read_json(path, "mend it")
