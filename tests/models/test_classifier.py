"""Class names in prompts: written with blanks, under the names of their labels."""

import pytest
import torch
from tests.methods.adapt.helpers import method

import diptych
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.evaluation.embed import Steps
from diptych.evaluation.suites._class_scores import class_vectors
from diptych.methods.adapt.cones.bank import TextSide
from diptych.methods.adapt.proapo.units import units_of
from diptych.models.class_names import check_names, prompt_ids, read_names, split_prompt
from diptych.models.class_prompts import prompts

LABELS = ("american_bulldog", "red_circle", "bar")
WRITTEN = ("american bulldog", "red circle", "bar")
OPTIONS = {"maple": {"depth": 2}, "mocoop": {"templates": {"one": ["a {}."], "two": ["one {}."]}}}


def test_an_underscore_is_a_blank_to_the_tokenizer():
    clip, template = build("clip"), "a photo of a {}."
    assert prompt_ids(clip, template, LABELS) == prompt_ids(clip, template, WRITTEN)
    assert clip.ids("a american bulldog") == [320, 2151, 15611]
    assert split_prompt(clip, template, LABELS[0]) == split_prompt(clip, template, WRITTEN[0])
    assert prompts((LABELS[0], "it barks."), [template]) == (
        "a photo of a american bulldog. it barks.",
    )
    assert units_of(LABELS[0], ["An American bulldog barks."])[1] == (
        WRITTEN[0],
        "an american bulldog barks.",
    )


def test_a_file_without_a_name_is_told(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    assert read_names(tmp_path / "names.txt") == ["cat", "dog"]
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(InputError, match=r"names.txt names no class; write one a line"):
        read_names(tmp_path / "names.txt")


@pytest.mark.parametrize("name", ["coop", "maple", "mocoop", "fine_tune", "tip_adapter"])
def test_methods_that_read_names_read_them_written(name):
    made = method(name, **OPTIONS.get(name, {}))
    found = []
    for names in (LABELS, WRITTEN):
        made.model.set_classes(names)
        assert made.model.classes == names
        found.append(made.model.ids)
    assert torch.equal(*found)


def test_zero_shot_reads_names_written_and_keeps_the_labels():
    tiny = diptych.load("tiny")
    steps = Steps(None, 1)
    a, b = (
        class_vectors(tiny, names, ["a {}"], batch_size=8, steps=steps)
        for names in (LABELS, WRITTEN)
    )
    assert torch.equal(a, b)
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    logits = []
    for names in (LABELS, WRITTEN):
        tiny.set_classes(names, ("a {}",))
        assert tiny.classes == names
        logits.append(tiny.class_logits(image))
    assert torch.equal(*logits)
    side = TextSide(tiny.encoder, tiny.tokenizer, "a {}")
    rows = [side.concepts(names, "name") for names in (LABELS, WRITTEN)]
    assert torch.equal(rows[0][LABELS[0]].values, rows[1][WRITTEN[0]].values)


def test_names_that_are_written_alike_are_one_name():
    assert check_names(LABELS) == LABELS
    for names in (
        ["red_apple", "red apple"],
        ["Red_Apple", "red apple"],
        ["red  apple", "red apple"],
    ):
        with pytest.raises(
            InputError, match=f"two classes are called '{names[0]}' and '{names[1]}'"
        ):
            check_names(names)
    made = method("mocoop", names="red_circle, thing", **OPTIONS["mocoop"])
    made.model.set_classes(["red circle", "bar"])
    assert made.model.names == (
        "red circle",
        "bar",
        "thing",
    )  # what is taught with is no second class
