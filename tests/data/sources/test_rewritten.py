"""Concepts beside captions: the file of `data rewrite`, and shards with three lines of text."""

import json
import tarfile

import pytest
from tests.cli.helpers import make_folder

from diptych.data.sample import BadSample
from diptych.data.sources import open_source, rewritten
from diptych.data.sources.rewritten import as_texts
from diptych.errors import InputError

FOUND = ({"dog": 1.9, "car": 1.5, "sky": 1.0}, [["dog", "sky"], ["car"]])


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "images", 3)


def packed(folder):
    """The files of a folder in a shard beside it."""
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    return path


def concepts(sample):
    return [
        (text.text, text.attrs["score"], text.attrs["cluster"])
        for text in sample.texts
        if text.role == "concept"
    ]


def test_what_was_written_is_read(folder, tmp_path):
    spec = f"{folder}/"
    source = open_source(spec)
    path = tmp_path / "a" / "rewritten.jsonl"
    rewritten.write(path, spec, source, "tiny", [FOUND, ({}, []), ({"été": 2}, [])])
    found = open_source(f"rewritten:{path}")
    assert len(found) == 3
    assert list(found.keys()) == list(source.keys())
    assert concepts(found[0]) == [("dog", 1.9, 0), ("car", 1.5, 1), ("sky", 1.0, 0)]
    assert concepts(found[1]) == []
    assert concepts(found[-1]) == [("été", 2.0, 0)]
    assert found[2].captions() == source[2].captions()
    assert found.schema()["texts.concept"].optional
    assert found.schema()["texts.caption"] == source.schema()["texts.caption"]
    half = open_source(f"rewritten:{path}:part=1/2")
    assert 0 < len(half) < 3


def test_another_place_of_the_source_can_be_named(folder, tmp_path):
    path = tmp_path / "rewritten.jsonl"
    rewritten.write(path, "gone/", open_source(f"{folder}/"), "tiny", [FOUND] * 3)
    with pytest.raises(InputError, match="gone"):
        open_source(f"rewritten:{path}")
    assert len(open_source(f"rewritten:{path}:source={folder}/")) == 3


def test_a_changed_source_or_another_file_is_refused(folder, tmp_path):
    path = tmp_path / "rewritten.jsonl"
    with pytest.raises(InputError, match="no such file; `diptych data rewrite"):
        open_source(f"rewritten:{path}")
    path.write_text('{"caption": "a dog"}\n')
    with pytest.raises(InputError, match="its first line names no source"):
        open_source(f"rewritten:{path}")
    path.write_text("dog\n{}\n")
    with pytest.raises(InputError, match="its first line names no source"):
        open_source(f"rewritten:{path}")
    rewritten.write(path, f"{folder}/", open_source(f"{folder}/"), "tiny", [FOUND] * 3)
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="with other samples than are there now"):
        open_source(f"rewritten:{path}")
    path.write_text(whole)
    (folder / "00.png").unlink()
    (folder / "00.txt").unlink()
    with pytest.raises(InputError, match="with other samples than are there now"):
        open_source(f"rewritten:{path}")


def test_a_failure_leaves_no_file(folder, tmp_path):
    path = tmp_path / "rewritten.jsonl"
    with pytest.raises(ValueError, match="shorter"):
        rewritten.write(path, "a", open_source(f"{folder}/"), "tiny", [FOUND])
    assert not list(tmp_path.glob("*.jsonl*"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "clusters", [[["dog", "sky"], ["car"]], {"0": ["dog", "sky"], "1": ["car"]}]
)
def test_three_lines_are_caption_scores_and_clusters(tmp_path, clusters):
    folder = make_folder(tmp_path / "images", 2)
    lines = ["a walk in town ", json.dumps(FOUND[0]), json.dumps(clusters)]
    (folder / "00.txt").write_text("\n".join(lines) + "\n")
    path = packed(folder)
    found = open_source(f"rewritten:{path}")
    assert found[0].captions() == ["a walk in town"]
    assert concepts(found[0]) == [("dog", 1.9, 0), ("car", 1.5, 1), ("sky", 1.0, 0)]
    assert found[1].captions() == open_source(str(path))[1].captions()
    assert concepts(found[1]) == []
    assert "texts.concept" in found.schema()


@pytest.mark.parametrize(
    ("scores", "clusters"),
    [
        ([1.0], []),
        ({"dog": "high"}, []),
        ({"dog": True}, []),
        ({"dog": 1.0}, None),
        ({"dog": 1.0}, ["dog"]),
        ({"dog": 1.0}, [[3]]),
    ],
)
def test_other_forms_are_damage(scores, clusters):
    with pytest.raises(BadSample) as caught:
        as_texts(scores, clusters)
    assert caught.value.reason == "concepts"


def test_lines_that_are_not_json_are_damage(tmp_path):
    folder = make_folder(tmp_path / "images", 1)
    (folder / "00.txt").write_text("a walk\n{dog}\n[]\n")
    source = open_source(f"rewritten:{packed(folder)}")
    with pytest.raises(BadSample) as caught:
        source[0]
    assert caught.value.reason == "concepts"
