"""Mixed methods: losses are those of the methods apart, on features that fit; towers are trained
and saved once."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from tests.conftest import make_pairs
from tests.factories import AT, TEXT, make_method

import diptych
from diptych.cli import main
from diptych.data.batch import Batch
from diptych.errors import InputError
from diptych.methods.base import Method
from diptych.methods.mix import Mixed, mixed
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.registry import method_class
from diptych.objectives import alignment, info_nce, mv_dhel, sigmoid_pairs, uniformity
from diptych.testing import check as suite

OWN = Path(__file__).with_name("decoupled.py")
NOTHING = Batch(keys=tuple("abcdef"))


def method(name="clip", added=(), **config):
    return mixed(make_method(name, text=f"{TEXT}:causal=false", embed_dim=16, **config), added)


def vectors(*names):
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(
        torch.randn(len(names), 6, 16, generator=generator), dim=-1
    )
    return dict(zip(names, unit.requires_grad_(), strict=True))


def test_losses_are_those_of_the_methods_apart():
    held = method(
        "clip", ["multi_view:tau=0.3:weight=0.5", "contrastive_gap:remove_contrastive=true:align=2"]
    )
    features = vectors("image", "text")
    image, text = features.values()
    terms = held.loss(features, NOTHING, AT).terms
    expected = {
        "contrastive": info_nce(image, text, held.main.model.logit_scale()),
        "multi_view/mv_dhel": 0.5 * mv_dhel(torch.stack([image, text]), 0.3),
        "contrastive_gap/alignment": 2 * alignment(image, text),
        "contrastive_gap/uniformity": (uniformity(image, 2.0) + uniformity(text, 2.0)) / 2,
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)


def test_each_hook_of_a_method_is_forwarded_to_the_main_one():
    own = {name for name, held in vars(Method).items() if inspect.isfunction(held)}
    assert own - {"__init__", "features_from"} <= set(vars(Mixed))


def test_the_fields_that_the_main_method_needs_are_needed():
    held = method("generative_negatives", ["multi_view"], itm="score")
    [stage] = held.stages()
    assert held.needs(stage) == held.main.needs(stage)
    assert "labels.score" in held.needs(stage)


def test_a_method_in_a_file_is_added():
    held = method("clip", [f"{OWN}:scale=5:weight=0.5", "siglip"])
    assert set(held.added) == {"decoupled_py", "siglip"}
    features = vectors("image", "text")
    own = held.added["decoupled_py"].loss(features, NOTHING, AT).total
    terms = held.loss(features, NOTHING, AT).terms
    torch.testing.assert_close(terms["decoupled_py/contrastive"], 0.5 * own)


def test_a_temperature_and_a_bias_are_the_added_methods_own():
    held = method("clip", ["siglip:weight=2"], scale=5.0)
    features = vectors("image", "text")
    siglip = held.added["siglip"]
    assert held.main.model.logit_bias is None
    assert siglip.model.logit_scale is not held.main.model.logit_scale
    expected = 2 * sigmoid_pairs(
        *features.values(), siglip.model.logit_scale(), siglip.model.logit_bias
    )
    torch.testing.assert_close(
        held.loss(features, NOTHING, AT).terms["siglip/contrastive"], expected
    )


def test_all_texts_of_the_main_method_are_read():
    held = method(
        "clip",
        ["multi_view:tau=0.5", "contrastive_gap:remove_contrastive=true"],
        role="caption;long",
    )
    features = vectors("image", "text", "text2")
    terms = held.loss(features, NOTHING, AT).terms
    torch.testing.assert_close(
        terms["multi_view/mv_dhel"], mv_dhel(torch.stack([*features.values()]), 0.5)
    )
    apart = [alignment(features["image"], features[name]) for name in ("text", "text2")]
    torch.testing.assert_close(terms["contrastive_gap/alignment"], torch.stack(apart).mean())


def test_towers_are_registered_and_delivered_once():
    held, alone = method("clip", ["siglip", "contrastive_gap"]), method("clip")
    assert held.deliver() is held.main.model
    mine = [f"main.{name}" for name in alone.state_dict()]
    extra = sorted(set(held.state_dict()) - set(mine))
    assert extra == ["added.siglip.model.logit_bias", "added.siglip.model.logit_scale.value"]
    for (
        name,
        value,
    ) in (
        alone.state_dict().items()
    ):  # what is drawn for the main method does not hang on what is added
        assert torch.equal(held.state_dict()[f"main.{name}"], value)


@pytest.mark.parametrize(
    ("name", "added", "named"),
    [
        ("clip", ["dreamlip"], "dreamlip cannot be added"),
        ("clip", ["mod_x"], "mod_x cannot be added"),
        ("clip", ["simclr"], "simclr cannot be added"),
        ("clip", ["distill_clip"], "distill_clip cannot be added"),
        ("clip", ["multi_veiw"], "did you mean 'multi_view'"),
        ("clip", ["multi_view", "multi_view:tau=1"], "given twice"),
        ("clip", ["multi_view:weight=much"], "weight is 'much'"),
        ("clip", ["multi_view:tua=1"], "did you mean 'tau'"),
    ],
)
def test_what_cannot_be_added_is_told_when_it_is_built(name, added, named):
    with pytest.raises(InputError, match=named):
        method(name, added)


@pytest.mark.parametrize("added", ["clip", "multi_view", "contrastive_gap"])
def test_features_that_do_not_fit_are_named(added):
    held = method("dreamlip", [added], role="caption", pool="long")
    given = {
        "image": torch.zeros(6, 16),
        "texts": torch.zeros(6, 3, 16),
        "groups": torch.zeros(6, 3, 16),
    }
    with pytest.raises(
        InputError, match=r"reads image and text, .* DreamLIP does not give .*texts \(6, 3, 16\)"
    ):
        held.added[added].features_from(given, held.main.name)


class ClipAndTwo(Mixed):
    """clip with multi_view and contrastive_gap, as a class that the contract suite can build."""

    Config = CLIP.Config
    presets = CLIP.presets

    def __init__(self, config, make):
        both = mixed(CLIP(config, make), ["multi_view", "contrastive_gap:mode=cuaxu"])
        super().__init__(
            both.main, {name: (both.added[name], both.weights[name]) for name in both.weights}
        )


class SiglipAndGap(Mixed):
    """siglip with contrastive_gap."""

    Config = method_class("siglip").Config
    presets = method_class("siglip").presets

    def __init__(self, config, make):
        both = mixed(
            method_class("siglip")(config, make),
            ["contrastive_gap:remove_contrastive=true:weight=0.1"],
        )
        super().__init__(
            both.main, {name: (both.added[name], both.weights[name]) for name in both.weights}
        )


class ModXAndView(Mixed):
    """mod_x, whose stages and frozen copy stay its own, with multi_view."""

    Config = method_class("mod_x").Config
    presets = method_class("mod_x").presets

    def __init__(self, config, make):
        both = mixed(method_class("mod_x")(config, make), ["multi_view:weight=0.5"])
        super().__init__(
            both.main, {name: (both.added[name], both.weights[name]) for name in both.weights}
        )


PAIRS = [ClipAndTwo, SiglipAndGap, ModXAndView]


@pytest.mark.parametrize("cls", PAIRS)
@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
def test_mixed_methods_keep_the_contract(cls, check):
    check(suite.Subject(cls))


@pytest.mark.parametrize("cls", PAIRS)
def test_mixed_methods_train_on_two_ranks_as_on_one(cls, two):
    suite.two_ranks_train_as_one(suite.Subject(cls), two)


def test_the_command_and_the_function_train_the_same_model(tmp_path, capsys):
    data = str(make_pairs(tmp_path / "data", 24))
    words = ["train", "clip", "--data", data, "--steps", "3", "--batch-size", "8", "--quiet"]
    added = ["multi_view:tau=0.3", "contrastive_gap:weight=0.5"]
    for spec in added:
        words += ["--with", spec]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0, capsys.readouterr().err
    model = diptych.train(
        "clip", data, tmp_path / "b", added=added, steps=3, batch_size=8, quiet=True
    ).model
    one, other = diptych.load(tmp_path / "a").encoder.state_dict(), model.encoder.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one | other)
    logged = [
        json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    ]
    step = next(line for line in logged if "loss" in line)
    assert {
        "loss/contrastive",
        "loss/multi_view/mv_dhel",
        "loss/contrastive_gap/uniformity",
    } <= set(step)
    assert json.loads((tmp_path / "a" / "model.json").read_text())["training"]["added"] == added
    again = [
        "train",
        "--config",
        str(tmp_path / "a" / "config.yaml"),
        "--quiet",
        "--out",
        str(tmp_path / "c"),
    ]
    assert main(again) == 0, capsys.readouterr().err
    third = diptych.load(tmp_path / "c").encoder.state_dict()
    assert all(torch.equal(one[name], third[name]) for name in one)


def test_the_command_tells_in_one_line_what_does_not_fit(tmp_path, capsys):
    data = str(make_pairs(tmp_path / "data", 24))
    words = [
        "train",
        "dreamlip",
        "--data",
        data,
        "--method.pool",
        "caption",
        "--with",
        "multi_view",
        "--quiet",
    ]
    assert main([*words, "--batch-size", "8", "--out", str(tmp_path / "run")]) == 2
    reported = capsys.readouterr().err.strip().splitlines()
    assert len(reported) == 1
    assert "MultiView reads image and text" in reported[0]
    assert "DreamLIP does not give" in reported[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["language_model", "--with", "clip"], "trains no dual encoder"),
        (
            ["coop", "--init", "tiny", "--method.label", "label", "--with", "clip"],
            "trains no dual encoder",
        ),
        (["simclr", "--with", "clip"], "SimCLR does not give"),
    ],
)
def test_methods_that_no_pair_loss_fits_say_so_in_one_line(words, said, tmp_path, capsys):
    data = str(make_pairs(tmp_path / "data", 24))
    assert (
        main(
            [
                "train",
                *words,
                "--data",
                data,
                "--quiet",
                "--batch-size",
                "8",
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 2
    )
    reported = capsys.readouterr().err.strip().splitlines()
    assert len(reported) == 1
    assert said in reported[0]
