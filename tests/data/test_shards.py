"""Shards: everything the reader knows comes back, runs go on where they stopped, and nothing
foreign is overwritten."""

import json

import numpy as np
import pytest

from diptych.data import shards
from diptych.data.sample import Sample
from diptych.data.shards import MANIFEST, write_shards
from diptych.data.sources import open_source
from diptych.errors import InputError

SPEC = "scenes:count=7:number=2:same=0:edits=recolour+add:size=32"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shards"
    seen = []
    paths = write_shards(
        open_source(SPEC),
        folder,
        per_shard=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 7) for done in range(1, 8)]
    return folder, paths


def test_shards_are_read_back_as_they_were(written):
    folder, paths = written
    source, back = open_source(SPEC), open_source(f"{folder}/*.tar")
    assert [path.name for path in paths] == ["00000.tar", "00001.tar", "00002.tar"]
    assert list(back.keys()) == list(source.keys())
    assert back.damage == {}
    for old, new in zip(source, back, strict=True):
        assert np.array_equal(
            np.asarray(new.images["main"].decode()), np.asarray(old.images["main"].decode())
        )
        for role in {text.role for text in old.texts}:
            assert new.captions(role) == list(dict.fromkeys(old.captions(role)))
        assert len(new.captions("question")) == len(new.captions("answer")) >= 2
        assert new.labels == {name: value for name, value in old.labels.items() if value >= 0}
        assert [(b.xyxy, b.text, b.label) for b in new.boxes] == [
            (b.xyxy, b.text, b.label) for b in old.boxes
        ]
        for name, mask in old.masks.items():
            assert np.array_equal(np.asarray(new.masks[name].decode()), np.asarray(mask.decode()))
        for name in ("depth", "factors"):
            assert np.array_equal(new.arrays[name], old.arrays[name])
        reported = [text.attrs["objects"] for text in old.texts if text.role == "long"]
        assert [tuple(np.flatnonzero(row)) for row in new.arrays["long_objects"]] == reported
        assert new.arrays["statement_true"].tolist() == [
            t.attrs["true"] for t in old.texts if t.role == "statement"
        ]
        for edit in old.edits:
            assert new.images[edit.kind].read() == edit.images["main"].read()
            assert new.captions(f"{edit.kind}_instruction") == edit.captions("instruction")
            assert new.captions(f"{edit.kind}_caption") == edit.captions()
    for mask in ("class", "coarse"):
        classes, names = (
            source.schema()[f"masks.{mask}"].classes,
            back.schema()[f"masks.{mask}"].classes,
        )
        there = np.unique([np.asarray(sample.masks[mask].decode()) for sample in source])
        assert [names[number] for number in there] == [classes[number] for number in there]
    classes, names = (
        source.schema()["labels.colour"].classes,
        back.schema()["labels.colour"].classes,
    )
    assert [names[sample.labels["colour"]] for sample in back] == [
        classes[sample.labels["colour"]] for sample in source
    ]


def test_the_same_shards_are_the_same_bytes(written, tmp_path):
    _, paths = written
    again = write_shards(open_source(SPEC), tmp_path / "again", per_shard=3)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_a_stopped_run_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    source = open_source("scenes:count=6:size=32:texts=caption")
    original = shards._write

    def stops_in_the_second(path, *rest):
        original(path, *rest)
        if "00001" in path.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(shards, "_write", stops_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_shards(source, tmp_path / "a", per_shard=2)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["00000.tar", MANIFEST]
    monkeypatch.setattr(shards, "_write", original)
    before = (tmp_path / "a" / "00000.tar").stat().st_mtime_ns
    seen = []
    write_shards(
        source, tmp_path / "a", per_shard=2, progress=lambda done, total: seen.append(done)
    )
    assert seen == [2, 3, 4, 5, 6]
    assert (tmp_path / "a" / "00000.tar").stat().st_mtime_ns == before
    assert len(open_source(f"{tmp_path}/a/*.tar")) == 6


def test_folders_with_anything_else_are_refused(tmp_path):
    source = open_source("scenes:count=2:size=32:texts=caption")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="holds other files; give an empty folder"):
        write_shards(source, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    write_shards(source, tmp_path / "a")
    with pytest.raises(InputError, match="holds other shards"):
        write_shards(open_source("scenes:count=2:size=48"), tmp_path / "a")
    with pytest.raises(InputError, match="is a file"):
        write_shards(source, tmp_path / "mine" / "thesis.txt")
    with pytest.raises(InputError, match="at least 1"):
        write_shards(source, tmp_path / "b", per_shard=0)
    assert json.loads((tmp_path / "a" / MANIFEST).read_text())["source"] == source.name


def test_a_key_with_a_dot_is_refused(tmp_path):
    class One:
        name = "one"

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return Sample(key="a.b", source="one")

        def keys(self):
            return ["a.b"]

        def schema(self):
            return {}

    with pytest.raises(InputError, match="'a.b' cannot name members"):
        write_shards(One(), tmp_path / "a")
