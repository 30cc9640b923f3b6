"""The preset `tune`: what continues a trained model on pairs learns the new data and keeps the
old."""

import pytest
import torch
import yaml

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.methods.base import Method
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.registry import cards, method_class
from diptych.methods.store import load
from diptych.objectives import info_nce
from diptych.training.config import preset_for, resolve
from diptych.training.run import build_method, run

OLD, NEW = "scenes:split=test:count=60", "glyphs:split=val:design=noto:part=1/6"
ON_PAIRS = ("albef", "align", "clip", "clippings", "cliprocket", "coca", "mammut", "contrastive_gap",
            "distill_clip", "dreamlip", "generative_negatives", "lion", "mod_x", "multi_view", "siglip",
            "sycoca", "unimed_clip", "urbanclip")  # fmt: skip
ON_LISTS = ("mmgeolm",)  # its published recipe continues a model, and is its preset
ON_ANOTHER = ("mcl",)  # whose options are those of its base
ON_TEXTS = ("contrastive_search", "debcse", "nlp_primer", "simcse", "whitened_cse")


def loss_of(model):
    """CLIP's loss of all new pairs."""
    samples = [source[at] for source in [open_source(NEW)] for at in range(len(source))]
    images = model.embed_images([sample.images["main"] for sample in samples])
    texts = model.embed_texts([sample.captions()[0] for sample in samples])
    return float(info_nce(images, texts, model.encoder.logit_scale().detach()))


def recall(model):
    found = evaluate(model, open_source(OLD), ["retrieval"])["retrieval"]
    return (found["i2t_r1"] + found["t2i_r1"]) / 2


def test_a_short_run_learns_the_new_and_keeps_the_old(tmp_path):
    before = load("tiny")
    run(
        resolve(
            "clip",
            {"train": NEW},
            preset="tune",
            init="tiny",
            recipe={"steps": 8, "batch_size": 16},
            options={"quiet": True},
        ),
        tmp_path / "run",
    )
    after = load(tmp_path / "run")
    assert loss_of(after) < loss_of(before) - 0.02
    assert recall(after) >= 0.95 * recall(before)


@pytest.mark.parametrize("name", ON_PAIRS)
def test_methods_on_pairs_have_it(name):
    cls = method_class(name)
    preset = cls.presets["tune"]
    config = cls.configure(preset.config)
    assert (preset.recipe.lr, preset.recipe.ema, config.decay) == (3e-5, None, 0.75)
    assert preset.recipe.optimizer.startswith("lion" if name == "lion" else "adamw")
    assert preset_for(name, "tiny") == "tune"
    assert preset_for(name, None) == "small"


ON_EITHER = ("fine_tune", "lora", "wise_ft")  # on classes where --preset tune is not given


def test_a_method_on_another_has_the_options_of_its_base():
    for name in ON_ANOTHER:
        preset = method_class(name).presets["tune"]
        options = preset.config["options"]
        assert (preset.recipe.lr, preset.recipe.ema, options["decay"]) == (3e-5, None, 0.75)
        assert preset.config["pretrained"]
        assert preset_for(name, "tiny") == "tune"


AT_ONE_RATE = ("clim", "villa")  # they train image towers alone, clim the last blocks
WITH_A_HEAD = ("denseclip", "dito", "regress")  # whose rate is that of a new head


def test_methods_that_train_image_towers_alone_have_one_rate():
    for name in AT_ONE_RATE:
        preset = method_class(name).presets["tune"]
        assert (preset.recipe.lr, preset.recipe.ema) == (3e-5, None)
        assert getattr(method_class(name).configure(preset.config), "decay", 1) == 1
        assert preset_for(name, "tiny") == "small"


def test_other_methods_keep_their_preset():
    for name in ON_EITHER:
        assert method_class(name).presets["tune"].config["on"] == "pairs"
        assert preset_for(name, "tiny") == "small"
    trained = {name for name, card in cards().items() if card.kind != "analysis"}
    for name in trained - {
        *ON_PAIRS,
        *ON_LISTS,
        *ON_ANOTHER,
        *ON_EITHER,
        *ON_TEXTS,
        *AT_ONE_RATE,
        *WITH_A_HEAD,
    }:
        if issubclass(cls := method_class(name), Method):
            assert "tune" not in cls.presets
            assert preset_for(name, "tiny") == "small"


def test_rates_fall_by_layers_in_both_towers():
    config = resolve("clip", {"train": NEW}, preset="tune", init="tiny", config={"decay": 0.5})
    method, _ = build_method(config, None)
    [stage] = method.stages()
    for side in ("image", "text"):
        blocks = getattr(method.model, side).transformer.layers
        assert stage.lr_scale[f"model.{side}"] == 0.5 ** len(blocks)
        assert stage.lr_scale[f"model.{side}.transformer.layers.{len(blocks) - 1}"] == 1.0


def test_towers_without_blocks_have_one_rate():
    small = CLIP.presets["small"]
    config = resolve(
        "clip", {"train": NEW}, preset="small", config={"decay": 0.5}, text_tower=small.text
    )
    method, _ = build_method(config, load("tiny").tokenizer)
    [stage] = method.stages()
    assert {name.split(".")[1] for name in stage.lr_scale} == {
        "text"
    }  # the image tower is convolutional
    with pytest.raises(
        InputError, match="'decay' of method CLIP is 0; it must be a number above 0"
    ):
        CLIP.configure({"decay": 0})


def test_it_is_taken_with_init_and_told_in_one_line(tmp_path, capsys):
    from diptych.cli import main

    words = [
        "train",
        "clip",
        "--data",
        NEW,
        "--init",
        "tiny",
        "--steps",
        "1",
        "--batch-size",
        "4",
        "--quiet",
        "--out",
    ]
    assert main([*words, str(tmp_path / "tuned")]) == 0
    reported = [line for line in capsys.readouterr().err.splitlines() if "preset tune" in line]
    assert reported == [
        "--init takes the preset tune: adamw, lr 3e-05, batches of 4; --lr and the like change it, "
        "--preset small trains as from scratch"
    ]
    assert main([*words, str(tmp_path / "small"), "--preset", "small", "--lr", "1e-6"]) == 0
    assert "preset tune" not in capsys.readouterr().err
    configs = {
        name: yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        for name in ("tuned", "small")
    }
    assert [config["preset"] for config in configs.values()] == ["tune", "small"]
    assert [config["recipe"]["optimizer"] for config in configs.values()] == ["adamw", "muon"]


def test_a_scale_that_is_given_stays_where_it_was():
    """Options of `small` such as `scale` mean nothing to a model that brings its own."""
    method, _ = build_method(resolve("clip", {"train": NEW}, preset="tune", init="tiny"), None)
    torch.testing.assert_close(method.model.logit_scale(), load("tiny").encoder.logit_scale())


def test_batch_norms_keep_the_statistics_that_they_came_with(pairs_csv, tmp_path):
    """What stands behind them was trained for these, and a small batch has others."""
    tower = "timm:test_efficientnet:image_size=64"
    small = {"text_tower": "text:width=32:depth=1:heads=2", "embed_dim": 16}
    kept = {}
    for keep in (True, False):
        config = resolve(
            "clip",
            {"train": str(pairs_csv)},
            image_tower=tower,
            config={"keep_statistics": keep},
            recipe={"steps": 2, "batch_size": 8, "ema": None},
            options={"quiet": True},
            **small,
        )
        run(config, tmp_path / str(keep))
        state = load(tmp_path / str(keep)).encoder.state_dict()
        means = torch.cat([value for name, value in state.items() if name.endswith("running_mean")])
        kept[keep] = bool((means == 0).all())
    assert kept == {True: True, False: False}
