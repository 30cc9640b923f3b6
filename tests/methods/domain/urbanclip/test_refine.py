"""The filter of generated captions: each rule, words that may not be told, similarity by a model."""

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Dot, Fake, Rows

from diptych.data.sample import Field, Sample, Text
from diptych.errors import InputError
from diptych.methods.domain.urbanclip.refine import Rules, opened, reason_of, refined


def tiles(*captions, damage=""):
    """Samples with one caption each, numbered from 0; the first one may be damaged."""
    rows = [
        Sample(
            key=str(at),
            source="tiles",
            images={"main": Dot(at, damage if at == 0 else "")},
            texts=[Text(text=text) for text in texts]
            if isinstance(texts, list)
            else [Text(text=texts)],
            labels={"gdp": 1.0},
        )
        for at, texts in enumerate(captions)
    ]
    fields = {
        "images.main": Field(kind="image"),
        "texts.caption": Field(kind="text"),
        "labels.gdp": Field(kind="float"),
        "labels.Green share": Field(kind="float"),
    }
    return Rows(rows, fields=fields)


LONG = (
    "The image depicts a large field near a river. In this image, there are several cars. A lake. The scene "
    "gives off a sense of industry. The GDP is high here. Several cars. The green share is low. Trees line the"
)


def test_each_rule_drops_its_sentence():
    found = refined(tiles(LONG, "a quiet suburb"))
    assert found.captions == [
        ["a large field near a river", "several cars", "A lake"],
        ["a quiet suburb"],
    ]
    assert found.dropped == {"guessed": 1, "told": 2, "repeated": 1, "unfinished": 1}
    assert found.sentences == 9


def test_rules_can_be_left_out():
    rules = Rules(guessed=False, unfinished=False, openers=False, shortest=3)
    [first, _] = refined(tiles(LONG, "a quiet suburb"), rules).captions
    assert first == [
        "The image depicts a large field near a river",
        "In this image, there are several cars",
        "The scene gives off a sense of industry",
        "Trees line the",
    ]


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("the area may be a hub", "guessed"),
        ("this suggests a mix of uses", "guessed"),
        ("the month of May", "guessed"),  # words alone decide
        ("there appear trees", ""),
        ("lake", "short"),
        ("carbon is high", "told"),
        ("carbonated water tanks", ""),
        ("a green-share scheme", ""),
    ],
)
def test_a_sentence_by_itself(sentence, reason):
    assert reason_of(sentence, Rules(), ("carbon", "green share")) == reason


@pytest.mark.parametrize(
    ("sentence", "left"),
    [
        ("This satellite image shows  two roads", "two roads"),
        ("In the picture, we can see a harbour", "a harbour"),
        ("The scene also includes a few trucks", "a few trucks"),
        ("The image of a saint", "The image of a saint"),
        ("Two roads in the image", "Two roads in the image"),
    ],
)
def test_openers_are_cut_off(sentence, left):
    assert opened(sentence) == left


def test_what_most_images_have_says_nothing():
    texts = [["a city from above", f"house number {at}"] for at in range(4)]
    found = refined(tiles(*texts), Rules(common=0.5))
    assert found.captions == [[f"house number {at}"] for at in range(4)]
    assert found.dropped == {"common": 4}
    assert refined(tiles(*texts), Rules(common=None)).captions == texts
    assert refined(tiles(*texts), Rules(common=1.0)).captions == texts


def test_sentences_of_one_aspect_can_be_left_out():
    found = refined(tiles("a wide river and a road", "many trees. A river bank"), without=["river"])
    assert found.captions == [[], ["many trees"]]


def test_what_a_model_finds_unlike_is_dropped():
    model = Fake(np.eye(4, dtype=np.float32))
    source = tiles(["number 0", "number 1"], ["number 1", "number 2"])
    found = refined(source, Rules(common=None), model=model, negative="0.5")
    assert found.captions == [["number 0"], ["number 1"]]
    assert found.dropped == {"unlike": 2}
    shares = refined(source, Rules(common=None), model=model, negative="25%")
    assert shares.captions == [["number 0", "number 1"], ["number 1", "number 2"]]  # ties stay
    model.vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [0.9, 0.4], [-1, 0]]))
    shares = refined(source, Rules(common=None), model=model, negative="25%")
    assert shares.captions == [["number 0", "number 1"], ["number 1"]]


def test_images_that_cannot_be_read_have_no_captions_then():
    model = Fake(np.eye(4, dtype=np.float32))
    source = tiles("number 0", "number 1", damage="truncated")
    found = refined(source, model=model, negative="0.5")
    assert found.captions == [[], ["number 1"]]
    assert found.bad == {"truncated": 1}


def test_captions_may_come_by_key_and_stay_one_text():
    given = {"1": ["Two roads. A lake"], "9": ["nobody's"]}
    found = refined(tiles("a house", "a mill"), given=given, whole=True)
    assert found.captions == [[], ["Two roads"]]  # the last breaks off
    found = refined(tiles("a house", "a mill"), given={"1": ["Two roads. A lake."]}, whole=True)
    assert found.captions == [[], ["Two roads. A lake"]]


def test_what_cannot_be_refined():
    with pytest.raises(InputError, match="has no texts of role 'long'; name another role"):
        refined(tiles("a house"), role="long")
    with pytest.raises(InputError, match="has no captions by its keys"):
        refined(tiles("a house"), given={"7": ["a mill"]})
    with pytest.raises(InputError, match=r"no sentence of .* is kept .*'short': 1.*; loosen"):
        refined(tiles("house"))
    with pytest.raises(InputError, match="'x' is no threshold"):
        refined(tiles("a house"), negative="x")
    with pytest.raises(InputError, match="needs a model with embed_images"):
        refined(tiles("a house"), model=object())
