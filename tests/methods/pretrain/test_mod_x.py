"""Mod-X: the first phase is CLIP's, each later one is held to the model that the one before it
left."""

import pytest
import torch
from tests.factories import make_batch, make_method

from diptych.errors import InputError
from diptych.methods.base import At, Recipe
from diptych.methods.pretrain.mod_x import ModX
from diptych.objectives import info_nce
from diptych.objectives.distillation import off_diagonal
from diptych.rng import generator
from diptych.testing import Toy
from diptych.training.config import resolve
from diptych.training.engine import Engine
from diptych.training.options import Options
from diptych.training.run import run


def method(**config):
    return make_method(ModX, embed_dim=16, **config).eval()


def batch(size, count=6):
    return make_batch(count, {"main": 1}, {"main": 1}, size=size)


def test_phases_are_stages_with_streams_of_their_own():
    stages = method(phases=3).stages()
    assert [(stage.name, tuple(stage.streams)) for stage in stages] == [
        ("train", ("train",)),
        ("phase1", ("phase1",)),
        ("phase2", ("phase2",)),
    ]
    assert [stage.prepare is None for stage in stages] == [True, False, False]
    assert [stage.prepare is None for stage in method(pretrained=True).stages()] == [False, False]


def test_the_first_phase_is_clip_and_the_second_adds_the_distance():
    held = method(alpha=20.0, screen=False)
    with torch.no_grad():
        for parameter in held.old.module.parameters():  # as if training had moved on from it
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    given = batch(held.model.image.image_size)
    first = held.encode(given, At(0, 9, 0, 0, "train"))
    assert first.keys() == {"image", "text"}
    clip = info_nce(first["image"], first["text"], held.model.logit_scale())
    torch.testing.assert_close(held.loss(first, given, At(0, 9, 0, 0, "train")).total, clip)
    second = held.encode(given, At(0, 9, 0, 0, "phase1"))
    old = held.old.module
    torch.testing.assert_close(second["old_image"], old.embed_images(given.image.flat))
    kept = off_diagonal(
        second["image"], second["text"], second["old_image"], second["old_text"], screen=False
    )
    assert kept > 0
    torch.testing.assert_close(
        held.loss(second, given, At(0, 9, 0, 0, "phase1")).total, clip + 20 * kept
    )


def test_with_alpha_0_it_is_fine_tuning():
    held = method(alpha=0.0)
    given = batch(held.model.image.image_size)
    features = held.encode(given, At(0, 9, 0, 0, "phase1"))
    clip = info_nce(features["image"], features["text"], held.model.logit_scale())
    torch.testing.assert_close(held.loss(features, given, At(0, 9, 0, 0, "phase1")).total, clip)


def test_a_phase_is_held_to_what_the_one_before_left(tmp_path):
    """The old model of two phases in one run is what a run of the first phase alone ends with."""

    def trained(phases):
        folder, held = tmp_path / str(phases), method(phases=phases)
        folder.mkdir()
        sources = {"train": Toy(44), "phase1": Toy(44)}
        recipe = Recipe(lr=1e-3, batch_size=16, steps=3)
        Engine(
            held,
            recipe,
            {name: sources[name] for name in ("train", "phase1")[:phases]},
            folder,
            Options(quiet=True),
        ).run()
        return held

    alone, both = trained(1).model.state_dict(), trained(2)
    old = both.old.module.state_dict()
    for name, value in alone.items():
        assert torch.equal(old[name], value)
    assert any(not torch.equal(value, old[name]) for name, value in both.model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"phases": 0}, "'phases' of method ModX is 0"),
        ({"alpha": -1.0}, "'alpha' of method ModX is -1.0"),
        ({"role": "caption;long"}, "one role"),
        ({"reduktion": "sum"}, "did you mean 'reduction'"),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        ModX.configure(config)


def test_a_phase_without_data_is_named(tmp_path):
    config = resolve(
        "mod_x",
        {"train": "glyphs:split=val:design=noto"},
        config={"phases": 2},
        recipe={"steps": 1, "batch_size": 32},
        options={"quiet": True},
    )
    with pytest.raises(InputError, match="phase1"):
        run(config, tmp_path / "run")


def test_the_published_preset_varies_no_image_and_has_adamws_own_epsilon():
    preset = ModX.presets["paper"]
    assert (preset.config["augment"], preset.recipe.eps) == (None, 1e-8)
    made = method(augment=None, phases=1)
    [stage] = made.stages()
    view = made.views(stage)[0]
    sample = Toy(1)[0]
    trained, judged = (
        view(sample, generator(0, "view"), progress)["images.main"] for progress in (0.5, None)
    )
    assert torch.equal(trained, judged)
