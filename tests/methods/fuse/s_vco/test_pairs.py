"""Which samples and edits are pairs, what is read of one, and the images of the ablations."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Rows
from tests.factories import tokenizer
from tests.methods.fuse.s_vco_helpers import qa, toy

from diptych.data.images import Preprocess
from diptych.data.sample import Text
from diptych.errors import InputError
from diptych.methods.fuse.s_vco.pairs import REFERENCE, Pairs, PairView, damaged, responses


def test_responses_are_answers_to_questions_that_both_have():
    sample = qa(0, ("how many?", "two|2"), ("what colour?", "red"), ("where?", "left"))
    edit = qa(1, ("where?", "right"), ("what colour?", "Red."), ("how many?", "three"))
    found = responses(sample, edit)
    assert [(each.question, each.chosen, each.rejected) for each in found] == [
        ("how many?", "two", "three"),
        ("where?", "left", "right"),
    ]


def test_responses_of_another_role_are_its_first_texts():
    sample = toy()[0]
    [found] = responses(sample, sample.edits[0], "caption")
    assert found.question is None
    assert (found.chosen, found.rejected) == (
        "a red circle on the left",
        "a green circle on the left",
    )
    assert responses(sample, sample, "caption") == []
    assert responses(sample, sample.edits[0], "long") == []


def test_each_pair_is_a_sample_with_one_edit_and_its_own_row():
    edits = (
        qa(1, ("how many?", "three"), ("where?", "right"), kind="count"),
        qa(2, ("how many?", "two"), kind="same"),
        replace(qa(3, ("how many?", "four"), kind="none"), images={}),
        qa(4, ("how many?", "five"), kind="count"),
    )
    rows = [
        qa(0, ("how many?", "two"), ("where?", "left"), edits=edits),
        qa(5, ("how many?", "two")),
        qa(6, ("where?", "up"), edits=(qa(7, ("where?", "down"), kind="move"),)),
    ]
    rows[0] = replace(rows[0], arrays={REFERENCE: np.arange(18.0).reshape(3, 6)})
    pairs = Pairs(Rows(rows))
    assert list(pairs.keys()) == ["s0#1", "s0#2", "s0#3", "s6#1"]
    assert pairs.numbers.tolist() == [0, 1, 2, 0]
    found = [pairs[at] for at in range(4)]
    assert [[text.text for text in each.texts] for each in found] == [
        ["how many?", "two"],
        ["where?", "left"],
        ["how many?", "two"],
        ["where?", "up"],
    ]
    assert [each.edits[0].captions("answer") for each in found] == [
        ["three"],
        ["right"],
        ["five"],
        ["down"],
    ]
    assert [each.edits[0].images["main"].number for each in found] == [1, 1, 4, 7]
    assert found[1].arrays[REFERENCE].tolist() == list(range(6, 12))
    assert len(Pairs(Rows(rows), kinds=("move",))) == 1
    again = pickle.loads(pickle.dumps(pairs))
    assert again[2].edits[0].captions("answer") == ["five"]
    assert pairs[-1].key == "s6#1"
    with pytest.raises(IndexError):
        pairs[4]


def test_damaged_samples_are_counted_and_sources_without_pairs_refused():
    unpaired = replace(qa(0), texts=[Text(text="where?", role="question")])
    rows = [unpaired, qa(1, ("where?", "up"), edits=(qa(2, ("where?", "down")),))]
    rows[0] = replace(rows[0], edits=rows[1].edits)
    pairs = Pairs(Rows(rows))
    assert (len(pairs), pairs.unread) == (1, 1)
    with pytest.raises(InputError, match="another text of role answer to the same question"):
        Pairs(Rows([qa(1, ("where?", "up"))]))


def test_the_view_marks_both_responses_and_their_ends():
    words = tokenizer()
    view = PairView(
        preprocess=Preprocess(size=8), tokenizer=words, length=20, role="caption", prompt="a"
    )
    sample = Pairs(toy(), "caption")[0]
    found = view(sample, np.random.default_rng(0), None)
    assert found["images.main"].shape == (2, 3, 8, 8)
    for text, image, caption in zip(
        found["texts.main"],
        (sample, sample.edits[0]),
        ("a red circle on the left", "a green circle on the left"),
        strict=True,
    ):
        own = [*words.ids(caption), *words.after]
        before = [*words.before, *words.ids("a")]
        assert list(text.ids) == [*before, *own]
        assert list(text.marks) == [-1] * len(before) + own
        at = int(image is not sample)
        assert torch.equal(found["images.main"][at], view.preprocess.read(image.images["main"]))
    asked = PairView(preprocess=Preprocess(size=8), tokenizer=words, length=20, template="on {} a")
    turn = qa(0, ("the", "red"), edits=(qa(1, ("the", "green")),))
    [text, _] = asked(Pairs(Rows([turn]))[0], np.random.default_rng(0), None)["texts.main"]
    assert list(text.ids) == [
        *words.before,
        *words.ids("on the a"),
        *words.ids("red"),
        *words.after,
    ]
    assert asked.reads == ("images.main", "edits", "texts.question", "texts.answer")


@pytest.mark.parametrize("negative", ["noise", "crop"])
def test_images_of_the_ablations_are_the_same_in_every_epoch(negative):
    words = tokenizer()
    view = PairView(
        preprocess=Preprocess(size=16), tokenizer=words, length=20, role="caption", negative=negative
    )  # fmt: skip
    pairs = Pairs(toy(), "caption")
    one = view(pairs[0], np.random.default_rng(0), 0.0)["images.main"]
    again = view(pairs[0], np.random.default_rng(1), 0.9)["images.main"]
    other = view(pairs[1], np.random.default_rng(0), 0.0)["images.main"]
    assert one.shape == (4, 3, 16, 16)
    assert torch.equal(one, again)
    assert not torch.equal(one[2], one[0])
    assert not torch.equal(one[2], other[2])


def test_a_crop_shows_a_fifth_of_the_image_at_most():
    rows = torch.arange(40, dtype=torch.uint8)[None, :, None].expand(3, 40, 40)
    for seed in range(20):
        crop = damaged(rows, "crop", np.random.default_rng(seed))
        seen = int(crop.max()) - int(crop.min()) + 1
        assert 0 < seen <= round(40 * 0.2**0.5)
