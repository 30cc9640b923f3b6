"""Low-rank adapters: what they train on any method on pairs, and that a saved run is an ordinary
model."""

import pytest
import torch
from safetensors.torch import load_file
from tests.factories import TEXT, make_method, random_images, small_make
from tests.methods.adapt.helpers import learnt

from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.adapt.lora import LoRA
from diptych.methods.adapters import LowRank, adapter, add_factors, merged
from diptych.methods.make import NO_TOWER
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import build_method, run

STEPS = {"steps": 2, "batch_size": 8}
QUIET = {"quiet": True}


def adapted(name="clip", text=TEXT, **options):
    return make_method(name, make=small_make(text=text, adapter=LowRank(**options)))


def moved_of(state):
    """A state whose second factors are not zero."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(value.shape, generator=generator) if ".lora_B." in name else value
        for name, value in state.items()
    }


def test_factors_scale_and_bias_are_all_that_trains():
    factors = 2 * 4 * (32 + 32)  # of q and v, in the one block of a tower of width 32
    assert learnt(adapted(r=4)) == 2 * factors + 1
    assert learnt(adapted(r=4, towers="text")) == factors + 1
    assert learnt(adapted("siglip", r=4)) == 2 * factors + 2


def test_the_products_are_added_to_the_weights():
    made = adapted(r=4, alpha=8.0, layers="q+out+fc1").eval()
    made.load_state_dict(moved_of(made.state_dict()))
    plain = make_method(seed=1).eval()
    plain.model.load_state_dict(merged(made.model.state_dict(), made.make.adapter))
    images = random_images()
    torch.testing.assert_close(plain.model.embed_images(images), made.model.embed_images(images))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "clip",
            {"layers": "query"},
            "image tower has no linear layer 'query'; there are fc1, fc2",
        ),
        ("clip", {"towers": "text", "layers": "qkv"}, "text tower has no linear layer 'qkv'"),
        ("simclr", {"text": NO_TOWER}, "no text tower to adapt; set towers=image"),
    ],
)
def test_what_does_not_exist_is_named(name, options, said):
    with pytest.raises(InputError, match=said):
        adapted(name, **options)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("lorra:r=8", "unknown adapter 'lorra'; did you mean 'lora'"),
        ("lora:rank=8", "unknown option of adapter 'lora' 'rank'"),
        ("lora:r=0", "'r' of adapter 'lora' is 0"),
    ],
)
def test_bad_specs_are_refused(spec, said):
    with pytest.raises(InputError, match=said):
        adapter(spec)


@pytest.mark.parametrize(("method", "ema"), [("clip", None), ("siglip", 0.5)])
def test_a_saved_run_is_an_ordinary_model(method, ema, pairs_csv, tmp_path):
    config = resolve(
        method,
        {"train": str(pairs_csv)},
        preset="tune",
        init="tiny",
        adapt="lora:r=2:layers=v:towers=text",
        guard=str(pairs_csv),
        recipe={**STEPS, "ema": ema},
        options=QUIET,
    )
    assert config.recipe.lr == pytest.approx(3e-4)  # ten times that of all weights
    run(config, tmp_path / "run", remember=lambda model, source: 0.0)
    start = load("tiny").encoder.state_dict()
    state = load(tmp_path / "run").encoder.state_dict()
    assert state.keys() - start.keys() == ({"logit_bias"} if method == "siglip" else set())
    moved = {name for name in start if not torch.equal(start[name], state[name])}
    assert all(
        name.startswith("text") and name.endswith("v.weight")
        for name in moved - {"logit_scale.value"}
    )
    assert len(moved) > 1
    assert store.read_description(tmp_path / "run")["training"]["adapt"] == config.adapt


def test_a_file_of_an_earlier_version_holds_the_factors(tmp_path):
    """Before 0.2 the run of `lora` kept them apart, under the name `rank`."""
    options = LoRA.configure({"r": 2})
    made = LoRA.of(options, small_make(adapter=options))
    made.model.set_classes(["cat", "dog"])
    config = {"r": 2}
    description = store.describe(
        "lora", config, made.model, made.make.words, made.model.image.preprocess
    )
    made.load_state_dict(moved_of(made.state_dict()))
    store.save_model(tmp_path, description, made.model.state_dict())
    assert any("lora_A" in name for name in load_file(tmp_path / "model.safetensors"))
    images = random_images()
    expected = made.eval().model.encoder.embed_images(images)
    torch.testing.assert_close(load(tmp_path).encoder.embed_images(images), expected)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("coop", {"init": "tiny"}, "coop adapts a model in its own way; leave out --adapt"),
        ("clip", {}, "keeps the weights of a trained model; name one with --init"),
    ],
)
def test_adapters_are_for_methods_on_pairs_with_a_start(method, options, said):
    with pytest.raises(InputError, match=said):
        resolve(method, {"train": "x.csv"}, adapt="lora", **options)


def test_a_method_without_a_dual_encoder_is_refused():
    config = resolve("language_model", {"train": "x.csv"}, init="tiny-lm", adapt="lora")
    with pytest.raises(InputError, match="language_model trains no dual encoder"):
        build_method(config, None)


def test_all_layers_are_all_but_an_output_layer():
    from torch import nn

    layers = nn.ModuleDict({"q": nn.Linear(4, 6), "head": nn.Linear(6, 9), "norm": nn.LayerNorm(4)})
    assert list(add_factors(layers, "layers", LowRank(r=1, layers="all"))) == ["q"]
    factors = 4 * (2 * 32) * 4 + 4 * (32 + 128) * 2  # q, k, v, out; fc1, fc2
    assert learnt(adapted(r=4, layers="all", towers="text")) == factors + 1
