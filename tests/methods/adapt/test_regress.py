"""Real-valued labels from frozen embeddings: scales, missing values, and what a run predicts."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.factories import AT, make_method, random_images

from diptych.data.batch import Batch
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.testing import Toy

TILES = "tiles:count=24:size=32"
VIT = "vit:image_size=32:patch=8:width=32:depth=1:heads=2"


def method(source=TILES, **config):
    made = make_method("regress", image=VIT, **{"hidden": 16, **config})
    made.setup({"train": open_source(source)})
    return made


def batch_of(vectors, *labels):
    fields = {f"label{at}": label for at, label in enumerate(labels)}
    keys = tuple(map(str, range(len(vectors))))
    return Batch(images={}, texts={}, fields={"image": vectors, **fields}, keys=keys)


def test_labels_are_those_with_real_values_and_have_their_scales():
    made = method()
    source = open_source(TILES)
    assert made.model.labels == ("carbon", "population", "gdp")
    values = np.array([[source[at].labels[name] for name in made.model.labels] for at in range(24)])
    np.testing.assert_allclose(made.model.mean.numpy(), values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(made.model.std.numpy(), values.std(0), rtol=1e-5)
    assert method(labels="gdp, carbon").model.labels == ("gdp", "carbon")


@pytest.mark.parametrize("first", ["0.5", "1"], ids=["real", "whole"])
def test_the_scale_is_that_of_the_values_that_are_there(tmp_path, first):
    heights = [first, "", "20", "30", "", "50"]
    for at in range(len(heights)):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{at}.png")
    rows = [f"{at}.png,a house,{each}" for at, each in enumerate(heights)]
    (tmp_path / "rows.csv").write_text("\n".join(["image,caption,height", *rows]) + "\n")
    made = method(f"{tmp_path / 'rows.csv'}", labels="height")
    values = [float(first), 20, 30, 50]
    assert float(made.model.mean) == pytest.approx(np.mean(values))
    assert float(made.model.std) == pytest.approx(np.std(values))


def test_the_loss_is_that_of_standardised_labels_and_skips_missing_ones():
    made = method(labels="carbon,gdp").double().eval()
    vectors = torch.randn(5, 32, dtype=torch.float64)
    carbon = torch.tensor([1.0, 2.0, float("nan"), 0.5, -1.0])
    gdp = torch.tensor([float("nan"), 1.0, float("nan"), 3.0, 2.0])
    batch = batch_of(vectors, carbon, gdp)
    losses = made.loss(made.encode(batch, AT), batch, AT)
    total, count = 0.0, 0
    values = made.model.head(vectors)
    for row in range(5):
        for at, labels in enumerate((carbon, gdp)):
            if not torch.isnan(labels[row]):
                wanted = (float(labels[row]) - float(made.model.mean[at])) / float(
                    made.model.std[at]
                )
                total += (float(values[row, at].detach()) - wanted) ** 2
                count += 1
    assert count == 7
    assert float(losses.total.detach()) == pytest.approx(total / count, rel=1e-6)


def test_a_model_predicts_in_the_units_of_its_labels():
    made = method().eval()
    regressor: Any = made.deliver()
    model = regressor.to_model(made.make.tokenizer, regressor.image.preprocess, "toy")
    images = random_images(3)
    found = model.predict(images)
    assert list(found) == ["carbon", "population", "gdp"]
    last = regressor.head[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    again = model.predict(images)
    for at, values in enumerate(again.values()):
        assert values.tolist() == pytest.approx([float(made.model.mean[at])] * 3, rel=1e-5)
    assert not torch.allclose(found["carbon"], again["carbon"])
    with pytest.raises(InputError, match="no image to predict from"):
        model.predict([])


def test_the_encoder_stays_as_it_was():
    made = method()
    names = [name for name, value in made.named_parameters() if value.requires_grad]
    assert names
    assert all(name.startswith("model.head") for name in names)
    made.train()
    assert not made.model.encoder.training


def test_labels_that_cannot_be_learnt():
    made = make_method("regress", image=VIT)
    with pytest.raises(InputError, match="no label with real values"):
        made.setup({"train": Toy(8, ("images.main", "labels.colour"))})
    constant = Toy(1, ("images.main", "labels.height"), floats=("height",))
    with pytest.raises(InputError, match="the label 'height' of 'toy' has 1 value"):
        make_method("regress", image=VIT).setup({"train": constant})
