"""Folders of images: classes from subfolders, texts from neighbours, odd names, loops of links."""

import errno
import json
import os
import pickle
from collections import Counter

import pytest
from PIL import Image

from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.errors import InputError


def put(root, name, colour="red"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)
    return path


def test_subfolders_are_classes(tmp_path):
    for name in ("dog/2.png", "dog/1.jpg", "cat/deep/3.PNG", "cat/.hidden.png"):
        put(tmp_path, name)
    source = open_source(str(tmp_path))
    assert list(source.keys()) == ["cat/deep/3.PNG", "dog/1.jpg", "dog/2.png"]
    assert source.schema()["labels.class"].classes == ("cat", "dog")
    assert source.labels("class").tolist() == [0, 1, 1]
    assert [sample.labels["class"] for sample in source] == [0, 1, 1]
    assert source[1].images["main"].decode().size == (4, 4)
    assert len(pickle.loads(pickle.dumps(source))) == 3


def test_an_empty_subfolder_is_a_class_where_there_are_classes(tmp_path):
    put(tmp_path, "dog/2.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "about.md").write_text("no class")
    for name in ("bird/deep", ".cache", "__MACOSX"):
        (tmp_path / name).mkdir(parents=True)
    source = open_source(str(tmp_path))
    assert source.schema()["labels.class"].classes == ("bird", "dog")
    assert source.labels("class").tolist() == [1]
    put(tmp_path, "loose.png")
    assert "labels.class" not in open_source(str(tmp_path)).schema()


def test_texts_beside_images_are_captions(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        put(tmp_path, name)
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    (tmp_path / "b.json").write_text(json.dumps({"caption": "three", "question": "why?"}))
    (tmp_path / "README.txt").write_text("about")
    source = open_source(str(tmp_path))
    assert [sample.captions() for sample in source] == [["one", "two"], ["three"], []]
    schema = source.schema()
    assert schema["texts.caption"].optional
    assert "labels.class" not in schema
    assert source.damage == {}
    assert open_source(f"{tmp_path}:text=question")[1].captions() == ["why?"]
    assert [len(sample.captions()) for sample in open_source(f"{tmp_path}:text=question")] == [
        0,
        1,
        0,
    ]
    kept = open_source(f"{tmp_path}:text=long=question")
    assert [len(sample.captions()) for sample in kept] == [2, 1, 0]
    assert kept[1].captions("long") == ["why?"]


def test_captions_without_images_are_counted_as_missing(tmp_path):
    put(tmp_path, "a.png")
    for name in ("a.txt", "gone.txt"):
        (tmp_path / name).write_text("text")
    assert Counter(open_source(str(tmp_path)).damage.values()) == {"missing": 1}


def test_a_text_that_is_not_utf8_is_a_bad_sample(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(BadSample, match="utf8"):
        open_source(str(tmp_path))[0]


def test_linked_folders_are_followed_once(tmp_path):
    put(tmp_path, "real/a.png")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    assert len(open_source(str(tmp_path))) == 1


def test_names_that_are_not_text_still_work(tmp_path):
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123
            Image.new("RGB", (4, 4)).save(file, "PNG")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    source = open_source(str(tmp_path))
    assert source.keys()[0] == source[0].key == "caf\\xe9.png"
    assert source[0].images["main"].decode().size == (4, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "no images in this folder"),
        ("a.txt", "1 texts and no image"),
        ("a.tar", r"\*.tar"),
        ("t.csv", "t.csv"),
    ],
)
def test_a_folder_without_images_says_what_to_do(tmp_path, name, message):
    if name:
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path))


def test_images_of_kinds_that_are_not_read_are_counted(tmp_path):
    put(tmp_path, "a.png")
    for name in ("b.jp2", "c.SVG", "d.nef", "movie.mp4", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("its image is there, but not read")
    source = open_source(str(tmp_path))
    assert source.damage == {
        str(tmp_path / name): "unsupported" for name in ("b.jp2", "c.SVG", "d.nef")
    }
    (tmp_path / "a.png").unlink()
    (tmp_path / "movie.mp4").unlink()  # alone, it would be a clip
    with pytest.raises(InputError, match="3 images of kinds that are not read"):
        open_source(str(tmp_path))


def test_a_subfolder_that_cannot_be_read_is_counted(tmp_path, monkeypatch):
    for name in ("cat/1.png", "dog/2.png", "owl/3.png"):
        put(tmp_path, name)
    scan = os.scandir

    def scandir(path):
        if os.path.basename(path) == "dog":  # noqa: PTH119
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = open_source(str(tmp_path))
    assert list(source.keys()) == ["cat/1.png", "owl/3.png"]
    assert source.damage == {str(tmp_path / "dog"): "unreadable"}
    assert source.schema()["labels.class"].classes == ("cat", "owl")
    with pytest.raises(InputError, match="cannot be read"):
        open_source(str(tmp_path / "dog"))


def test_names_that_are_no_utf8_are_text_in_keys_classes_and_damage(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102
    put(tmp_path, "b/1.png").rename(os.fsdecode(folder + b"/\xff.png"))
    (tmp_path / "b" / "lost.txt").write_text("x")
    with open(folder + b"/\xff.txt", "w") as file:  # noqa: PTH123
        file.write("y")
    source = open_source(str(tmp_path))
    assert list(source.keys()) == [r"caf\xe9/\xff.png"]
    assert source.schema()["labels.class"].classes == (r"caf\xe9",)
    assert source[0].images["main"].decode().size == (4, 4)
    assert source.damage == {str(tmp_path / "b" / "lost.txt"): "missing"}
