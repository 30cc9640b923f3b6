"""Shards: everything the reader knows comes back, runs go on where they stopped, and nothing
foreign is overwritten."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data import shards
from diptych.data.images import BytesImage
from diptych.data.masks import VOID
from diptych.data.png import png_of
from diptych.data.sample import Box, Sample, Text
from diptych.data.shards import MANIFEST, write_shards
from diptych.data.sources import open_source
from diptych.data.volume_files import read_volume
from diptych.data.volumes import volume_of
from diptych.errors import InputError
from diptych.testing import Toy

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


def assert_equal_edits(new, old):
    """The edits of two samples are equal, as far as shards hold them."""
    assert [edit.kind for edit in new.edits] == [edit.kind for edit in old.edits]
    for after, edit in zip(new.edits, old.edits, strict=True):
        assert {role: image.read() for role, image in after.images.items()} == {
            role: image.read() for role, image in edit.images.items()
        }
        for role in {text.role for text in edit.texts}:
            assert after.captions(role) == edit.captions(role)
        assert after.labels == {name: value for name, value in edit.labels.items() if value >= 0}
        assert list(after.boxes) == list(edit.boxes)


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
            assert new.captions(role) == old.captions(role)
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
        assert set(new.images) == {"main"}
        assert_equal_edits(new, old)
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


class One:
    """A source of one sample."""

    name = "one"

    def __init__(self, **parts):
        self.sample = Sample(source="one", **{"key": "k"} | parts)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return [self.sample][index]

    def keys(self):
        return [self.sample.key]

    def schema(self):
        return {}


def edit_of(kind, **parts):
    return Sample(key=f"k/{kind}", source="one", kind=kind, **parts)


def back(folder, source):
    """The only sample of a source, written and read."""
    write_shards(source, folder)
    [sample] = open_source(f"{folder}/*.tar")
    return sample


PNG = png_of(Image.new("RGB", (2, 1)))


@pytest.mark.parametrize(
    ("key", "stem"),
    [("pets/a.1.jpg", "pets/a_1_jpg"), ("._a", "-_a"), ("/x/../__b", "_x/__/-_b"), ("c:d", "c_d")],
)
def test_what_a_member_cannot_hold_is_replaced_in_its_key(tmp_path, key, stem):
    assert back(tmp_path / "a", One(key=key, images={"main": BytesImage(PNG)})).key == stem


class Named(One):
    """A source of one image under several keys."""

    def __init__(self, *keys):
        super().__init__(images={"main": BytesImage(PNG)})
        self._keys = keys

    def __len__(self):
        return len(self._keys)

    def __getitem__(self, index):
        return replace(self.sample, key=self._keys[index])

    def keys(self):
        return self._keys


@pytest.mark.parametrize("keys", [("a.b", "c", "a_b"), ("a_b", "c", "a.b"), ("a.b_c", "a_b.c")])
def test_keys_that_would_be_one_are_refused_before_anything_is_written(tmp_path, keys):
    with pytest.raises(InputError, match="samples .* would both be .*rename one") as told:
        write_shards(Named(*keys), tmp_path / "a")
    assert keys[0] in str(told.value)
    assert keys[-1] in str(told.value)
    assert not (tmp_path / "a").exists()


WORDS = st.text("ab é", min_size=1, max_size=5).map(str.strip).filter(bool)
BOXES = st.builds(
    lambda corner, size, **parts: Box(xyxy=(*corner, *np.add(corner, size).tolist()), **parts),
    st.tuples(*[st.integers(-9, 9).map(float)] * 2),
    st.tuples(*[st.integers(1, 40).map(lambda value: value / 4)] * 2),
    text=st.text("ab ", max_size=3),
    label=st.integers(-1, 3),
    image=st.sampled_from(["main", "reference", "page2"]),
)
EDITS = st.lists(
    st.builds(
        edit_of,
        st.sampled_from(["swap", "Swap", "add it", "re-colour"]),
        images=st.dictionaries(
            st.sampled_from(["main", "reference"]), st.just(BytesImage(PNG)), max_size=2
        ),
        texts=st.lists(
            st.builds(Text, text=WORDS, role=st.sampled_from(["caption", "question"])), max_size=4
        ),
        labels=st.dictionaries(
            st.sampled_from(["count", "score"]), st.one_of(st.integers(0, 9), st.floats(0, 1))
        ),
        boxes=st.lists(BOXES, max_size=2),
    ),
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(EDITS)
def test_any_edits_come_back_equal(tmp_path_factory, edits):
    source = One(images={"main": BytesImage(PNG)}, edits=edits)
    sample = back(tmp_path_factory.mktemp("data") / "shards", source)
    assert set(sample.images) == {"main"}
    assert_equal_edits(sample, source.sample)
    assert len({edit.key for edit in sample.edits}) == len(edits)


@settings(max_examples=20, deadline=None)
@given(st.lists(BOXES, max_size=6))
def test_any_boxes_come_back_with_their_texts_and_images(tmp_path_factory, boxes):
    images = {role: BytesImage(PNG) for role in ("main", "reference", "page2")}
    sample = back(tmp_path_factory.mktemp("data") / "shards", One(images=images, boxes=boxes))
    assert sample.boxes == boxes


RECEIPT = {
    "lines": [{"text": "TOTAL", "box": [1, 2, 3, 4]}, {"text": "5.00", "box": [5, 2.5, 3, 4]}],
    "segments": [{"index": 3, "name": "paper"}, {"index": 7, "name": "table"}],
}


def test_lines_and_segments_come_back_as_boxes_and_masks_with_class_names(tmp_path):
    """The source is a tar of the form that the packs have."""
    mask = png_of(Image.fromarray(np.array([[3, 7], [7, 0]], np.uint8)))
    members = {"k.png": PNG, "k.seg.png": mask, "k.json": json.dumps(RECEIPT).encode()}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    source = open_source(f"{tmp_path}/a.tar")
    old = source[0]
    new = back(tmp_path / "b", source)
    assert [(box.text, box.xyxy) for box in new.boxes] == [
        ("TOTAL", (1, 2, 4, 6)),
        ("5.00", (5, 2.5, 8, 6.5)),
    ]
    assert (new.boxes, new.texts) == (old.boxes, old.texts)
    assert new.captions("ocr") == ["TOTAL\n5.00"]
    assert np.asarray(new.masks["class"].decode()).tolist() == [[0, 1], [1, VOID]]
    found = open_source(f"{tmp_path}/b/*.tar").schema()
    assert found["masks.class"].classes == ("paper", "table")
    assert found["masks.seg"].classes == ()


def test_boxes_have_the_class_names_of_the_source(written):
    folder, _ = written
    source, back = open_source(SPEC), open_source(f"{folder}/*.tar")
    classes = source.schema()["boxes"].classes
    named = back.schema()["boxes"].classes
    shown = {box.label for sample in source for box in sample.boxes}
    assert len(shown) > 2
    assert {named[label] for label in shown} == {classes[label] for label in shown}
    assert [named[box.label] for sample in back for box in sample.boxes] == [
        classes[box.label] for sample in source for box in sample.boxes
    ]


def test_labels_of_edits_have_the_class_names_of_the_source(tmp_path):
    write_shards(open_source(SPEC), tmp_path / "shards")
    source = open_source(SPEC)
    found = open_source(f"{tmp_path}/shards/*.tar")
    assert found.schema()["edits"].kind == "edit"
    names = found.schema()["labels.object"].classes
    for old, new in zip(source, found, strict=True):
        for edit, after in zip(old.edits, new.edits, strict=True):
            name = source.schema()["labels.object"].classes[edit.labels["object"]]
            assert names[after.labels["object"]] == name


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([edit_of("")], r"^k: an edit has no kind; give it one, Sample\(kind=…\)$"),
        ([edit_of("a.b")], "'a.b' of an edit cannot name a member of a tar; use letters"),
        ([edit_of("a/b")], "'a/b' of an edit cannot"),
        ([edit_of("mask")], "'mask' of an edit cannot"),
        ([edit_of("main")], "'main' of an edit cannot"),
        ([edit_of("a"), edit_of("a"), edit_of("a2")], "'a2' of an edit cannot"),
        ([edit_of("a", edits=[edit_of("b")])], "'a' has edits"),
        ([edit_of("a", labels={"kind": 1})], "k/a: an edit's text or label is called kind"),
    ],
)
def test_edits_that_could_not_be_read_back_are_refused(tmp_path, edits, message):
    with pytest.raises(InputError, match=message):
        write_shards(One(images={"main": BytesImage(PNG)}, edits=edits), tmp_path / "a")
    assert list((tmp_path / "a").glob("*.tar")) == []


def test_masks_of_objects_are_written(tmp_path):
    source = Toy(3, ["images.main", "boxes", "boxes.mask"])
    write_shards(source, tmp_path)
    again = open_source(str(next(tmp_path.glob("*.tar"))))
    assert again.schema()["boxes.mask"].kind == "mask"
    assert len(again) == 3
    for at in range(3):
        for box, same in zip(source[at].boxes, again[at].boxes, strict=True):
            own, found = (np.asarray(each.mask.decode()) for each in (box, same))
            assert own.any()
            assert np.array_equal(own, found)


def test_volumes_come_back_by_role(tmp_path):
    source = open_source("kidneys:count=3")
    [path] = write_shards(source, tmp_path / "shards")
    with tarfile.open(path) as tar:
        endings = {member.name.partition(".")[2] for member in tar}
    assert "volume.npy" in endings
    assert not any(ending.endswith("png") for ending in endings)
    read = open_source(f"{tmp_path}/shards/*.tar")
    assert {name for name in read.schema() if name.startswith("images.")} <= set(source.schema())
    for index in range(3):
        own, given = read[index], source[index]
        assert own.images.keys() == given.images.keys()
        assert not own.arrays
        for role, image in given.images.items():
            found = volume_of(own.images[role])
            np.testing.assert_array_equal(found, volume_of(image).astype(np.int16))


def test_volumes_of_edits_come_back(tmp_path):
    main, other = (open_source("kidneys:count=2")[index].images["main"] for index in range(2))
    edit = edit_of("swapped", images={"main": other, "venous": main})
    [path] = write_shards(One(images={"main": main}, edits=[edit]), tmp_path / "shards")
    with tarfile.open(path) as tar:
        assert not any(member.name.endswith("png") for member in tar)
    [[found]] = [sample.edits for sample in open_source(str(path))]
    assert found.images.keys() == edit.images.keys()
    for role, image in edit.images.items():
        np.testing.assert_array_equal(volume_of(found.images[role]), volume_of(image))


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_nifti_files_are_volumes_in_shards(tmp_path, ending):
    nibabel = pytest.importorskip("nibabel")
    scan = tmp_path / f"scan.{ending}"
    nibabel.save(
        nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), scan
    )
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(scan, f"a.{ending}")
        tar.add(scan, f"a.venous.{ending}")
    [sample] = open_source(str(tmp_path / "a.tar"))
    wanted = read_volume(scan.read_bytes())
    for role in ("main", "venous"):
        np.testing.assert_array_equal(volume_of(sample.images[role]), wanted)
    [again] = write_shards(open_source(str(tmp_path / "a.tar")), tmp_path / "shards")
    with tarfile.open(again) as tar:
        assert {f"a.{ending}", f"a.venous.{ending}"} < set(tar.getnames())
