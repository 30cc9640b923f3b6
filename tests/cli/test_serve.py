"""`diptych serve` as a program."""

import json
import re
import signal
import urllib.request

from tests.cli.helpers import finish, make_folder, shell

import diptych


def test_it_answers_at_the_address_that_it_prints_and_ends_with_sigterm(tmp_path):
    make_folder(tmp_path / "photos", 6)
    diptych.embed("tiny", str(tmp_path / "photos"), tmp_path / "emb")
    process = shell("serve", "emb", "--port", 0, cwd=tmp_path)
    line = process.stdout.readline()
    address = re.search(r"6 rows to search at (http://127\.0\.0\.1:\d+/)", line)
    assert address, finish(process)
    with urllib.request.urlopen(f"{address[1]}api/v1/search?plus=red&k=2", timeout=30) as reply:
        [found] = json.load(reply)["results"]
    assert len(found["hits"]) == 2
    with urllib.request.urlopen(
        f"{address[1]}{found['hits'][0]['image'][1:]}", timeout=30
    ) as reply:
        assert reply.read().startswith(b"\x89PNG")
    process.send_signal(signal.SIGTERM)
    called = finish(process)
    assert (called.code, called.err) == (0, "")
