"""Parts that readers of records share."""

import numpy as np
import pytest

from diptych.data.sample import BadSample, Text
from diptych.data.sources.records import Parts, joined


def test_words_in_labels_are_texts_of_role_label():
    parts = Parts()
    parts.add({"labels": ["music", "sport"], "caption": "x"})
    assert [(text.text, text.role) for text in parts.texts] == [
        ("music", "label"), ("sport", "label"), ("x", "caption"),
    ]  # fmt: skip
    numbers = Parts()
    numbers.add({"labels": [1, 0, 1]})
    assert numbers.arrays["labels"].tolist() == [1, 0, 1]
    with pytest.raises(BadSample, match=r"label: \['music', 3\] in labels are not all words"):
        Parts().add({"labels": ["music", 3]})


def test_a_box_may_have_the_mask_of_its_object():
    parts = Parts()
    rle = {"size": [2, 3], "counts": [1, 3, 2]}
    parts.add(
        {
            "boxes": [
                {"name": "owl", "box": [0, 0, 2, 2], "segmentation": rle},
                {"box": [0, 0, 1, 1]},
            ]
        }
    )
    assert np.asarray(parts.boxes[0].mask.decode()).tolist() == [[0, 1, 0], [1, 1, 0]]
    assert parts.boxes[1].mask is None
    for wrong in ({"size": [2, 3], "counts": [1, 3]}, [[0, 0, 1, 1]], {"counts": [6]}):
        with pytest.raises(BadSample, match="box: "):
            Parts().add({"boxes": [{"box": [0, 0, 2, 2], "segmentation": wrong}]})


def said(parts):
    return [(text.role, text.text) for text in parts.texts]


def test_a_record_keeps_texts_that_repeat_and_labels_once():
    parts = Parts()
    parts.add(
        {
            "question": ["one?", "two?"],
            "answer": ["yes", "yes"],
            "caption": ["a", "a"],
            "labels": ["x", "x"],
        }
    )
    assert said(parts) == [
        ("question", "one?"),
        ("question", "two?"),
        ("answer", "yes"),
        ("answer", "yes"),
        ("caption", "a"),
        ("caption", "a"),
        ("label", "x"),
    ]


def test_a_file_of_text_that_repeats_a_record_is_left_out_in_either_order():
    record = {"caption": "a cat", "title": "a cat"}
    first = Parts()
    first.add_text(" a cat ", "caption")
    first.add_text("a cat", "caption")
    first.add(record)
    assert said(first) == [("caption", "a cat"), ("title", "a cat")]
    last = Parts()
    last.add(record)
    last.add_text("a cat\n", "caption")
    last.add_text("another", "caption")
    assert said(last) == [("caption", "a cat"), ("title", "a cat"), ("caption", "another")]


def test_answers_come_after_the_questions_of_their_record():
    parts = Parts()
    parts.add({"answer": ["2", "two"], "caption": "c", "question": "how many?"})
    parts.add({"q": "where?", "a": "left", "b": "on the left"}, {"q": "question", "a": "answer"})
    assert said(parts) == [
        ("caption", "c"),
        ("question", "how many?"),
        ("answer", "2"),
        ("answer", "two"),
        ("question", "where?"),
        ("answer", "left"),
        ("b", "on the left"),
    ]


def test_names_of_an_array_are_those_of_the_record_that_gives_it():
    parts = Parts()
    parts.add({"heat": {"stove": 3, "sun": 5}})
    parts.add({"heat": {"sun": 5, "fire": 4}})
    assert parts.arrays["heat"].tolist() == [3, 5]
    assert said(parts) == [("heat", "stove"), ("heat", "sun")]


def test_texts_of_one_role_are_joined_without_repeats_and_of_several_with_them():
    def texts(*pairs):
        return [Text(text=text, role=role) for role, text in pairs]

    alone = texts(("caption", "a"), ("label", "a"), ("caption", "b"), ("caption", "a"))
    assert joined(alone) == alone[:3]
    pairs = texts(*[("caption", "a"), ("de", "b"), ("caption", "a"), ("de", "c")] * 2)
    assert joined(pairs) == pairs
    assert joined([]) == []
