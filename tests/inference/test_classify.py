"""Naming images: the likeliest classes in order, by any model that has class_logits."""

from collections import Counter

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Fake, Rows, Words, row, vectors
from tests.factories import small_make, tokenizer

from diptych.errors import InputError
from diptych.inference.classify import counts, likeliest, name_images, name_source, name_texts
from diptych.methods.make import NO_TOWER
from diptych.models.model import TextModel
from diptych.towers.nn.parts import Temperature


class Judge(Fake):
    """Class c gets the c-th number of an image's vector."""

    classes = ("ash", "birch", "cedar", "elm", "fir", "oak")

    def class_logits(self, images, *, batch_size):
        return 3 * self.vectors[self.numbers(images)]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_classes_are_those_of_the_largest_logits(batch_size):
    source = Rows([row(f"k{i}", i, f"t {i}", damage="cut" if i == 2 else "") for i in range(7)])
    model = Judge(vectors(0))
    found, bad = name_images(model, source, k=2, batch_size=batch_size)
    assert bad == Counter(cut=1)
    assert [each.key for each in found] == [f"k{i}" for i in range(7) if i != 2]
    for each in found:
        logits = 3 * model.vectors[int(each.key[1:])].numpy().astype(np.float64)
        share = np.exp(logits) / np.exp(logits).sum()
        order = np.argsort(-share)[:2]
        assert [name for name, _ in each.classes] == [model.classes[at] for at in order]
        assert [value for _, value in each.classes] == pytest.approx(
            share[order].tolist(), abs=1e-5
        )
    assert counts(found) == dict(Counter(each.classes[0][0] for each in found))


def test_samples_that_were_lost_on_opening_are_counted():
    source = Rows([row(f"k{i}", i, f"t {i}") for i in range(3)])
    source.damage = {"line 2": "columns"}
    assert name_images(Judge(vectors(0)), source)[1] == Counter(columns=1)


def test_no_more_classes_are_told_than_there_are():
    assert likeliest(torch.zeros(1, 2), ("a", "b"), 5) == [(("a", 0.5), ("b", 0.5))]


class Guide(Judge):
    """Routes each image by the sign of its first number."""

    def route(self, images, *, batch_size):
        return [
            (("up" if self.vectors[at][0] > 0 else "down", 1.0),) for at in self.numbers(images)
        ]


def test_groups_are_told_where_they_are_asked_for():
    source = Rows([row(f"k{i}", i, f"t {i}", damage="cut" if i == 1 else "") for i in range(5)])
    model = Guide(vectors(0))
    found, _ = name_images(model, source, route=True, batch_size=2)
    assert [each.groups[0][0] for each in found] == [
        "up" if model.vectors[int(each.key[1:])][0] > 0 else "down" for each in found
    ]
    assert len({each.groups[0][0] for each in found}) == 2
    assert all(each.groups == () for each in name_images(model, source)[0])
    with pytest.raises(InputError, match="groups of prompts needs a model with route"):
        name_images(Judge(vectors(0)), source, route=True)


def test_a_model_that_names_nothing_is_refused():
    with pytest.raises(InputError, match="class_logits"):
        name_images(Fake(vectors(0)), Rows([row("a", 1, "t")]))


TEXTS = Words(
    [{"caption": ["a red circle", "a bar"]}, {"other": "x"}, {"caption": "a blue square"}]
)


def text_model(cls=TextModel) -> TextModel:
    torch.manual_seed(0)
    make = small_make(NO_TOWER, "text:width=32:depth=1:heads=2")
    scale = Temperature(20.0, form="fixed")
    return cls(make.text_encoder(logit_scale=scale), tokenizer(), name="run")


class Labels(TextModel):
    """Scores the labels by their places."""

    label_names = ()
    probabilities = "sigmoid"

    def match(self, texts, labels, *, batch_size):
        return torch.tensor([[len(text) - 2.0 * at for at in range(len(labels))] for text in texts])


@pytest.mark.parametrize("templates", [None, ["about {}", "{}"]])
def test_texts_are_classified_by_the_cosine_with_names(templates):
    model = text_model()
    found = name_texts(model, TEXTS, "red,blue,bar", templates=templates, k=2, batch_size=1)
    assert found.bad == {"no-caption": 1}
    assert [(each.key, each.text) for each in found] == [
        ("0", "a red circle"), ("0", "a bar"), ("2", "a blue square"),
    ]  # fmt: skip
    written = [
        [form.format(name) for form in templates or ["{}"]] for name in ("red", "blue", "bar")
    ]
    names = torch.stack([model.embed_texts(own).mean(0) for own in written])
    names = torch.nn.functional.normalize(names, dim=1)
    wanted = (20 * model.embed_texts([each.text for each in found]) @ names.T).softmax(1)
    for each, row_ in zip(found, wanted, strict=True):
        order = row_.argsort(descending=True)[:2]
        assert [name for name, _ in each.classes] == [("red", "blue", "bar")[at] for at in order]
        assert [share for _, share in each.classes] == pytest.approx(row_[order].tolist(), abs=1e-5)
    assert found.records()[0]["text"] == "a red circle"


def test_a_model_that_scores_labels_tells_of_each_by_itself_or_of_all():
    model = text_model(Labels)
    found = name_texts(model, TEXTS, ["a", "b"], k=2)
    logits = torch.tensor([5.0, 3.0])  # of "a bar"
    assert [share for _, share in found[1].classes] == pytest.approx(logits.sigmoid().tolist())
    model.probabilities = "softmax"
    found = name_texts(model, TEXTS, ["a", "b"], k=2)
    assert [share for _, share in found[1].classes] == pytest.approx(logits.softmax(0).tolist())
    model.label_names = ("own", "other")
    assert name_texts(model, TEXTS).classes == ("own", "other")
    with pytest.raises(InputError, match="run scores labels by their words; give names without"):
        name_texts(model, TEXTS, ["a"], templates=["a {}"])


def test_labels_of_the_data_are_the_names_if_none_is_given():
    source = Words([{"caption": "a", "label": ["sea", "Wine"]}, {"caption": "b", "label": "wine"}])
    assert name_texts(text_model(), source).classes == ("sea", "Wine")
    assert name_texts(text_model(), source, role="label")[0].text == "sea"
    with pytest.raises(InputError, match="no class is named; .*neither texts of role label"):
        name_texts(text_model(), TEXTS)


def test_sentences_of_a_file_are_classes_of_texts(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text('{"red": ["a red circle"], "blue": ["a blue square", "a blue bar"]}', "utf-8")
    found = name_texts(text_model(), TEXTS, path)
    assert [each.classes[0][0] for each in found][::2] == ["red", "blue"]


def test_what_is_of_images_is_refused_of_texts_and_the_other_way(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("a red bar\n", "utf-8")
    assert name_source(text_model(), path, ["red", "blue"])[0].text == "a red bar"
    with pytest.raises(InputError, match="--route needs a model with route"):
        name_source(text_model(), path, ["red"], route=True)
    judge = Judge(vectors(0))
    judge.name = "judge"
    with pytest.raises(InputError, match="role is of texts, and judge classifies images"):
        name_source(judge, path, ["red"], role="caption")
