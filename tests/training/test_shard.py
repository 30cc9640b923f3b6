"""Sharded over the ranks (FSDP), a run takes the path of an unsharded one, and its files are the
same."""

import copy
import json
from pathlib import Path

import pytest
import torch
from tests.factories import IMAGE, make_method
from tests.training.helpers import METHODS, make_engine, read_log
from torch.distributed.tensor import DTensor

from diptych import collectives
from diptych.data.loader import Loader
from diptych.errors import InputError
from diptych.methods.base import Recipe, Stage
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.store import load
from diptych.testing import Toy
from diptych.towers.nn.parts import Momentum
from diptych.training.config import resolve
from diptych.training.engine import Engine
from diptych.training.options import Options
from diptych.training.programs.known import adamw
from diptych.training.run import run
from diptych.training.state import Checkpoints
from diptych.training.step import forward_backward

STEPS, BROKEN = 4, 2


class Stopped(Exception):
    pass


class Staged(CLIP):
    """One tower after the other, the second in pieces, then both, then what the loss alone uses;
    with a slow copy."""

    def __init__(self, config, make):
        super().__init__(config, make)
        self.slow = Momentum(self.model, 0.5)
        self.head = torch.nn.Linear(32, 5)
        self.prepared: list[float] = []

    def stages(self):
        return (
            Stage(name="text", lr_scale={"model.image": 0.0}, prepare=self._prepare),
            Stage(name="image", lr_scale={"model.text": 0.0}, recipe={"chunk": 40}),
            Stage(name="both", prepare=self._prepare, every="epoch"),
            Stage(name="head", lr_scale={"model": 0.0}, recipe={"chunk": 40}),
        )

    def _encode_texts(self, batch, at):
        slow = {"slow": self.slow.module.embed_texts(*batch.text.flat)}
        return {**super()._encode_texts(batch, at), **slow}

    def loss(self, features, batch, at):
        losses = super().loss(features, batch, at)
        head = self.head(features["text"]).logsumexp(1).mean()
        more = 1 - (features["text"] * features["slow"].detach()).sum(1).mean()
        return type(losses)({**losses.terms, "slow": more, "head": head}, losses.logged)

    def after_step(self, carry, at):
        self.slow.update()

    def _prepare(self, run):
        """Rank 0 has one batch more than rank 1: nobody may wait for the other inside of it."""
        rows = 40 if collectives.rank() == 0 else 20
        views = self.views(self.stages()[0])
        loader = Loader(Toy(rows), views, self.stages()[0].plan, 20, seed=1)
        with torch.no_grad():
            for batch in loader.epoch(0):
                self.prepared.append(
                    float(self.model.embed_images(batch.image.flat.double()).sum())
                )
        found = run.map(
            lambda batch: {"x": self.model.embed_texts(*batch.text.flat)},
            views,
            run.sources["train"],
        )
        self.prepared.append(float(found["x"].sum()))


def bytes_held(engine: Engine, optimizer: torch.optim.Optimizer) -> int:
    """Of parameters, optimiser state and averaged weights, on this rank."""
    held = [
        *engine.method.parameters(),
        *(engine.average.module.parameters() if engine.average else ()),
    ]
    held += [
        v
        for state in optimizer.state.values()
        for v in state.values()
        if isinstance(v, torch.Tensor)
    ]
    return sum(t.nbytes for t in (x.to_local() if isinstance(x, DTensor) else x for x in held))


def train(out: str, shard: bool, recipe: dict, name="clip", stop=None, resume=False, image=IMAGE):
    """Run in float64, until `stop` where it is given; then what there is to compare, weights on
    rank 0."""
    Path(out).mkdir(parents=True, exist_ok=True)
    method = make_method("clip" if name == "staged" else name, 3 if resume else 0, image)
    if name == "staged":
        torch.manual_seed(0)
        method = Staged(method.config, method.make)
    base = Recipe(lr=1e-3, batch_size=15, steps=STEPS, ema=0.9, clip=0.5)
    recipe = Recipe(**{**{k: getattr(base, k) for k in base.__dataclass_fields__}, **recipe})
    probe = Toy(9)
    views = method.views(method.stages()[0])

    def validate(module, done):
        batch = next(iter(Loader(probe, views, method.stages()[0].plan, 9, seed=1).epoch(0)))
        sums = [value.double().sum() for value in copy.deepcopy(module).state_dict().values()]
        with torch.inference_mode():
            sums += [
                module.embed_images(batch.image.flat).sum(),
                module.embed_texts(*batch.text.flat)[0, 0],
            ]
        return {"sum": float(sum(sums))}

    options = Options(quiet=True, shard=shard, save_every=1, nonfinite="skip")
    engine = Engine(
        method.double(), recipe, {"train": Toy(43)}, Path(out), options, validate=validate
    )
    held, snapshot = {}, engine._snapshot

    def watched(optimizer):
        snapshot(optimizer)
        held.update(bytes=bytes_held(engine, optimizer))
        if engine.position.done == stop:
            raise Stopped

    engine._snapshot = watched
    try:
        engine.run(resume)
    except Stopped:
        engine.log.close()
        return None
    parameters = {
        name: (tuple(p.shape), tuple(p.to_local().shape) if isinstance(p, DTensor) else None)
        for name, p in engine.method.named_parameters()
    }
    scale = float(engine.method.model.logit_scale.value.detach())
    prepared = getattr(method, "prepared", None)
    return {
        "weights": engine.weights(),
        "method": engine.ranks.full_tensors(dict(engine.method.state_dict())),
        "parameters": parameters,
        "scale": scale,
        "prepared": prepared,
        **held,
    }


def numbers(out: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        (line.get("loss"), line.get("grad_norm"), line.get("sum"))
        for line in lines
        if line.get("event") != "start"
    ]


def alike(found: list[tuple], expected: list[tuple]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-9)


def close(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


CASES = {
    "adamw": ("two", "clip", {}),
    "sigmoid_muon": ("two", "siglip", {"optimizer": "muon", "ema": None}),
    "four_ranks": ("four", "siglip", {"optimizer": "muon", "steps": 2}),
    "program": ("two", "clip", {"optimizer": str(adamw((0.9, 0.98), 1e-6))}),
    "in_pieces": ("two", "clip", {"chunk": 40}),
    "one_sample_at_once": ("four", "clip", {"chunk": 1, "steps": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_norms_and_weights_are_those_of_an_unsharded_run(tmp_path, request, case):
    """With clipping at a norm that is passed, averaged weights, and a validation by rank 0
    alone."""
    fixture, name, recipe = CASES[case]
    ranks = request.getfixturevalue(fixture)
    alone = train(str(tmp_path / "one"), False, recipe, name)
    several = ranks.run(train, str(tmp_path / "many"), True, recipe, name)
    expected = numbers(tmp_path / "one")
    assert any(norm and norm > 0.5 for _, norm, _ in expected), "nothing was clipped"
    alike(numbers(tmp_path / "many"), expected)
    close(several[0]["weights"], alone["weights"])
    for number, rank in enumerate(several):
        assert rank["scale"] == several[0]["scale"]
        for parameter, (shape, local) in rank["parameters"].items():
            if not shape:
                assert local is None, f"{parameter} is a scalar"
            elif shape[0] % ranks.count == 0:
                assert local == (shape[0] // ranks.count, *shape[1:]), parameter
            else:
                assert local[1:] == shape[1:], parameter
                assert local[0] <= -(-shape[0] // ranks.count), parameter
        assert rank["bytes"] < 1.02 * alone["bytes"] / ranks.count, (
            f"rank {number} holds {rank['bytes']}"
        )


CONV = "conv:image_size=32:widths=(16,24):depths=(1,1)"


@pytest.mark.parametrize("tower", [CONV, "timm:test_resnet:image_size=32"])
def test_towers_of_other_kinds_are_sharded_as_a_whole(tmp_path, two, tower):
    """Filters whose channels lie last in memory; batch norm over the samples of all ranks."""
    if tower.startswith("timm"):
        pytest.importorskip("timm")
    alone = train(str(tmp_path / "one"), False, {"steps": 3}, image=tower)
    first, second = two.run(
        train, str(tmp_path / "two"), True, {"steps": 3}, "clip", None, False, tower
    )
    alike(numbers(tmp_path / "two"), numbers(tmp_path / "one"))
    close(first["weights"], alone["weights"])
    assert max(first["bytes"], second["bytes"]) < 1.02 * alone["bytes"] / 2


def test_stages_frozen_towers_columns_and_state_after_steps(tmp_path, two):
    """Each stage freezes another part, and the method embeds between steps, before the first one
    too."""
    alone = train(str(tmp_path / "one"), False, {"ema": None, "steps": 4}, "staged")
    first, second = two.run(train, str(tmp_path / "two"), True, {"ema": None, "steps": 4}, "staged")
    alike(numbers(tmp_path / "two"), numbers(tmp_path / "one"))
    close(first["method"], alone["method"])
    assert first["prepared"] == pytest.approx(alone["prepared"], abs=1e-9)
    assert len(second["prepared"]) < len(first["prepared"])
    assert second["prepared"][-1] == first["prepared"][-1]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("way", ["sharded_then_whole", "whole_then_sharded"])
def test_a_checkpoint_is_that_of_an_unsharded_run_and_goes_on_either_way(
    tmp_path, two, way, optimizer
):
    recipe = {"optimizer": optimizer}
    unbroken = train(str(tmp_path / "one"), False, recipe)
    train(str(tmp_path / "whole"), False, recipe, "clip", BROKEN)
    two.run(train, str(tmp_path / "sharded"), True, recipe, "clip", BROKEN)
    same(*(Checkpoints(tmp_path / kind / "state").load() for kind in ("sharded", "whole")))
    if way == "sharded_then_whole":
        done = train(str(tmp_path / "sharded"), False, recipe, "clip", None, True)
        alike(numbers(tmp_path / "sharded"), numbers(tmp_path / "one"))
    else:
        done, _ = two.run(train, str(tmp_path / "whole"), True, recipe, "clip", None, True)
        alike(numbers(tmp_path / "whole"), numbers(tmp_path / "one"))
    close(done["weights"], unbroken["weights"])


def same(found, expected, where="state"):
    """Two trees of a checkpoint: the same names in the same order, values but for rounding."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            same(one, other, f"{where}[{index}]")
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(
            found, expected, rtol=1e-9, atol=1e-9, msg=lambda m: f"{where}: {m}"
        )
    else:
        assert found == expected, where


def train_files(table: str, out: str, shard: bool) -> None:
    recipe = {"steps": 4, "batch_size": 16, "optimizer": "adamw", "precision": "bfloat16"}
    towers = {"image_tower": "vit:image_size=32:patch=16:width=32:depth=1:heads=2",
              "text_tower": "text:width=32:depth=1:heads=2", "embed_dim": 32}  # fmt: skip
    config = resolve(
        "clip", {"train": table}, recipe=recipe, options={"shard": shard, "quiet": True}, **towers
    )
    run(config, out)


def test_the_finished_model_loads_and_embeds_as_that_of_an_unsharded_run(tmp_path, two, pairs_csv):
    train_files(str(pairs_csv), str(tmp_path / "one"), False)
    two.run(train_files, str(pairs_csv), str(tmp_path / "two"), True)
    one, other = load(tmp_path / "one"), load(tmp_path / "two")
    texts = ["red large thing 3", "a green square"]
    torch.testing.assert_close(
        other.embed_texts(texts), one.embed_texts(texts), rtol=1e-3, atol=2e-3
    )
    images = torch.randint(
        0, 255, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(
        other.embed_images(images), one.embed_images(images), rtol=1e-3, atol=2e-3
    )
    assert read_log(tmp_path / "two")[-1]["loss"] == pytest.approx(
        read_log(tmp_path / "one")[-1]["loss"], abs=2e-2
    )


def poisoned(out: str) -> tuple[int, float]:
    def backward(step, batch, at):
        losses = forward_backward(step, batch, at)
        if at.step == 1 and collectives.rank() == 1:
            step.method.model.image_projection.weight.grad.to_local().fill_(float("nan"))
        return losses

    engine = make_engine(
        Path(out), backward=backward, recipe={"steps": 3}, shard=True, nonfinite="skip"
    )
    summary = engine.run()
    return summary.skipped, float(engine.method.model.logit_scale.value.detach())


def test_trouble_in_the_share_of_one_rank_is_skipped_by_all(tmp_path, two):
    first, second = two.run(poisoned, str(tmp_path / "run"))
    assert first == second
    assert first[0] == 1


def refused(out: str) -> str:
    method = make_method()
    method.find_unused_parameters = True
    try:
        make_engine(Path(out), method=method, shard=True).run()
    except InputError as error:
        return str(error)
    return ""


def test_a_method_that_leaves_parameters_out_is_refused(tmp_path, two):
    for message in two.run(refused, str(tmp_path / "run")):
        assert "a step of CLIP may leave some parameters without a gradient" in message
        assert "leave --shard out" in message
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def refused_optimizer(out: str, optimizer: str) -> str:
    try:
        train(out, True, {"optimizer": optimizer, "steps": 1})
    except InputError as error:
        return str(error)
    return ""


CLIPPED = """def train(weight, gradient, lr):
    update = clip_by_global_norm(gradient, 1.0)
    update = update * lr
    return update
"""


@pytest.mark.parametrize(
    ("optimizer", "start"),
    [
        ("adafactor", "optimizer adafactor needs whole matrices, which --shard splits"),
        (CLIPPED, "the program of --optimizer calls clip_by_global_norm, of whole tensors"),
    ],
)
def test_an_optimizer_that_needs_whole_matrices_is_refused(tmp_path, two, optimizer, start):
    for message in two.run(refused_optimizer, str(tmp_path / "run"), optimizer):
        assert message.startswith(start)


def test_the_share_of_one_process_is_all(tmp_path):
    a, b = (train(str(tmp_path / str(shard)), shard, {"steps": 2}) for shard in (False, True))
    close(b["weights"], a["weights"])
    assert all(local is None for _, local in b["parameters"].values())


def test_every_method_here_is_tried():
    assert {name for _, name, _ in CASES.values()} == set(METHODS)
