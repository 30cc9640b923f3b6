"""Pairs for S-VCO: two models' limits, flips by category, and texts that become questions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Dot, Rows
from tests.methods.fuse.s_vco_helpers import qa, toy

from diptych.data.images import Preprocess
from diptych.data.sample import Sample, Text
from diptych.data.sources import open_source
from diptych.data.sources.mvc import FILE
from diptych.errors import InputError
from diptych.methods.fuse.s_vco.contrast import Flips, contrast, cosines, exchanged
from diptych.testing import Toy


class Angles:
    """Embeds a dot as the unit vector at its number of degrees, times a factor."""

    name = "angles"

    def __init__(self, factor=1.0):
        self.factor = factor
        self.preprocess = Preprocess(size=1, mean=(0, 0, 0), std=(1, 1, 1))

    def embed_images(self, pixels, batch_size=64):
        angle = torch.deg2rad(self.factor * pixels[:, 0, 0, 0].double())
        return torch.stack([angle.cos(), angle.sin()], 1)


class Writer:
    """Answers the prompts that contain a text, in the order of the table."""

    name = "writer"

    def __init__(self, **answers):
        self.answers = answers
        self.seen = []

    def __call__(self, questions, attempt):
        self.seen += [question.prompt for question in questions]
        return [self.answers[question.prompt.split()[0]] for question in questions]


def dots(*angles):
    """A sample of the image 0 with an edit at each angle; 200 is damaged."""
    edits = tuple(
        replace(
            qa(angle, ("where?", f"at {angle}"), kind="turn"),
            images={"main": Dot(angle, "gone" if angle == 200 else "")},
        )
        for angle in angles
    )
    return Rows([qa(0, ("where?", "at home"), edits=edits)])


def test_cosines_are_of_the_two_images_of_a_pair():
    from diptych.methods.fuse.s_vco.pairs import Pairs

    found = cosines(Angles(), Pairs(dots(60, 200, 90, 10)), batch_size=3)
    expected = [0.5, np.nan, 0.0, np.cos(np.deg2rad(10))]
    assert np.allclose(found, expected, atol=1e-6, equal_nan=True)


def test_pairs_are_kept_between_the_two_limits(tmp_path):
    # cos 20° = .94, cos 40° = .77, cos 50° = .64; and by the other model of twice the angle .77, .17, -.17
    limits = {"similar": Angles(), "differs": Angles(2.0)}
    with pytest.raises(InputError, match="no pair of rows is left"):
        contrast(dots(50), tmp_path / "none", **limits)
    assert not (tmp_path / "none").exists()
    found = contrast(
        Rows([*dots(20, 40, 50, 200)]), tmp_path / "out", above=0.8, below=0.8, **limits
    )
    assert (found.pairs, found.written) == (4, 1)
    assert dict(found.dropped) == {"unread image": 1, "not similar": 2}
    found = contrast(
        Rows([*dots(20, 40, 50)]), tmp_path / "more", **limits
    )  # above .7 and below .5, as published
    assert dict(found.dropped) == {"not similar": 1, "no detail": 1}
    [kept] = open_source(str(tmp_path / "more" / FILE))
    assert kept.edits[0].captions("answer") == ["at 40"]
    assert kept.edits[0].kind == "turn"
    with pytest.raises(InputError, match="give both, or none"):
        contrast(dots(50), tmp_path / "one", similar=Angles())


def test_kinds_that_are_not_named_are_left_out(tmp_path):
    found = contrast(toy(2), tmp_path / "out", role="caption", kinds=("move", "replace"))
    assert (found.pairs, found.written) == (4, 4)
    kinds = [sample.edits[0].kind for sample in open_source(str(tmp_path / "out" / FILE))]
    assert kinds == ["replace", "move"] * 2


# ---- flips


def test_left_and_right_are_exchanged_as_words():
    assert exchanged("LEFT, left of the RIGHT copyright") == "RIGHT, right of the LEFT copyright"
    assert exchanged("the upright bar") == "the upright bar"


def test_a_flip_is_a_mirrored_image_with_the_other_word():
    flips = Flips(Toy(40), "caption", 100, None, 0)
    toys = [Toy(40)[at] for at in range(40)]
    sided = [each for each in toys if exchanged(each.captions()[0]) != each.captions()[0]]
    assert list(flips.keys()) == [f"{sample.key}#flip" for sample in sided]
    sample = flips[3]
    [edit] = sample.edits
    assert edit.kind == "flip"
    assert edit.captions() == [exchanged(sample.captions()[0])]
    assert sample.captions() == sided[3].captions()
    own = np.asarray(sample.images["main"].decode())
    assert np.array_equal(np.asarray(edit.images["main"].decode()), own[:, ::-1])


def test_flips_are_drawn_by_category_and_seed():
    source = Toy(128, ("images.main", "texts.caption", "labels.colour"))
    flips = Flips(source, "caption", 2, "colour", 0)
    drawn = [sample.labels["colour"] for sample in map(flips.__getitem__, range(len(flips)))]
    assert sorted(drawn) == sorted([*range(8)] * 2)
    assert list(flips.keys()) == list(Flips(source, "caption", 2, "colour", 0).keys())
    assert list(flips.keys()) != list(Flips(source, "caption", 2, "colour", 1).keys())


def test_answers_are_flipped_where_the_question_speaks_of_no_side(tmp_path):
    source = Rows(
        [
            qa(0, ("is it left?", "left"), ("where is it?", "on the left")),
            qa(1, ("left or right?", "left")),
            qa(2, ("how many?", "two")),
            Sample(key="s3", source="rows", texts=(Text(text="left", role="answer"),)),
        ]
    )
    flips = Flips(source, "answer", 9, None, 0)
    assert list(flips.keys()) == ["s0#flip"]
    assert flips[0].captions("question") == ["where is it?"]
    assert flips[0].edits[0].captions("answer") == ["on the right"]
    found = contrast(source, tmp_path / "out", flips=5)
    assert (found.pairs, found.flips, found.written) == (0, 1, 1)


# ---- questions


def test_texts_become_questions_step_by_step(tmp_path):
    writer = Writer(
        ask="Question: what colour is it?\n1. red\n2. green",
        vary="Which colour?\nIt is red.\nIt is green.",
    )
    prompt = "ask {chosen} against {rejected}\n---\nvary {question} | {chosen} | {rejected}"
    out = tmp_path / "out"
    found = contrast(toy(1), out, role="caption", kinds=("recolour",), writer=writer, prompt=prompt)
    assert found.written == 1
    assert writer.seen == [
        "ask a red circle on the left against a green circle on the left",
        "vary what colour is it? | red | green",
    ]
    [sample] = open_source(str(out / FILE))
    assert sample.captions("question") == ["Which colour?"]
    assert sample.captions("answer") == ["It is red."]
    assert sample.edits[0].captions("answer") == ["It is green."]
    quiet = Writer()  # all is in the cache
    (out / FILE).unlink()
    (out / "images").rename(tmp_path / "images")
    contrast(toy(1), out, role="caption", kinds=("recolour",), writer=quiet, prompt=prompt)
    assert quiet.seen == []


def test_answers_of_another_form_are_counted_and_never_written(tmp_path):
    writer = Writer(ask="what?\nred\nRed", none="I cannot say.")
    args = {"role": "caption", "kinds": ("recolour",), "writer": writer}
    prompt = "ask {chosen} {rejected}"
    with pytest.raises(InputError, match=r"two different answers.*\(same-answers: 3\)"):
        contrast(toy(1), tmp_path / "out", prompt=prompt, **args)
    with pytest.raises(InputError, match=r"\(form: 3\)"):
        contrast(toy(1), tmp_path / "out", prompt="none {chosen} {rejected}", **args)
    with pytest.raises(InputError, match="the prompt holds no {rejected}"):
        contrast(toy(1), tmp_path / "out", prompt="ask {chosen}", **args)
    assert not (tmp_path / "out").exists()
