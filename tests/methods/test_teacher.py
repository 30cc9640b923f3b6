"""Teachers: loaded when they are needed, by the same words and crops as the student, unseen by all
that trains."""

import pytest
import torch
from tests.factories import tokenizer

import diptych
from diptych.data.images import Preprocess
from diptych.data.views import Augment, ImageView, TextView, collate, look
from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.teacher import Teacher
from diptych.testing import Toy


def views(size=32, words=None):
    return ImageView(preprocess=Preprocess(size=size), augment=Augment()), TextView(
        tokenizer=words or tokenizer()
    )


def test_it_is_loaded_once_and_only_when_it_is_needed(monkeypatch):
    loaded = []
    original = store.load
    monkeypatch.setattr(store, "load", lambda spec: loaded.append(spec) or original(spec))
    teacher = Teacher("tiny")
    teacher.to("cpu").train()
    assert not loaded
    assert list(teacher.state_dict()) == ["checksum"]
    assert not teacher.checksum.any()
    encoder = teacher.module
    teacher.views(*views())
    assert loaded == ["tiny"]
    assert teacher.checksum.any()
    assert not list(teacher.parameters())
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_it_sees_what_the_student_sees_in_its_own_size_and_words():
    teacher, model = Teacher("tiny"), diptych.load("tiny")
    student = views()
    more = teacher.views(*student)
    assert [view.gives for view in more] == [("images.teacher",), ("texts.teacher",)]
    samples = [Toy(8)[index] for index in range(4)]
    rows = [look(sample, [*student, *more], (0, 0, at), None) for at, sample in enumerate(samples)]
    batch = collate(
        [sample.key for sample in samples],
        rows,
        {"main": student[1].tokenizer, "teacher": model.tokenizer},
    )
    images = [sample.images["main"].decode() for sample in samples]
    seen = model.embed_images(
        torch.stack([model.preprocess(image, exact=False) for image in images])
    )
    torch.testing.assert_close(teacher.embed_images(batch), seen)
    torch.testing.assert_close(
        teacher.embed_texts(batch), model.embed_texts([sample.captions()[0] for sample in samples])
    )
    assert not teacher.embed_images(batch).requires_grad


def test_what_it_shares_with_the_student_is_not_made_twice():
    teacher, model = Teacher("tiny"), diptych.load("tiny")
    assert teacher.views(*views(model.preprocess.size, model.tokenizer)) == []
    assert [view.gives for view in teacher.views(*views(32, model.tokenizer))] == [
        ("images.teacher",)
    ]
    other_mean = ImageView(
        preprocess=Preprocess(size=64, mean=(0.5,) * 3, std=(0.5,) * 3), augment=Augment()
    )
    assert [view.gives for view in teacher.views(other_mean, views()[1])] == [("texts.teacher",)]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("tinny", "teacher cannot be loaded: there is no model at 'tinny'"),
        ("tiny-lm", "tiny-lm does not embed both"),
    ],
)
def test_what_cannot_teach_is_refused(spec, said):
    with pytest.raises(InputError, match=said):
        Teacher(spec).views(*views())
