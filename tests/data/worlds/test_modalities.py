"""The world `modalities`: texts and masks say what the images show, and reserved forms share nothing
with seen ones."""

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.data.worlds.modalities import Config, World
from diptych.data.worlds.modalities.draw import LOOKS, draw
from diptych.data.worlds.modalities.words import (
    CLASSES,
    FINDINGS,
    MODALITIES,
    NORMAL,
    SENTENCES,
    named,
)
from diptych.errors import InputError


def read(text: str) -> tuple[str, str]:
    """The modality and the finding that a text names, by the longest names in it."""
    images = {name: key for key, names in MODALITIES.items() for name in names}
    modality = images[max((name for name in images if name in text), key=len)]
    found = {
        name: finding
        for finding in ("normal", *FINDINGS[modality])
        for name in named(modality, finding)
    }
    return modality, found[max((name for name in found if name in text), key=len)]


@pytest.mark.parametrize("wordings", ["seen", "reserved"])
def test_captions_name_what_is_shown_with_its_size_and_side(wordings):
    source = open_source(f"modalities:count=300:wordings={wordings}")
    for index in range(300):
        facts = source.world.sample(0, index)
        [caption] = source[index].captions()
        modality, finding = source.world.described(facts)
        assert read(caption) == (modality, finding)
        labels = source[index].labels
        assert source.schema()["labels.modality"].classes[labels["modality"]] == modality
        if finding == "normal":
            assert labels["side"] == -1
            assert not caption.endswith((" left", " right"))
        else:
            assert caption.endswith(("on the left", "on the right")[labels["side"]])
            assert ("large" in caption) == (facts.radius > 0.24)


def test_texts_of_classes_differ_and_say_nothing_of_an_image():
    world = World(Config())
    for number, (modality, finding) in enumerate(CLASSES):
        texts = world.texts_of("class", world.classes[number], 10)
        assert len(set(texts)) == 10
        assert all(read(text) == (modality, finding) for text in texts)
        assert not any(word in text for text in texts for word in ("small", "large", " left"))
    assert world.texts_of("class", world.classes[0], 3, seed=1) != texts[:3]
    with pytest.raises(InputError, match="write --of class"):
        world.texts_of("modality", "ct", 1)


def test_reserved_forms_are_no_seen_ones_and_names_are_unambiguous():
    assert not set(SENTENCES["seen"]) & set(SENTENCES["reserved"])
    names = [name for m in FINDINGS for f in FINDINGS[m] for name in named(m, f)]
    assert len(set(names)) == len(names) == 72
    assert not set(names) & set(NORMAL)
    classes = World(Config()).classes
    assert len(set(classes)) == 24


def test_a_finding_changes_the_image_where_its_mask_is_and_nowhere_else():
    for modality, finding in CLASSES:
        if finding == "normal":
            continue
        for seed in range(3):
            image, mask = draw(modality, finding, (0.3, 0.1), 0.28, 48, seed)
            plain, empty = draw(modality, "normal", (0.3, 0.1), 0.28, 48, seed)
            assert not empty.any()
            change = np.abs(image.astype(int) - plain.astype(int)).max(-1)
            assert change[mask == 1].mean() > 20, (modality, finding)
            far = np.hypot(*np.meshgrid(*[np.linspace(-1, 1, 48) - at for at in (0.3, 0.1)])) > 0.95
            assert not change[far].any()


def test_masks_lie_on_the_side_of_the_label():
    source = open_source("modalities:count=120:size=48")
    for sample in source:
        mask = np.asarray(sample.masks["finding"].decode())
        if sample.labels["side"] < 0:
            assert not mask.any()
        elif mask.any():
            assert (np.nonzero(mask)[1].mean() > 23.5) == sample.labels["side"]


def test_modalities_look_different():
    """The nearest mean image of 8 x 8 blocks."""
    source = open_source("modalities:count=360")

    def features(sample):
        pixels = np.asarray(sample.images["main"].decode(), np.float64)
        return pixels.reshape(8, 4, 8, 4, 3).mean((1, 3)).ravel()

    x = np.stack([features(sample) for sample in source])
    y = np.array([sample.labels["modality"] for sample in source])
    means = np.stack([x[:180][y[:180] == value].mean(0) for value in range(6)])
    found = np.argmin(np.linalg.norm(x[180:, None] - means, axis=-1), axis=1)
    assert (found == y[180:]).mean() > 0.95


def test_some_samples_have_a_class_alone():
    source = open_source("modalities:count=400:captioned=0.2")
    share = np.mean([len(sample.captions()) for sample in source])
    assert 0.12 < share < 0.28
    assert source.schema()["texts.caption"].optional
    assert "texts.caption" not in open_source("modalities:captioned=0.0").schema()
    assert not open_source("modalities").schema()["texts.caption"].optional


def test_some_modalities_have_classes_of_their_own():
    source = open_source("modalities:modalities=ct+fundus:count=60")
    names = source.schema()["labels.class"].classes
    assert len(names) == 8
    assert {source.world.described(source.world.sample(0, at))[0] for at in range(60)} == {
        "ct",
        "fundus",
    }
    assert set(LOOKS) == {finding for own in FINDINGS.values() for finding in own}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("size=8", "it must be from 16 to 224"),
        ("captioned=2.0", "it is a share, from 0 to 1"),
        ("modalities=pet", "unknown modality of modalities 'pet'"),
        ("wordings=resreved", "did you mean 'reserved'"),
        ("split=dev", "unknown split of modalities"),
    ],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        open_source(f"modalities:{options}")
