"""Refined captions in place of a source's own: the file of `data refine`."""

import pytest
from tests.cli.helpers import make_folder

from diptych.data.sources import open_source, refined
from diptych.errors import InputError


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "images", 3)


def test_what_was_written_is_read(folder, tmp_path):
    spec = f"{folder}/"
    source = open_source(spec)
    path = tmp_path / "a" / "refined.jsonl"
    refined.write(path, spec, source, "caption", [["été", "a lake"], [], ["a road"]])
    found = open_source(f"refined:{path}")
    assert list(found.keys()) == [source.keys()[0], source.keys()[2]]
    assert [sample.captions() for sample in found] == [["été", "a lake"], ["a road"]]
    assert found[-1].captions() == ["a road"]
    assert found[0].images["main"].read() == source[0].images["main"].read()
    assert len(open_source(f"refined:{path}:source={spec}")) == 2
    refined.write(path, spec, source, "long", [["x"], [], []])
    [sample] = open_source(f"refined:{path}")
    assert sample.captions("long") == ["x"]
    assert sample.captions() == source[0].captions()


def test_what_is_refused(folder, tmp_path):
    spec = f"{folder}/"
    path = tmp_path / "refined.jsonl"
    with pytest.raises(InputError, match="no such file; `diptych data refine SOURCE"):
        open_source(f"refined:{path}")
    refined.write(path, spec, open_source(spec), "caption", [[], [], []])
    with pytest.raises(InputError, match="no caption was kept"):
        open_source(f"refined:{path}")
    good = path.read_text()
    path.write_text(good.replace('"captions": []', '"captions": "a road"', 1))
    with pytest.raises(InputError, match="line 2: captions are no list of texts"):
        open_source(f"refined:{path}")
    path.write_text(good.splitlines()[1])
    with pytest.raises(InputError, match="names no source and role"):
        open_source(f"refined:{path}")
    path.write_text(good)
    (folder / "more.png").write_bytes(next(folder.rglob("*.png")).read_bytes())
    with pytest.raises(InputError, match="with other samples than are there now; refine it again"):
        open_source(f"refined:{path}")
