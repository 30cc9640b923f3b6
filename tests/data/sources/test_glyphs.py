"""The shipped drawings: counts, splits, the held-out design, and where each lies in its sheet."""

import hashlib
import io
import pickle
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from diptych.data.drawings import DESIGNS, concepts
from diptych.data.sources import open_source
from diptych.errors import InputError


def test_counts_of_splits_and_designs():
    assert len(open_source("glyphs:split=all:design=all")) == 1632 + 1595 + 1080 + 1632
    assert [
        len(open_source(f"glyphs:split={split}:design=noto")) for split in ("train", "val", "test")
    ] == [
        1263,
        177,
        192,
    ]
    assert len(open_source("glyphs:split=train+val:design=twemoji")) == 1440


def test_the_held_out_hand_and_concepts_appear_only_where_named():
    keys = list(open_source("glyphs").keys())
    assert not any(key.endswith("/twemoji") for key in keys)
    test = {sample.key.split("/")[0] for sample in open_source("glyphs:split=test:design=all")}
    assert not test & {key.split("/")[0] for key in keys}


def test_the_split_is_the_hash_of_the_code():
    for concept in concepts():
        digit = int.from_bytes(hashlib.sha1(concept["hexcode"].encode()).digest(), "big") % 10
        assert concept["split"] == {0: "test", 1: "val"}.get(digit, "train")


def test_a_sample_has_image_mask_texts_and_labels():
    source = open_source("glyphs:split=all:design=all")
    sample = source[list(source.keys()).index("1f34e/noto")]
    assert sample.captions() == ["red apple"]
    assert "fruit" in sample.captions("tags")
    schema = source.schema()
    names = {name: schema[f"labels.{name}"].classes[value] for name, value in sample.labels.items()}
    assert names == {
        "concept": "red apple",
        "group": "food-drink",
        "subgroup": "food-fruit",
        "design": "noto",
    }
    image = sample.images["main"].decode()
    assert (image.mode, image.size) == ("RGBA", (64, 64))
    assert image.getpixel((0, 0))[3] == 0
    red, green, _, alpha = image.getpixel((32, 40))
    assert alpha == 255
    assert red > 2 * green
    assert np.array_equal(np.asarray(sample.masks["main"].decode()), np.asarray(image)[..., 3])
    assert Image.open(io.BytesIO(sample.images["main"].read())).tobytes() == image.tobytes()


@pytest.mark.parametrize("design", DESIGNS)
def test_each_concept_a_design_has_is_drawn_and_no_other(design):
    drawn = {concept["index"] for concept in concepts() if design in concept["designs"]}
    sheet = np.asarray(
        Image.open(
            io.BytesIO(files("diptych.data").joinpath("glyphs", f"{design}.webp").read_bytes())
        )
    )
    alpha = sheet[..., 3].reshape(-1, 64, 40, 64).max((1, 3)).ravel()
    assert set(np.flatnonzero(alpha > 0).tolist()) == drawn


def test_labels_agree_with_samples_and_concepts_stay_together():
    source = open_source("glyphs:split=val")
    for name in ("concept", "group", "subgroup", "design"):
        assert source.labels(name).tolist() == [sample.labels[name] for sample in source]
    assert (np.diff(source.labels("concept")) >= 0).all()
    assert len(set(source.keys())) == len(source)


def test_the_pack_is_small_attributed_and_pickles_small():
    pack = files("diptych.data").joinpath("glyphs")
    assert sum(len(item.read_bytes()) for item in pack.iterdir()) <= 6_600_000
    licences = pack.joinpath("LICENSES.md").read_text("utf-8")
    for words in (
        "Apache License",
        "MIT License",
        "Creative Commons",
        "Google",
        "Twitter",
        "Microsoft",
        "EmojiOne",
    ):
        assert words in licences
    assert len(pickle.dumps(open_source("glyphs:split=all:design=all"))) < 60_000


def test_names_in_other_languages_are_texts_of_their_role():
    source = open_source("glyphs:split=test:design=noto:names=de+ja")
    sample = source[list(source.keys()).index("1f604/noto")]
    found = {role: sample.captions(role) for role in ("caption", "de", "ja")}
    assert found == {
        "caption": ["grinning face with smiling eyes"],
        "de": ["grinsendes Gesicht mit lachenden Augen"],
        "ja": ["笑顔"],
    }
    assert {"texts.de", "texts.ja"} <= set(source.schema())
    assert "texts.fr" not in source.schema()
    every = open_source("glyphs:split=all:design=noto:names=all")
    assert len(every.languages) == 27
    for at in range(0, len(every), 100):
        assert all(every[at].captions(language)[0].strip() for language in every.languages)
    assert "texts.de" not in open_source("glyphs").schema()


def test_shares_of_groups():
    assert Counter(concept["group"] for concept in concepts())["people-body"] == 380


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("glyphs:split=tset", "did you mean 'test'"),
        ("glyphs:design=notto", "did you mean 'noto'"),
        ("glyphs:designs=noto", "did you mean 'design'"),
        ("glyphs:names=dee", "unknown language of glyphs 'dee'; did you mean 'de'"),
        ("glyps", "did you mean 'glyphs'"),
    ],
)
def test_misspelt_options_name_the_nearest(spec, message):
    with pytest.raises(InputError, match=message):
        open_source(spec)
