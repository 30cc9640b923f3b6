"""Texts that are written behind what is only read: which ids are marked, and that ends within a dialogue
do not cut it."""

import numpy as np
import pytest
import torch
from tests.factories import tokenizer

from diptych.data.sample import BadSample, Sample, Text
from diptych.data.views import DialogueView, PromptedView, collate

WORDS = tokenizer()
TURNS = [("is it red?", ["no"]), ("how many?", ["two", "2"]), ("a bar?", ["yes"])]


def sample(turns=TURNS):
    texts = [Text(text="a red bar")]
    for question, answers in turns:
        texts.append(Text(text=question, role="question"))
        texts += [Text(text=answer, role="answer") for answer in answers]
    return Sample(key="0", source="", texts=texts)


def spelled(turns):
    """The ids of turns, and which are written."""
    ids = [*WORDS.before]
    marks = [-1] * len(ids)
    for read, said in turns:
        given = WORDS.ids(read)
        target = [*WORDS.ids(said), *WORDS.after]
        ids += given + target
        marks += [-1] * len(given) + target
    return ids, marks


def seen(view, progress=None, seed=0, turns=TURNS):
    [found] = view(sample(turns), np.random.default_rng(seed), progress)["texts.main"]
    return list(found.ids), list(found.marks)


def test_a_caption_stands_behind_its_prompt():
    view = PromptedView(tokenizer=WORDS, length=99, prompt="a picture:")
    assert seen(view) == spelled([("a picture:", "a red bar")])
    assert view.reads == ("texts.caption",)
    plain = PromptedView(tokenizer=WORDS, length=99)
    assert seen(plain) == spelled([("", "a red bar")])


def test_all_turns_follow_each_other_and_answers_alone_are_marked():
    view = DialogueView(tokenizer=WORDS, length=999, template="ask: {} say:")
    expected = [(f"ask: {question} say:", answers[0]) for question, answers in TURNS]
    assert seen(view) == spelled(expected)
    ids, marks = seen(view, progress=0.5, seed=3)
    others = [(f"ask: {question} say:", answers[-1]) for question, answers in TURNS]
    assert (ids, marks) in (spelled(expected), spelled(others))
    assert {len(seen(view, progress=0.5, seed=seed)[0]) for seed in range(20)} == {
        len(spelled(expected)[0]),
        len(spelled(others)[0]),
    }


def test_some_turns_are_random_in_training_and_else_the_first():
    view = DialogueView(tokenizer=WORDS, length=999, turns=1)
    assert seen(view) == spelled([("is it red?", "no")])
    found = {tuple(seen(view, progress=0.0, seed=seed)[0]) for seed in range(30)}
    assert found == {
        tuple(spelled([(question, answer)])[0]) for question, answers in TURNS for answer in answers
    }


def test_ends_within_a_dialogue_do_not_cut_the_batch():
    view = DialogueView(tokenizer=WORDS, length=999)
    rows = [
        view(sample(turns), np.random.default_rng(0), None)
        for turns in (TURNS[:1], TURNS, TURNS[:2])
    ]
    text = collate(["a", "b", "c"], rows, {"main": WORDS}).texts["main"]
    for at, turns in enumerate((TURNS[:1], TURNS, TURNS[:2])):
        ids, marks = spelled([(question, answers[0]) for question, answers in turns])
        assert text.lengths[at, 0] == len(ids)
        assert text.ids[at, 0, : len(ids)].tolist() == ids
        assert text.marks[at, 0, : len(ids)].tolist() == marks
        assert (text.marks[at, 0, len(ids) :] == -1).all()
        assert (text.ids[at, 0, len(ids) :] == WORDS.pad).all()
    assert isinstance(text.ids, torch.Tensor)


def test_what_does_not_fit_is_cut_and_what_leaves_nothing_to_write_is_bad():
    view = DialogueView(tokenizer=WORDS, length=8)
    ids, marks = spelled([(question, answers[0]) for question, answers in TURNS])
    if any(mark >= 0 for mark in marks[:8]):
        assert seen(view) == (ids[:8], marks[:8])
    with pytest.raises(BadSample, match="do not fit into 3"):
        seen(DialogueView(tokenizer=WORDS, length=3))
    with pytest.raises(BadSample, match="no question with an answer"):
        seen(view, turns=[])
