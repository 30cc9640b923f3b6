"""`diptych view`: files on a source, a run and embeddings, and what bad words are told."""

import re
import signal
import urllib.request

import pytest
from tests.cli.helpers import finish, make_folder, make_table, shell


def test_a_source_becomes_one_file(diptych, tmp_path):
    table = make_table(tmp_path / "pets")
    (tmp_path / "pets" / "03.jpg").write_bytes(b"")
    out = tmp_path / "pages" / "page.html"
    called = diptych("view", table, "--val", table, "--count", 4, "--out", out)
    assert called.code == 0, called
    assert re.search(r"shows \d+ of 16 samples", called.out), called
    html = out.read_text("utf-8")
    assert "zero-byte: 1" in html
    assert 'id="leakage"' in html


def test_a_run_shows_its_curves_and_its_worst_mistakes(diptych, train, refused, tmp_path):
    data = make_folder(tmp_path / "photos")
    run = tmp_path / "run"
    assert train(data, run, "--val", data).code == 0
    out = tmp_path / "page.html"
    assert diptych("view", run, "--out", out).code == 0
    html = out.read_text("utf-8")
    assert 'id="mistakes"' in html
    assert "own text ranked first" in html
    assert "loss by step" in html

    bare = tmp_path / "bare"
    assert train(data, bare).code == 0
    assert "--data SOURCE" in refused("view", bare, "--out", tmp_path / "x.html")
    assert diptych("view", bare, "--data", data, "--out", out).code == 0
    (bare / "model.json").unlink()
    said = refused("view", bare, "--data", data, "--out", out)
    assert "not finished" in said
    assert "--resume" in said


def test_embeddings_become_a_file(diptych, tmp_path):
    folder = tmp_path / "emb"
    source = "glyphs:split=val:design=noto:part=1/9"
    assert diptych("embed", "tiny", source, "--out", folder).code == 0
    out = tmp_path / "page.html"
    assert diptych("view", folder, "--out", out).code == 0
    assert "data:image/webp" in out.read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to show"),
        (["photos", "--data", "photos"], "--data goes with a RUN, and photos is a source"),
        (["photos", "--source", "photos"], "--source goes with an EMB"),
        (["photos", "--count", "3"], "name it with --out"),
        (["photos", "--port", "3", "--out", "x.html"], "leave one out"),
        (["photos", "--out", "photos"], "photos is a folder; give a file"),
        (["empty", "--out", "x.html"], "empty"),
        (["run", "--out", "x.html"], "run looks like a RUN and lacks its config.yaml; copy"),
        (["nowhere", "--out", "x.html"], "unknown source 'nowhere'"),
        (["photos", "--val", "nowhere", "--out", "x.html"], "unknown source 'nowhere'"),
        (["photos", "--port", "99999"], "port 99999 does not exist"),
    ],
)
def test_bad_input(refused, tmp_path, monkeypatch, words, message):
    make_folder(tmp_path / "photos", 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "run/state").mkdir(parents=True)
    (tmp_path / "run/metrics.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    assert message in refused("view", *words)
    assert not (tmp_path / "x.html").exists()


def test_a_page_is_served_until_it_is_stopped(tmp_path):
    folder = make_folder(tmp_path / "photos", 3)
    process = shell("view", folder, "--port", 0)
    line = process.stdout.readline()
    address = re.search(r"http://\S+", line)
    assert address is not None, line
    with urllib.request.urlopen(address[0], timeout=30) as reply:
        assert b"<h1>" in reply.read()
    process.send_signal(signal.SIGINT)
    called = finish(process, 30)
    assert called.code in (0, 130), called
    assert "Traceback" not in called.err
