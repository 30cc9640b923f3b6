"""Data set cards."""

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
