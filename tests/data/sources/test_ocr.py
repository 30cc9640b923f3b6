"""Texts that were read in images, with the table of pairs, in their published forms."""

import json

import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.errors import InputError

TEXTS = {
    "crops/1.png": "acme shipping co",
    "crops/2.png": "acne sh1pping",
    "crops/3.png": "borel ltd",
    "crops/4.png": "",
    "list/a.png": "Acme Shipping Company",
    "list/b.png": "Borel Limited",
}
PAIRS = "source_path,target_path\ncrops/1.png,list/a.png\ncrops/2.png,list/a.png\ncrops/3.png,list/b.png\n"


@pytest.fixture
def folder(tmp_path):
    for name in TEXTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 4)).save(tmp_path / name)
    (tmp_path / "ocr.json").write_text(json.dumps(TEXTS))
    (tmp_path / "pairs.csv").write_text(PAIRS)
    return tmp_path


def test_each_image_has_its_text(folder):
    source = open_source(f"{folder}/ocr.json")
    assert list(source.keys()) == list(TEXTS)
    assert source[1].captions() == ["acne sh1pping"]
    assert source[3].captions() == [], "nothing was read"
    assert source[-1].images["main"].decode().size == (9, 4)
    assert set(source.schema()) == {"images.main", "texts.caption"}


def test_pairs_tell_entities(folder):
    source = open_source(f"{folder}/ocr.json:links={folder}/pairs.csv")
    names = source.schema()["labels.entity"].classes
    assert [names[each] for each in source.labels("entity")] == [
        *("crops/1.png", "crops/1.png", "crops/3.png", "crops/4.png"),
        *("crops/1.png", "crops/3.png"),
    ]
    assert source[4].labels == {"entity": 0}


def test_a_side_has_the_entities_of_both(folder):
    links = f"{folder}/ocr.json:links={folder}/pairs.csv"
    targets = open_source(f"{links}:side=target")
    queries = open_source(f"{links}:side=source")
    assert list(targets.keys()) == ["list/a.png", "list/b.png"]
    assert list(queries.keys()) == ["crops/1.png", "crops/2.png", "crops/3.png"]
    for source in (targets, queries):
        classes = source.schema()["labels.entity"].classes
        assert classes[source[0].labels["entity"]] == "crops/1.png"


def test_a_query_without_a_target_is_in_no_pair(folder):
    (folder / "links.csv").write_text(
        "source_path,target_path,similarity\ncrops/1.png,list/a.png,0.91\ncrops/4.png,,0.3\n"
    )
    source = open_source(f"{folder}/ocr.json:links={folder}/links.csv")
    assert len(set(source.labels("entity").tolist())) == 5


def test_members_that_are_no_text_of_an_image_are_counted(folder):
    (folder / "ocr.json").write_text(json.dumps({**TEXTS, "../x.png": "out", "crops/9.png": 3}))
    source = open_source(f"{folder}/ocr.json")
    assert len(source) == 6
    assert set(source.damage.values()) == {"columns"}
    assert len(source.damage) == 2


@pytest.mark.parametrize(
    ("options", "pairs", "message"),
    [
        (":side=source", PAIRS, "side=source is of a table of pairs; add links=FILE"),
        (":links={}/none.csv", PAIRS, "no such file; check the path of links"),
        (":links={}/pairs.csv", "source,target_path\na,b\n", "did you mean"),
        (":links={}/pairs.csv", PAIRS + "crops/7.png,list/a.png\n", "names crops/7.png, which has"),
        (":images={}/elsewhere", PAIRS, "its first image, crops/1.png, is not in"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(folder, options, pairs, message):
    (folder / "pairs.csv").write_text(pairs)
    with pytest.raises(InputError, match=message) as caught:
        open_source(f"{folder}/ocr.json{options.format(folder)}")
    assert "\n" not in str(caught.value)


def test_an_image_that_is_gone_is_a_bad_sample(folder):
    (folder / "crops/2.png").unlink()
    source = open_source(f"{folder}/ocr.json")
    with pytest.raises(Exception, match="missing"):
        source[1].images["main"].decode()
