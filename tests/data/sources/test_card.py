"""Data set cards."""

import json
from importlib.resources import files

import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.data.sources.card import cards
from diptych.errors import InputError

CARD = """
title = "Mine"
splits = { train = "photos", val = "table.csv:text=caption" }
licence = "mine"
"""


@pytest.fixture
def card(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "table.csv").write_text("image,caption\nphotos/a.png,one\n")
    (tmp_path / "mine.toml").write_text(CARD)
    return tmp_path / "mine.toml"


def test_a_card_of_ones_own_names_splits(card):
    assert open_source(str(card)).keys()[0] == "a.png"
    sample = open_source(f"{card}:split=val")[0]
    assert sample.captions() == ["one"]
    assert sample.images["main"].decode().size == (4, 4)


def test_cards_that_ship_are_short_and_complete():
    for item in files("diptych.data").joinpath("cards").iterdir():
        assert len(item.read_text("utf-8").splitlines()) <= 15
    assert all(
        card.title and card.licence and card.protocol and card.home for card in cards().values()
    )


def test_a_shipped_card_reads_its_pack(data_pack, monkeypatch):
    monkeypatch.setenv("DIPTYCH_DATA", str(data_pack("flickr8k-1k").parent))
    assert len(open_source("flickr8k-1k:split=test")) == 200
    grocery = open_source("grocery:split=test")
    assert (
        grocery[0].captions()
        == [grocery.schema()["labels.label"].classes[0]]
        == ["Golden Delicious"]
    )


@pytest.mark.parametrize(
    ("spec", "count", "fields"),
    [
        ("stsb-multi:split=test:language=zh", 1379, "texts.caption texts.pair labels.score"),
        ("stsb-multi:split=val", 1500, "texts.caption texts.pair labels.score"),
        ("sick:split=val", 500, "texts.caption texts.pair labels.score labels.label"),
        ("multi30k-text:split=test", 1000, "texts.caption texts.de texts.fr texts.cs"),
        ("multi30k-text:split=five", 6000, "texts.caption texts.de"),
        ("cifar10-subset:split=test", 1000, "images.main labels.class"),
        ("coco128", 128, "images.main boxes masks.class masks.seg"),
        ("receipts:split=test", 200, "images.main images.company boxes texts.ocr"),
        ("receipts:image=company", 426, "images.main texts.company_ocr labels.company_id"),
    ],
)
def test_shipped_cards_give_the_fields_of_their_packs(
    data_pack, monkeypatch, tmp_path, spec, count, fields
):
    monkeypatch.setenv("DIPTYCH_DATA", str(data_pack(spec.partition(":")[0]).parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = open_source(spec)
    assert len(source) == count
    assert set(fields.split()) <= set(source.schema())
    assert all(source[at].texts or source[at].images for at in range(0, count, 100))


def test_an_option_of_a_card_chooses_a_part_of_its_splits(tmp_path):
    for language in ("en", "de"):
        (tmp_path / f"{language}.jsonl").write_text(json.dumps({"caption": language}))
    card = tmp_path / "mine.toml"
    card.write_text(
        'title = "Mine"\nlicence = "mine"\noptions = { language = "en+de+fr" }\n'
        'splits = { train = "{language}.jsonl" }'
    )
    assert open_source(str(card))[0].captions() == ["en"]
    assert open_source(f"{card}:language=de")[0].captions() == ["de"]
    for options, message in [
        ("language=dee", "unknown language of .*mine.toml 'dee'; did you mean 'de'"),
        ("langauge=de", "unknown option of .*mine.toml 'langauge'; did you mean 'language'"),
        ("language=fr", "fr.jsonl: no such file"),
    ]:
        with pytest.raises(InputError, match=message):
            open_source(f"{card}:{options}")


def test_dreamlips_card_names_the_roles_of_its_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    (tmp_path / "dreamlip-cc3m").mkdir()
    (tmp_path / "dreamlip-cc3m" / "train.csv").write_text(
        "image,raw,shortIB,longIB,shortSV,longSV,shortLLA,longLLA\na.jpg,r,s1,l1. l2.,s2,l3,s3,l4\n"
    )
    [sample] = open_source("dreamlip-cc3m")
    found = {role: sample.captions(role) for role in ("caption", "synthetic", "long")}
    assert found == {
        "caption": ["r"],
        "synthetic": ["s1", "s2", "s3"],
        "long": ["l1. l2.", "l3", "l4"],
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flickr8k-1k:split=tset", "holds no folder flickr8k-1k"),
        ("CARD:split=vall", "did you mean 'val'"),
        ("CARD:splits=val", "did you mean 'split'"),
        ("none.toml", "no such file"),
    ],
)
def test_what_a_card_lacks_is_named(card, monkeypatch, spec, message):
    monkeypatch.setenv("DIPTYCH_DATA", str(card.parent))
    with pytest.raises(InputError, match=message):
        open_source(spec.replace("CARD", str(card)))


def test_without_the_variable_the_pack_is_asked_for(monkeypatch):
    monkeypatch.delenv("DIPTYCH_DATA", raising=False)
    with pytest.raises(InputError, match="set DIPTYCH_DATA"):
        open_source("flickr8k-1k")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title =", "not TOML"),
        (CARD.replace("licence", "license"), "did you mean 'licence'"),
        (CARD.replace('"photos"', "1"), "must be a mapping of text to text"),
        ('title = "x"', "missing"),
    ],
)
def test_a_broken_card_says_how(card, text, message):
    card.write_text(text)
    with pytest.raises(InputError, match=message):
        open_source(str(card))
