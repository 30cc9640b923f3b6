"""Multi-view: views are counted and stand in the loss as published, with and without
texts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.factories import AT, TEXT, make_batch, make_method
from tests.training.helpers import make_engine

import diptych
from diptych.data.batch import Batch
from diptych.data.sample import Field, Text
from diptych.errors import InputError
from diptych.methods.make import NO_TOWER
from diptych.methods.pretrain.multi_view import LOSSES, MultiView
from diptych.objectives import mv_dhel, mv_infonce
from diptych.testing import Toy
from diptych.training.config import resolve
from diptych.training.run import run


def method(text=f"{TEXT}:causal=false:pooling=mean", **config):
    return make_method(MultiView, text=text, embed_dim=16, **config).eval()


def batch(images, texts, count=6):
    return make_batch(count, {"main": images}, {"main": texts})


@pytest.mark.parametrize(("images", "texts"), [(1, 4), (3, 2), (1, 1), (2, 0), (5, 0)])
def test_every_view_stands_once_in_the_loss(images, texts):
    tower = f"{TEXT}:causal=false:pooling=mean" if texts else NO_TOWER
    held = method(tower, images=images, texts=texts, tau=0.3)
    given = batch(images, texts)
    with torch.no_grad():
        views = held.encode(given, AT)["views"]
        assert views.shape == (6, images + texts, 16)
        torch.testing.assert_close(
            views[:, images - 1], held.model.embed_images(given.image.pixels[:, images - 1])
        )
        if texts:
            last = held.model.embed_texts(given.text.ids[:, -1], given.text.lengths[:, -1])
            torch.testing.assert_close(views[:, -1], last)
        losses = held.loss({"views": views}, given, AT)
    torch.testing.assert_close(losses.total, mv_dhel(views.transpose(0, 1), 0.3))


def test_form_and_objective_are_those_asked_for():
    views = torch.nn.functional.normalize(
        torch.randn(6, 5, 16, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    found = {
        (name, form): method(objective=name, form=form, tau=0.5)
        .loss({"views": views}, batch(1, 4), AT)
        .total.item()
        for name, form in (
            ("mv_dhel", "code"),
            ("mv_dhel", "paper"),
            ("mv_infonce", "code"),
            ("mv_infonce", "paper"),
        )
    }
    over = views.transpose(0, 1)
    assert found["mv_infonce", "paper"] == pytest.approx(mv_infonce(over, 0.5, form="paper").item())
    assert found["mv_dhel", "code"] - found["mv_dhel", "paper"] == pytest.approx(
        torch.log(torch.tensor(2.0)).item()
    )
    assert len(set(found.values())) == 4


@pytest.mark.parametrize("name", LOSSES)
def test_every_objective_has_a_gradient(name):
    two = name in ("dhel", "kcl")
    held = method(objective=name, texts=1 if two else 4).train()
    losses = held.loss(held.encode(batch(1, 1 if two else 4), AT), batch(1, 1 if two else 4), AT)
    assert losses.terms.keys() == {name}
    losses.total.backward()
    assert all(
        parameter.grad is not None for parameter in held.parameters() if parameter.requires_grad
    )


def test_the_projector_is_the_papers():
    head = method().model.image_projection
    assert [type(layer).__name__ for layer in head] == [
        "Linear",
        "BatchNorm1d",
        "ReLU",
        "Linear",
        "BatchNorm1d",
    ]
    assert [layer.bias is None for layer in head if isinstance(layer, torch.nn.Linear)] == [
        True,
        True,
    ]
    assert head[-1].weight.requires_grad
    assert not head[-1].bias.requires_grad


def test_images_alone_train_and_are_loaded_without_a_text_tower(tmp_path):
    config = resolve(
        "multi_view",
        {"train": "glyphs:split=val:design=noto"},
        image_tower="conv:image_size=32:widths=(8,16):depths=(1,1)",
        text_tower=NO_TOWER,
        config={"images": 2, "texts": 0},
        recipe={"steps": 2, "batch_size": 32},
        options={"quiet": True},
    )
    run(config, tmp_path / "run")
    model = diptych.load(tmp_path / "run")
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert model.embed_images(pixels).shape == (2, 192)
    assert model.represent(pixels).pooled.shape == (2, 16)
    with pytest.raises(InputError, match="without a tokenizer"):
        model.embed_texts("a cat")
    again = resolve(
        "multi_view",
        {"train": "glyphs:split=val:design=noto"},
        init=str(tmp_path / "run"),
        config={"images": 2, "texts": 0},
        recipe={"steps": 1, "batch_size": 32},
        options={"quiet": True},
    )
    run(again, tmp_path / "again")
    assert diptych.load(tmp_path / "again").encoder.text is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"objective": "mv_dehl"}, "did you mean 'mv_dhel'"),
        ({"form": "cod"}, "did you mean 'code'"),
        ({"texts": 0}, "two views in all"),
        ({"images": 0, "texts": 3}, "'images' of method MultiView is 0"),
        ({"objective": "dhel"}, "takes two views, not 5"),
        ({"tau": 0.0}, "'tau' of method MultiView is 0.0"),
        ({"arrays": {"sound": 0}}, "array 'sound' has 0 numbers"),
        ({"objective": "dhel", "texts": 1, "arrays": {"sound": 8}}, "takes two views, not 3"),
        ({"role": "caption;long"}, "one role"),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        MultiView.configure(config)


def test_texts_and_a_text_tower_go_together():
    with pytest.raises(InputError, match="--text-tower none"):
        method(images=2, texts=0)
    with pytest.raises(InputError, match="--text-tower none"):
        method(NO_TOWER)


def test_validation_without_a_text_tower_is_refused_before_training(tmp_path):
    config = resolve(
        "multi_view",
        {"train": "glyphs:split=val:design=noto"},
        text_tower=NO_TOWER,
        val="glyphs:split=val:design=noto",
        config={"images": 2, "texts": 0},
    )
    with pytest.raises(InputError, match="leave out --val"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Sounds(Toy):
    """Drawings with a caption and a vector, which some samples lack, or have too short."""

    def schema(self):
        return {**super().schema(), "arrays.sound": Field(kind="array")}

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        lacking = {3: {}, 5: {"sound": np.zeros(4)}, 7: {"sound": np.full(8, np.nan)}}
        return replace(sample, arrays=lacking.get(index, {"sound": np.arange(8.0) + index}))


def test_an_array_is_a_third_modality_with_layers_of_its_own(tmp_path):
    held = method(texts=1, arrays={"sound": 8}, tau=0.5)
    assert held.needs(held.stages()[0]) == ("images.main", "texts.caption", "arrays.sound")
    engine = make_engine(
        tmp_path, method=held.train(), source=Sounds(48), recipe={"steps": 3}, max_bad=0.1
    )
    assert engine.run().damaged == {"003": "no-array", "005": "array-size", "007": "not-finite"}
    sound = held.encoders["sound"][0][0].weight
    assert sound.grad is None
    given = batch(1, 1)
    given = Batch(
        images=given.images, texts=given.texts, keys=given.keys, fields={"sound": torch.rand(6, 8)}
    )
    views = held.eval().encode(given, AT)["views"]
    assert views.shape == (6, 3, 16)
    expected = torch.nn.functional.normalize(held.encoders["sound"](given.fields["sound"]), dim=-1)
    torch.testing.assert_close(views[:, 2], expected)
    losses = held.loss({"views": views}, given, AT)
    torch.testing.assert_close(losses.total, mv_dhel(views.transpose(0, 1), 0.5))
    losses.total.backward()
    assert sound.grad.abs().sum() > 0


class Uneven(Toy):
    """One sample in five has two captions."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample if index % 5 else replace(sample, texts=[*sample.texts, Text(text="another")])


def test_more_views_than_texts_are_told_with_the_option_or_are_damage_that_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"at most 1 texts of role 'caption', and 2 views.*lower --method\.texts"
    ):
        make_engine(tmp_path / "none", method=method(texts=2), source=Toy(48), recipe={"steps": 3})
    engine = make_engine(
        tmp_path / "few", method=method(texts=2), source=Uneven(48), recipe={"steps": 3}
    )
    with pytest.raises(InputError, match="few-captions"):
        engine.run()
