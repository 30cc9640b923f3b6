"""Tasks told in texts: which texts are read and written, views that draw the same, noise that hangs
on places alone."""

import numpy as np
import pytest
import torch
from tests.factories import tokenizer

from diptych.data.loader import Loader
from diptych.data.plan import Shuffled
from diptych.data.questions import agreed, answered
from diptych.data.sample import BadSample, Sample, Text
from diptych.data.views import NoiseView
from diptych.errors import InputError
from diptych.methods.adapt.close.tasks import Task, TaskView
from diptych.testing import Toy

CAPTIONS = [Text(text=text) for text in ("one red", "two red", "three red", "four red", "five red")]
ASKED = [
    Text(text=text, role=role)
    for text, role in (
        ("what?", "question"),
        ("Cat", "answer"),
        ("cat", "answer"),
        ("dog", "answer"),
        ("who?", "question"),
        ("me", "answer"),
    )
]


def sample(*texts):
    return Sample(key="k", source="s", texts=texts)


def drawn(task, given, seed=0, train=True):
    return task.draw(given, np.random.default_rng(seed), train)


def test_a_caption_is_written_from_itself():
    found = [drawn(Task(), sample(*CAPTIONS), seed) for seed in range(20)]
    assert all(each["source"] == each["target"] and not each["context"] for each in found)
    assert {each["source"][0] for each in found} == {text.text for text in CAPTIONS}
    assert drawn(Task(), sample(*CAPTIONS), train=False)["source"] == ["one red"]


def test_the_others_are_written_from_one_caption():
    for seed in range(5):
        found = drawn(Task(target="caption"), sample(*CAPTIONS), seed)
        assert sorted(found["source"] + found["target"]) == sorted(text.text for text in CAPTIONS)
    assert len(drawn(Task(target="caption", targets=2), sample(*CAPTIONS))["target"]) == 2
    with pytest.raises(BadSample, match="few-captions"):
        drawn(Task(target="caption"), sample(*CAPTIONS[:1]))


def test_what_people_agree_on_is_written_to_a_question():
    task = Task(context="question", target="answer", sources=5)
    found = {tuple(drawn(task, sample(*CAPTIONS, *ASKED), seed)["context"]) for seed in range(20)}
    assert found == {("what?",), ("who?",)}
    first = drawn(task, sample(*CAPTIONS, *ASKED), train=False)
    assert (first["context"], first["target"], len(first["source"])) == (["what?"], ["cat"], 5)
    with pytest.raises(BadSample, match="no-question"):
        drawn(task, sample(*CAPTIONS))


def test_answers_that_count_are_the_most_frequent_its_ties_and_those_of_three():
    assert agreed(["a"] * 4 + ["b"] * 3 + ["c"] * 2 + ["d"]) == ["a", "b"]
    assert agreed(["b", "a", "b", "a", "c"]) == ["b", "a"]
    assert agreed([" Two "]) == ["two"]


def test_answers_belong_to_the_question_before_or_in_order():
    first = [
        Text(text=text, role=role)
        for text, role in (("a?", "question"), ("b?", "question"), ("1", "answer"), ("2", "answer"))
    ]
    assert [(q.text, a) for q, a in answered(sample(*first))] == [("a?", ["1"]), ("b?", ["2"])]
    assert [(q.text, a) for q, a in answered(sample(*ASKED))] == [
        ("what?", ["Cat", "cat", "dog"]),
        ("who?", ["me"]),
    ]
    with pytest.raises(BadSample, match="unpaired"):
        answered(sample(*first[:3]))


def test_views_of_one_task_draw_the_same_and_fill_up_with_nothing():
    words = tokenizer()
    task = Task(source="caption", context="question", target="answer", sources=3, targets=4)
    views = [
        TaskView(tokenizer=words, task=task, part="source"),
        TaskView(tokenizer=words, task=task, part="target", like="texts.source"),
        TaskView(tokenizer=words, task=task, part="context", like="texts.source"),
    ]

    class Captioned(Toy):
        fields = ("texts.caption", "texts.question", "texts.answer")

        def __getitem__(self, index):
            return Sample(key=str(index), source="s", texts=[*CAPTIONS[:2], *ASKED])

    batch = next(iter(Loader(Captioned(8), views, Shuffled(), 8, steps=9).epoch(0)))
    assert {name: tuple(tokens.ids.shape[:2]) for name, tokens in batch.texts.items()} == {
        "source": (8, 3),
        "target": (8, 4),
        "context": (8, 1),
    }
    assert ((batch.texts["source"].lengths > 0).sum(1) == 2).all()
    said = {"what?": "cat", "who?": "me"}
    for row in range(8):
        question = words.decode(batch.texts["context"].ids[row, 0].tolist())
        tokens = batch.texts["target"]
        assert words.decode(tokens.ids[row, 0].tolist()) == said[question]
        assert (tokens.lengths[row] > 0).sum() == 1


def test_noise_hangs_on_places_alone():
    views = [NoiseView(shape=(2, 5))]
    whole = next(iter(Loader(Toy(8), views, Shuffled(), 8, steps=9).epoch(0)))
    halves = [
        next(iter(Loader(Toy(8), views, Shuffled(), 8, steps=9, rank=rank, ranks=2).epoch(0)))
        for rank in (0, 1)
    ]
    assert torch.equal(whole.fields["noise"], torch.cat([half.fields["noise"] for half in halves]))
    view = NoiseView(shape=(2, 5))
    many = torch.cat(
        [view(None, np.random.default_rng(seed), 0.1)["fields.noise"] for seed in range(400)]
    )
    assert float(many.mean()) == pytest.approx(0, abs=0.06)
    assert float(many.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": 0}, "at least 1"),
        ({"target": "answer"}, "context=question"),
        ({"source": ""}, "name a target"),
    ],
)
def test_tasks_that_ask_for_nothing_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Task(**options)
