"""The linear probe: the suite's own regression, names it has no weights for, two classes, what is
kept of it."""

import numpy as np
import pytest
import torch
from tests.factories import TEXT, make_method, random_images
from tests.methods.adapt.helpers import Labelled

import diptych
from diptych.errors import InputError
from diptych.linear import classifier
from diptych.methods.base import At
from diptych.methods.make import NO_TOWER
from diptych.training.prepare import Run


class Two(Labelled):
    """Toys of the first two classes alone."""

    def labels(self, name):
        return np.arange(len(self)) % 2

    def schema(self):
        schema = super().schema()
        return {
            **schema,
            "labels.class": type(schema["labels.class"])(kind="int", classes=("red", "blue")),
        }


class Named(Labelled):
    """Toys of as many classes as have images."""

    def schema(self):
        schema = super().schema()
        return {
            **schema,
            "labels.class": type(schema["labels.class"])(
                kind="int", classes=("red", "blue", "pink")
            ),
        }


def method(source, text=TEXT, **config):
    made = make_method(
        "linear_probe", image="vit:image_size=32:patch=16:width=64:depth=1", text=text, **config
    )
    made.setup({"train": source})
    return made.eval()


def run_of(made, source):
    return Run(made, {"train": source}, At(0, 0, 0, 3), torch.device("cpu"))


def fitted(source, **config):
    made = method(source, **config)
    made.fit(run_of(made, source))
    return made


@pytest.mark.parametrize("config", [{}, {"features": "pooled"}, {"text": NO_TOWER}])
@pytest.mark.parametrize(("source", "classes"), [(Named(30), 3), (Two(30), 2)])
def test_logits_are_those_of_the_suites_regression(config, source, classes):
    made = fitted(source, **config)
    view = made.image_view
    x = run_of(made, source).map(
        lambda batch: {"x": made.model.image_features(batch.image.flat)}, [view], source
    )["x"]
    assert x.shape == (30, 64 if "features" in config else 32)
    solved, _ = classifier(x, np.arange(30) % classes, seed=3)
    with torch.no_grad():
        images = random_images()
        found = made.model(images).softmax(1).numpy()
        wanted = solved.predict_proba(made.model.image_features(images).numpy())
        still = made.model(images[:, None].expand(-1, 2, -1, -1, -1)).softmax(1).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(still, found, atol=1e-4)  # clips in which nothing moves


def test_some_of_the_classes_have_the_logits_that_they_have_among_all():
    model = fitted(Named(30)).model
    with torch.no_grad():
        every = model(random_images())
        model.set_classes(["pink", "red"])
        assert torch.equal(model(random_images()), every[:, [2, 0]])


def test_images_without_a_class_are_passed_over():
    whole, source = fitted(Named(12)), Named(13, lost=(12,))
    made = fitted(source)
    assert torch.equal(made.model.weight, whole.model.weight)


def test_nothing_is_trained_by_steps():
    made = method(Named(30))
    assert [stage.optimize for stage in made.stages()] == [False]
    assert not [name for name, parameter in made.named_parameters() if parameter.requires_grad]


def test_a_run_is_loaded_and_names_images_and_no_others(tmp_path):
    things = "scenes:number=1:texts=caption:objects=cat+fish:styles=seen:count=40"
    model = diptych.train(
        "linear_probe",
        things,
        tmp_path / "run",
        init="tiny",
        config={"label": "object"},
        quiet=True,
    ).model
    again = diptych.load(tmp_path / "run")
    assert again.classes == model.classes
    reported = diptych.evaluate(again, f"{things}:split=val", suites=["zeroshot"], label="object")[
        "zeroshot"
    ]
    assert reported["top1"] > 0.8
    with pytest.raises(
        InputError, match=r"no weights for 'zebra', .* take a method that reads names"
    ):
        again.set_classes(["cat", "zebra"])


def test_bad_input_is_named():
    with pytest.raises(InputError, match="did you mean 'pooled'"):
        method(Named(9), features="pool")
    with pytest.raises(
        InputError, match="unknown search of a linear probe 'halvin'; did you mean 'halving'"
    ):
        method(Named(9), search="halvin")
    with pytest.raises(InputError, match="leave augment out"):
        method(Named(9), augment={"flip": True})
    with pytest.raises(InputError, match="no sample of pink"):
        method(Named(9, lost=(2, 5, 8)))
