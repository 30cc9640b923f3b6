"""Finding the format, joining sources."""

import json
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diptych.data.compact import Groups, Strings
from diptych.data.sample import Source
from diptych.data.sources import Concat, Part, formats, open_source
from diptych.errors import InputError
from diptych.spec import parse


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    return root


def test_every_format_file_is_found():
    assert set(formats()) >= {"tar", "folder", "table", "coco", "flickr", "glyphs"}
    for module in formats().values():
        assert callable(module.claims)
        assert callable(module.open)


@pytest.mark.parametrize(
    ("name", "general", "reader"),
    [
        ("cap.rc2.val.json", "coco", "cirr"),
        ("cap.dress.val.json", "coco", "fashioniq"),
        ("split_zhou_Pets.json", "coco", "split_zhou"),
        ("VQA-E_val_set.json", "coco", "vqa"),
        ("instances.json", "coco", "coco"),
        ("snli_1.0_dev.jsonl", "table", "snli"),
        ("pairs.jsonl", "table", "table"),
        ("glyphs", "folder", "glyphs"),
        ("scenes", "folder", "world"),
        ("./glyphs", "folder", "folder"),
    ],
)
def test_what_a_format_knows_by_name_goes_to_no_reader_of_any(
    name, general, reader, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir() if general == "folder" else (tmp_path / name).touch()
    claiming = [each for each, module in formats().items() if module.claims(parse(name))]
    assert set(claiming) == {general, reader}
    asked = []
    for each in claiming:
        monkeypatch.setattr(formats()[each], "open", lambda spec, each=each: asked.append(each))
    open_source(name)
    assert asked == [reader]


def test_joined_sources_keep_order_and_find_every_sample(tmp_path):
    put(tmp_path / "one", "a.png", "b.png")
    put(tmp_path / "two", "c.png")
    source = open_source(f"{tmp_path / 'one'},{tmp_path / 'two'}")
    assert isinstance(source, Source)
    assert list(source.keys()) == [sample.key for sample in source] == ["a.png", "b.png", "c.png"]
    assert [sample.source for sample in source] == [
        str(tmp_path / name) for name in ("one", "one", "two")
    ]
    assert source[-1].key == "c.png"
    with pytest.raises(IndexError):
        source[3]


def test_keys_are_prefixed_only_where_they_collide(tmp_path):
    put(tmp_path / "one", "a.png", "b.png")
    put(tmp_path / "two", "b.png")
    source = open_source(f"{tmp_path / 'one'},{tmp_path / 'two'}")
    assert (
        list(source.keys())
        == [sample.key for sample in source]
        == ["0/a.png", "0/b.png", "1/b.png"]
    )


def test_class_lists_are_united_and_labels_renumbered(tmp_path):
    put(tmp_path / "one", "cat/1.png", "dog/2.png")
    put(tmp_path / "two", "cow/3.png", "dog/4.png")
    source = open_source(f"{tmp_path / 'one'},{tmp_path / 'two'}")
    assert source.schema()["labels.class"].classes == ("cat", "dog", "cow")
    assert (
        [sample.labels["class"] for sample in source]
        == source.labels("class").tolist()
        == [0, 1, 2, 1]
    )


def test_a_label_of_floats_that_a_source_lacks_is_nan(tmp_path):
    (tmp_path / "one.csv").write_text("caption,height\na,0.5\nb,\n")
    (tmp_path / "two.csv").write_text("caption\nc\n")
    source = open_source(f"{tmp_path / 'one.csv'},{tmp_path / 'two.csv'}")
    np.testing.assert_equal(source.labels("height"), [0.5, np.nan, np.nan])


def test_labels_of_edits_are_renumbered_too(tmp_path):
    for name, first, second in (("one", "cat", "dog"), ("two", "cow", "dog")):
        edit = {"kind": "replace", "label": 1, "name": second}
        row = {"caption": "x", "label": 0, "name": first, "edits": [edit]}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    paths = [f"{tmp_path / name}.jsonl:label=label" for name in ("one", "two")]
    source = open_source(",".join(paths))
    assert source.schema()["labels.label"].classes == ("cat", "dog", "cow")
    assert [sample.labels["label"] for sample in source] == [0, 2]
    assert [sample.edits[0].labels["label"] for sample in source] == [1, 1]


def test_fields_of_some_sources_become_optional(tmp_path):
    put(tmp_path / "one", "cat/1.png")
    put(tmp_path / "two", "3.png")
    (tmp_path / "two" / "3.txt").write_text("a caption")
    source = open_source(f"{tmp_path / 'one'},{tmp_path / 'two'}")
    schema = source.schema()
    assert schema["labels.class"].optional
    assert schema["texts.caption"].optional
    assert not schema["images.main"].optional
    assert source.labels("class").tolist() == [0, -1]


def test_damage_of_all_sources_is_joined(tmp_path):
    for name in ("one", "two"):
        put(tmp_path / name, "a.png")
        for text in ("a.txt", "gone.txt"):
            (tmp_path / name / text).write_text("x")
    source = open_source(f"{tmp_path / 'one'},{tmp_path / 'two'}")
    assert Counter(source.damage.values()) == {"missing": 2}


def test_a_comma_inside_braces_or_an_existing_name_does_not_split(tmp_path):
    put(tmp_path / "a,b", "1.png")
    assert len(open_source(str(tmp_path / "a,b"))) == 1
    with pytest.raises(InputError, match=r"x\.tar: no such file"):
        open_source(str(tmp_path / "{x,y}.tar"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "no data given"),
        ("/no/such/place", "no such file or folder"),
        ("nothing.csv", "no such file"),
        ("https://example.com/a.csv", "download"),
        ("s3://bucket/a.tar", "s3fs.*download"),
        ("x" * 5000, "unknown source"),
    ],
)
def test_what_is_not_there_is_an_input_error(spec, message):
    with pytest.raises(InputError, match=message):
        open_source(spec)


def test_names_of_the_package_go_before_folders_and_folders_before_endings(tmp_path, monkeypatch):
    monkeypatch.chdir(
        put(
            tmp_path,
            "glyphs/a.png",
            "flickr8k-1k/a.png",
            "odd.tar/a.png",
            "odd.csv/a.png",
            "odd.json/a.png",
        )
    )
    monkeypatch.delenv("DIPTYCH_DATA", raising=False)
    assert len(open_source("glyphs")) > 1000
    with pytest.raises(InputError, match="set DIPTYCH_DATA"):
        open_source("flickr8k-1k")
    for name in ("./glyphs", "glyphs/", "./flickr8k-1k", "odd.tar", "odd.csv", "odd.json"):
        assert list(open_source(name).keys()) == ["a.png"]


def test_a_file_of_no_known_format_names_the_formats(tmp_path):
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(
        InputError,
        match="no format reads this file; the formats are .*card, .*cirr, .*coco, .*world",
    ):
        open_source(str(tmp_path / "a.xlsx"))


def test_an_image_or_a_pattern_of_images_is_refused_with_its_folder(tmp_path):
    file = tmp_path / "a.JPG"
    file.write_bytes(b"x")
    for name, message in {
        f"{file}": "one image is no source; name its folder, .*/ (`diptych classify`",
        f"{tmp_path}/*.jpg": "a pattern of images is no source; name their folder, .*/$",
        f"{tmp_path}/*/*.{{jpg,png}}": "a pattern of images",
        f"{tmp_path}/*": "a pattern of images",
        f"{tmp_path}/none.jpg": "no such file or folder",
        f"{tmp_path}/*.doc": "no such file or folder",
    }.items():
        with pytest.raises(InputError, match=message.replace("(`", r"\(`")):
            open_source(name)


def test_groups_follow_first_appearance():
    groups = Groups(np.array([9, 2, 9, 5, 2]))
    assert [groups[at].tolist() for at in range(len(groups))] == [[0, 2], [1, 4], [3]]


def test_strings_take_any_text():
    texts = ["", "é", "\udce9", "a" * 1000]
    assert list(Strings(texts)) == texts


def test_one_source_may_be_joined_too():
    source = open_source("glyphs:split=val")
    assert list(Concat([source]).keys()) == list(source.keys())


class Numbers:
    """A source of numbers, for what is cut and joined."""

    name = "numbers"

    def __init__(self, count: int, lost: int = 0):
        self.items = list(range(count))
        self.damage = {f"row {at}": "columns" for at in range(lost)}

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def keys(self):
        return list(map(str, self.items))

    def schema(self):
        return {}


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_parts_are_disjoint_cover_all_and_are_of_equal_size(count, parts, lost):
    parts = min(parts, count)
    whole = Numbers(count, lost)
    found = [Part(whole, f"{at}/{parts}") for at in range(1, parts + 1)]
    assert [part[at] for part in found for at in range(len(part))] == whole.items
    assert list(chain.from_iterable(part.keys() for part in found)) == whole.keys()
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert [place for part in found for place in part.damage] == list(whole.damage)


def test_any_source_is_cut_by_the_same_option(tmp_path):
    whole = open_source("glyphs:split=val")
    part = open_source("glyphs:split=val:part=2/3")
    assert isinstance(part, Source)
    start = len(whole) // 3
    assert part[0] == whole[start]
    assert part[-1] == whole[start + len(part) - 1]
    assert part.keys()[0] == whole.keys()[start]
    assert (
        part.labels("concept").tolist()
        == whole.labels("concept")[start : start + len(part)].tolist()
    )
    assert part.schema() == whole.schema()
    assert part.name.endswith(":part=2/3")
    with pytest.raises(IndexError):
        part[len(part)]
    put(tmp_path, "a.png", "b.png", "c.png")
    joined = open_source(f"{tmp_path}:part=1/3,{tmp_path}:part=3/3")
    assert list(joined.keys()) == ["a.png", "c.png"]
    assert list(open_source(f"{tmp_path}:part=2/3:text=x").keys()) == ["b.png"]


@pytest.mark.parametrize(
    "part", ["6/5", "0/5", "1/0", "-1/5", "1", "1/5/2", "first", "0.2", "", "None"]
)
def test_what_is_no_part_is_told(tmp_path, part):
    put(tmp_path, *(f"{at}.png" for at in range(6)))
    with pytest.raises(InputError, match=r"is none; write :part=1/N to :part=N/N"):
        open_source(f"{tmp_path}:part={part}")


def test_a_part_without_a_sample_is_told(tmp_path):
    put(tmp_path, "a.png", "b.png")
    with pytest.raises(
        InputError, match=r"part=1/3 of .* is empty: it has 2 samples; ask for fewer"
    ):
        open_source(f"{tmp_path}:part=1/3")
