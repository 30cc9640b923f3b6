"""ConES: what learns in which stage, how concepts begin, what is stored; the contract of its
further tasks."""

import json
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from tests.factories import make_method, random_images
from tests.methods.adapt.helpers import method

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.adapt.cones import ConES
from diptych.methods.make import Make
from diptych.methods.store import load
from diptych.models.detection import DetectorModel
from diptych.testing import Toy
from diptych.testing import check as suite
from diptych.training import optim
from diptych.training.config import resolve
from diptych.training.engine import Engine
from diptych.training.options import Options
from diptych.training.run import build_method, run

FIELDS = {"classify": ["images.main", "labels.class"], "detect": ["images.main", "boxes"],
          "segment": ["images.main", "boxes", "boxes.mask"],
          "generate": ["images.main", "labels.class", "texts.caption"]}  # fmt: skip
HEADS = {
    "classify": {},
    "detect": {"head": {"width": 32}},
    "segment": {"head": {"width": 8, "depth": 1}},
    "generate": {"head": {"size": 8, "width": 32, "depth": 1}},
}
ADAM = {
    "optimizer": "adamw",
    "lr": 0.05,
    "weight_decay": 0.0,
    "warmup": 0.0,
    "batch_size": 8,
    "steps": 3,
}


def cones(
    task="classify", *, image="vit:image_size=32:patch=16:width=64:depth=2:pre_norm=true", **config
):
    how = {"task": task, **HEADS[task], **config}
    return make_method(ConES, image=image, text="text:width=32:depth=2:heads=2", **how)


def engine(made, out, task="classify", streams=("train",), **recipe):
    out.mkdir(parents=True, exist_ok=True)
    sources = {stream: Toy(32, FIELDS[task]) for stream in streams}
    recipe = replace(ConES.presets["small"].recipe, **{**ADAM, **recipe})
    return Engine(made, recipe, sources, out, Options(quiet=True))


def test_only_concepts_learn_and_the_text_tower_is_gone(tmp_path):
    made = cones()
    before = {name: value.clone() for name, value in made.model.encoder.image.state_dict().items()}
    engine(made, tmp_path).run()
    assert made.model.encoder.text is None
    assert made.make.words is None
    assert made.model.bank.names == Toy(1, FIELDS["classify"]).schema()["labels.class"].classes
    for name, value in made.model.encoder.image.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not torch.equal(made.model.bank.vectors.norm(dim=1), made.model.bank.norms)


def test_it_begins_as_zero_shot_and_a_step_of_no_size_stays_there(tmp_path):
    """The published ablation: concepts that are held are the names."""
    names = Toy(1, FIELDS["classify"]).schema()["labels.class"].classes
    image, text = (
        "vit:image_size=32:patch=16:width=64:depth=2:pre_norm=true",
        "text:width=32:depth=2:heads=2",
    )
    plain = method("fine_tune", image=image, tower=text, classes=names)
    made = cones()
    made.model.encoder.load_state_dict(plain.model.encoder.state_dict())
    engine(made, tmp_path, lr=1e-30).run()
    with torch.no_grad():
        assert torch.equal(made.model.eval()(random_images()), plain.model(random_images()))


def test_the_second_stage_trains_the_vision_side_alone_where_concepts_are_held(tmp_path):
    made = cones(second={"lr": 1e-3, "steps": 2})
    stages = made.stages()
    assert [stage.name for stage in stages] == ["search", "second"]
    trained = {}
    for stage in stages:
        optim.freeze(made, stage.lr_scale)
        trained[stage.name] = {name for name, p in made.named_parameters() if p.requires_grad}
    assert trained["search"] == {"model.bank.vectors"}
    assert all(
        name.startswith(("model.encoder.image.", "model.encoder.image_projection"))
        for name in trained["second"]
    )
    both = cones(second={"lr": 1e-3}, hold=False)
    optim.freeze(both, both.stages()[1].lr_scale)
    assert both.model.bank.vectors.requires_grad
    engine(made, tmp_path).run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines if "stage" in line] == ["search"] * 3 + ["second"] * 2


def test_a_second_stage_without_rate_is_the_identity(tmp_path):
    one, two = cones(), cones(second={"lr": 1e-30, "steps": 3})
    engine(one, tmp_path / "one").run()
    engine(two, tmp_path / "two").run()
    with torch.no_grad():
        assert torch.equal(one.model.eval()(random_images()), two.model.eval()(random_images()))
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(
            value, two.model.state_dict()[name], rtol=0, atol=1e-28
        )  # what was 0 may be 1e-30


def test_concepts_may_begin_at_random_or_as_their_images(tmp_path):
    names = cones()
    engine(names, tmp_path / "names")
    drawn = cones(start="random")
    engine(drawn, tmp_path / "drawn")
    spread = names.model.bank.vectors.detach().std()
    assert drawn.model.bank.vectors.detach().std() == pytest.approx(float(spread), rel=0.2)
    assert not torch.allclose(drawn.model.bank.vectors, names.model.bank.vectors)
    seen = cones(start="images")
    assert [stage.name for stage in seen.stages()] == ["means", "search"]
    engine(seen, tmp_path / "seen", lr=1e-30).run()
    toy = Toy(32, FIELDS["classify"])
    preprocess = seen.model.image.preprocess
    with torch.no_grad():
        pixels = torch.stack([preprocess(toy[at].images["main"].decode()) for at in range(32)])
        features = seen.model.eval().image_features(pixels)
    labels = torch.from_numpy(toy.labels("class"))
    wanted = torch.stack([features[labels == c].mean(0) for c in range(8)])
    torch.testing.assert_close(seen.model.bank.vectors.detach(), wanted, atol=1e-5, rtol=1e-5)


def test_images_alone_are_enough_for_concepts_that_begin_as_images(tmp_path):
    make = Make(
        image="vit:image_size=32:patch=16:width=64:depth=1",
        text="none",
        embed_dim=16,
        tokenizer=None,
    )
    engine(ConES(ConES.configure({"start": "images"}), make), tmp_path / "a").run()
    with pytest.raises(InputError, match="start=images"):
        engine(ConES(ConES.configure({}), make), tmp_path / "b")


def test_norms_are_kept_in_training_where_asked(tmp_path):
    made = cones(keep_norm=True)
    engine(made, tmp_path).run()
    torch.testing.assert_close(made.model.bank.vectors.detach().norm(dim=1), made.model.bank.norms)


def preset_of(task, **head):
    config = {"task": task, "head": head, "base": {"steps": 3, "batch_size": 8}}
    return {name: replace(preset, config=config) for name, preset in ConES.presets.items()}


class Detecting(ConES):
    """For the contract suite, which reads the presets."""

    presets: ClassVar = preset_of("detect", width=32, depth=1)


class Segmenting(ConES):
    presets: ClassVar = preset_of("segment", width=8, depth=1)


class Generating(ConES):
    presets: ClassVar = preset_of("generate", size=16, width=32, depth=1)


CHECKS = ("encode_mixes_no_samples", "loss_changes_no_state", "every_parameter_learns",
          "cached_gradients_are_the_whole_batchs", "resume_is_exact")  # fmt: skip


@pytest.mark.parametrize("cls", [Detecting, Segmenting, Generating])
@pytest.mark.parametrize("check", CHECKS)
def test_the_other_tasks_keep_the_contract(cls, check):
    getattr(suite, check)(suite.Subject(cls))


@pytest.mark.parametrize(
    ("task", "base", "search"),
    [
        ("detect", {"model.head"}, {"model.bank.vectors"}),
        ("segment", {"model.head", "model.mask_head"}, {"model.bank.vectors"}),
        ("generate", {"model.denoiser"}, {"model.bank.vectors"}),
    ],
)
def test_heads_learn_in_the_stage_base_and_concepts_afterwards(task, base, search):
    made = cones(task, second={"lr": 1e-4})
    trained = {}
    for stage in made.stages():
        optim.freeze(made, stage.lr_scale)
        trained[stage.name] = {name for name, p in made.named_parameters() if p.requires_grad}
    assert {".".join(name.split(".")[:2]) for name in trained["base"]} == base
    assert trained["search"] == search
    assert not trained["second"] & search
    assert made.stages()[0].streams == ("base",)
    assert made.stages()[0].recipe["lr"] == 1e-3


TINY = {"init": "tiny", "options": {"quiet": True}}
HEAD = {"head": {"width": 32, "depth": 1}, "base": {"steps": 3, "batch_size": 8}}
NEW, OLD = "scenes:number=1:split=novel:count=16", "scenes:number=1-2:count=16"


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A run that has trained a head, and searched for nothing."""
    out = tmp_path_factory.mktemp("head") / "run"
    run(resolve("cones", {"base": OLD}, preset="detect", config=HEAD, **TINY), out)
    return out


def test_a_head_is_trained_once_and_used_for_any_concepts(head, tmp_path):
    first: DetectorModel = load(head)
    assert first.encoder.text is not None  # it is needed for the next concepts
    recipe = {"steps": 2, "batch_size": 8}
    run(
        resolve(
            "cones",
            {"train": NEW},
            preset="detect",
            init=str(head),
            recipe=recipe,
            options=TINY["options"],
        ),
        tmp_path / "run",
    )
    model: DetectorModel = load(tmp_path / "run")
    assert model.encoder.text is None
    assert model.classes[0] == "rabbit"
    for name, value in first.delivered.head.state_dict().items():
        assert torch.equal(value, model.delivered.head.state_dict()[name]), name
    stored = json.loads((tmp_path / "run" / "model.json").read_text())
    assert stored["tokenizer"] is None
    assert len(stored["kept"]["concepts"]["octopus"]) == len(model.delivered.bank.plan["octopus"])
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert {line["stage"] for line in lines if "stage" in line} == {"search"}


def test_a_tower_that_dropped_patches_gives_all_of_them_to_a_head(head, tmp_path):
    """The second stage trains the tower, and `tiny` was trained without a quarter of its patches."""
    settings = {"second": {"lr": 1e-4, "steps": 1}}
    recipe = {"steps": 1, "batch_size": 4}
    common = {"preset": "detect", "init": str(head), "options": TINY["options"]}
    run(
        resolve("cones", {"train": NEW}, config=settings, recipe=recipe, **common), tmp_path / "run"
    )
    assert load(tmp_path / "run").encoder.image.config.patch_dropout == 0


def test_a_search_without_a_head_asks_for_what_trains_one(tmp_path):
    with pytest.raises(InputError, match="--data base=SOURCE"):
        run(
            resolve("cones", {"train": NEW}, preset="detect", config=HEAD, **TINY), tmp_path / "run"
        )


def test_scores_and_losses_come_from_the_same_rows():
    """The rows whose loss is taken are those that score, and background is no concept's."""
    config = resolve("cones", {"train": NEW, "base": OLD}, preset="detect", config=HEAD, **TINY)
    made, model = build_method(config, None)
    made.setup({"train": open_source(NEW), "base": open_source(OLD)})
    assert len(made.task.known) == 20
    assert model.bank.names[:2] == ("rabbit", "owl")
    views = made.views(made.stages()[0]), made.views(made.stages()[1])
    assert (len(views[0][0].names), len(views[1][0].names)) == (20, 10)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"task": "clasify"}, "did you mean 'classify'"),
        ({"start": "name"}, "did you mean 'names'"),
        ({"task": "detect", "start": "images"}, "set start=names"),
        ({"vectors": 2}, "vectors is no option of the task classify"),
        ({"task": "detect", "max_boxes": 5}, "max_boxes is no option of the task detect"),
        ({"task": "detect", "vectors": 0}, "'vectors' of method ConES is 0"),
        ({"task": "detect", "whole": True}, "whole is no option of the task detect"),
        ({"head": {"width": 3}}, "head is no option of the task classify"),
        ({"task": "detect", "label": "kind"}, "label is no option of the task detect"),
        ({"task": "detect", "head": {"widht": 3}}, "did you mean 'width'"),
        ({"task": "detect", "augment": {"crop": (0.5, 1.0)}}, "boxes move with flip alone"),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        method("cones", **config)


@pytest.mark.parametrize("name", ["coop", "cones"])
def test_vectors_that_are_kept_give_the_same_training(name, tmp_path):
    """Of images that do not vary, with fewer passes of the image tower."""
    found, passes = {}, {}
    for cached in (False, True):
        torch.manual_seed(0)
        made = method(name, cached=cached)
        made.augment = replace(made.augment, crop=(1.0, 1.0), ratio=(1.0, 1.0))
        calls = []
        made.model.encoder.image.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        engine(made, tmp_path / f"{cached}", steps=5).run()
        found[cached], passes[cached] = made.model.state_dict(), len(calls)
    assert passes == {False: 5, True: 1}
    for key, value in found[False].items():
        torch.testing.assert_close(value, found[True][key], rtol=1e-3, atol=1e-4)


def test_what_is_cached_cannot_vary_and_images_are_still_asked_for(tmp_path):
    with pytest.raises(InputError, match="leave augment out"):
        method("cones", cached=True, augment={"flip": True})
    made = cones(cached=True)
    sources = {"train": Toy(32, ["labels.class"])}
    tmp_path.joinpath("run").mkdir()
    with pytest.raises(InputError, match=r"has no images.main"):
        Engine(
            made,
            replace(ConES.presets["small"].recipe, **ADAM),
            sources,
            tmp_path / "run",
            Options(quiet=True),
        ).run()
