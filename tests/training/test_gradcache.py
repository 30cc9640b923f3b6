"""Gradient caching: the gradient of the whole batch, in the memory of a piece."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.factories import IMAGE, TEXT, make_method
from tests.training.helpers import METHODS, a_batch, make_engine, peak, read_log

from diptych import collectives
from diptych.data.batch import Batch, Images
from diptych.errors import InputError
from diptych.methods.base import At, Losses, Recipe, Stage
from diptych.methods.pretrain.clip import CLIP
from diptych.objectives import core
from diptych.testing import Toy
from diptych.training.config import resolve
from diptych.training.engine import Engine
from diptych.training.gradcache import cached, samples_at_once, strategy
from diptych.training.launch import make_accelerator
from diptych.training.options import Options
from diptych.training.replicated import wrap_ddp
from diptych.training.step import Step, forward_backward

AT = At(3, 10, 0, 7)
DROPPING = {
    "image": "vit:image_size=32:patch=8:width=32:depth=2:heads=2:dropout=0.2:patch_dropout=0.5",
    "text": "text:width=32:depth=2:heads=2:dropout=0.2",
}


def gradients(method):
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def close(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-7, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("chunk", [1, 40, 100_000], ids=["one_sample", "pieces", "all"])
@pytest.mark.parametrize("name", METHODS)
def test_06_with_dropout_gradients_are_those_of_one_graph_with_the_same_draws(name, chunk):
    """The reference keeps the graphs of all pieces at once and goes backward through them in one
    go."""
    method = make_method(name, **DROPPING).double().train()
    step, batch = Step(method, "float32"), a_batch(method)
    losses = cached(chunk)(step, batch, AT)
    found = gradients(method)
    method.zero_grad()
    features = {}
    for part, key in (("images", "image"), ("texts", "text")):
        count = -(-len(batch) // samples_at_once(batch, part, chunk))
        bounds = [len(batch) * i // count for i in range(count + 1)]
        pieces = [batch.rows(bounds[i], bounds[i + 1]) for i in range(count)]
        features[key] = torch.cat(
            [step.encode(piece, AT, part, i)[key] for i, piece in enumerate(pieces)]
        )
    expected = step.loss(features, batch, AT)
    expected.total.backward()
    assert losses.total.item() == pytest.approx(expected.total.item(), abs=1e-12)
    close(found, gradients(method))
    again = cached(chunk)(step, batch, replace(AT, step=4))
    assert abs(again.total.item() - losses.total.item()) > 1e-6, "another step draws anew"


def one_step(
    name: str, chunk: int | None, tile: int | None
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and averaged gradients of a batch of 13 in float64, on however many ranks there are."""
    choose = core._tile
    if tile:
        core._tile = lambda x, y: tile
    try:
        method = make_method(name).double().train()
        step, batch = Step(method, "float32"), a_batch(method)
        model = wrap_ddp(make_accelerator(), step) if chunk is None else step
        losses = strategy(chunk)(model, batch, AT)
    finally:
        core._tile = choose
    return losses.total.item(), gradients(method)


@pytest.fixture(params=["two", "four"])
def ranks(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("tile", [None, 3], ids=["whole", "tiled"])
@pytest.mark.parametrize("name", METHODS)
def test_05_loss_and_gradients_on_w_ranks_are_those_of_one_process_at_once(ranks, name, tile):
    """Softmax and sigmoid, temperature and bias included; 13 samples are uneven on 2 and on 4
    ranks."""
    value, expected = one_step(name, None, None)
    assert {
        "model.logit_scale.value",
        *(["model.logit_bias"] if name == "siglip" else []),
    } <= expected.keys()
    for chunk in (None, 30):
        for other, found in [one_step(name, chunk, tile), *ranks.run(one_step, name, chunk, tile)]:
            assert other == pytest.approx(value, abs=1e-10)
            close(found, expected)


def test_the_scale_gets_its_gradient_once():
    open_clip = pytest.importorskip("open_clip.loss")
    method = make_method().double().train()
    step, batch, k = Step(method, "float32"), a_batch(method, 12), 3
    forward_backward(step, batch, AT)
    expected = gradients(method)
    method.zero_grad()
    cached(4 * 4)(step, batch, AT)  # 4 image tokens a sample: 3 pieces
    close(gradients(method), expected)
    method.zero_grad()
    with torch.no_grad():
        held = method.encode(batch, AT)
    for piece in range(k):  # what open_clip_train does with accum_freq=3
        live, rows = (
            method.encode(batch.rows(4 * piece, 4 * piece + 4), AT),
            slice(4 * piece, 4 * piece + 4),
        )
        stitched = {
            name: torch.cat([value[: rows.start], live[name], value[rows.stop :]])
            for name, value in held.items()
        }
        open_clip.ClipLoss()(
            stitched["image"], stitched["text"], method.model.logit_scale()
        ).backward()
    theirs = gradients(method)
    torch.testing.assert_close(
        theirs["model.logit_scale.value"], k * expected["model.logit_scale.value"]
    )
    close(
        {n: g for n, g in theirs.items() if "scale" not in n},
        {n: g for n, g in expected.items() if "scale" not in n},
    )


def test_07_what_backward_holds_does_not_grow_with_the_batch():
    """From 16 to 128 samples: 8 times as much at once, nothing but the features (B, 32) more in
    pieces."""
    features = 2 * 32 * 4  # bytes a sample; the loss holds them a few times
    assert peak(None, 128) > 6 * peak(None, 16)
    small, large = peak(64, 16), peak(64, 128)
    assert large - small < 112 * 4 * features
    assert large < peak(None, 128) / 6


def test_one_tower_at_a_time_is_in_memory_and_a_frozen_one_is_encoded_once():
    calls = []

    class Watched(CLIP):
        def _encode_images(self, batch, at):
            calls.append(("images", len(batch), torch.is_grad_enabled()))
            return super()._encode_images(batch, at)

        def _encode_texts(self, batch, at):
            calls.append(("texts", len(batch), torch.is_grad_enabled()))
            return super()._encode_texts(batch, at)

    method = make_method()
    method.__class__ = Watched
    for part in (method.model.image, method.model.image_projection):
        part.requires_grad_(False)
    batch = a_batch(method, 12)
    chunk = 4 * batch.text.ids.shape[2]  # 4 texts
    images = samples_at_once(batch, "images", chunk)
    cached(chunk)(Step(method, "float32"), batch, AT)
    first = -(-12 // images)
    assert [c for c in calls if c[0] == "texts"] == [("texts", 4, False)] * 3 + [
        ("texts", 4, True)
    ] * 3
    assert [c[2] for c in calls if c[0] == "images"] == [False] * first + [True], (
        "one look shows that nothing learns"
    )
    assert "model.image_projection.weight" not in gradients(method)
    order = [c[0] for c in calls]
    assert order == sorted(order[: first + 3]) + sorted(order[first + 3 :]), (
        "a tower's pieces come in one stretch"
    )


def test_tokens_are_counted_by_views_pixels_captions_and_padding():
    images = Batch(images={"main": Images(torch.zeros(5, 2, 3, 33, 64))}, keys=tuple("abcde"))
    assert samples_at_once(images, "images", 48) == 2  # 2 views of 3 x 4 patches of 16 pixels
    assert samples_at_once(images, "all", 1) == 1, "a sample above the budget goes alone"
    assert samples_at_once(images, "texts", 7) == 7


class TwoStreams(CLIP):
    """Pairs from one stream, texts alone from another, of another size."""

    def encode(self, batches, at):
        more = self._encode_texts(batches["more"], at)["text"]
        return {**super().encode(batches["train"], at), "more": more}

    def parts(self):
        return {"all": self.encode}

    def loss(self, features, batches, at):
        losses = super().loss(features, batches["train"], at)
        return Losses({**losses.terms, "more": features["more"].var()})


def test_streams_side_by_side_are_cut_into_as_many_pieces():
    method = make_method().double().train()
    method.__class__ = TwoStreams
    step, batches = (
        Step(method, "float32"),
        {"train": a_batch(method, 13), "more": a_batch(method, 5, Toy(30))},
    )
    forward_backward(step, batches, AT)
    expected = gradients(method)
    method.zero_grad()
    cached(60)(step, batches, AT)
    close(gradients(method), expected)


class Whole(CLIP):
    """Its samples meet in encode."""

    chunkable = False


def test_what_may_not_be_cut_is_refused_before_the_first_step(tmp_path):
    method = make_method()
    method.__class__ = Whole
    with pytest.raises(
        InputError, match="Whole encodes a batch only as a whole, so --chunk cannot cut it; leave"
    ):
        make_engine(tmp_path / "a", method=method, recipe={"chunk": 64}).run()
    pytest.importorskip("timm")
    mixing = make_method(image="timm:resnet10t:image_size=32")
    with pytest.raises(
        InputError, match=r"image.* has batch norm.*--chunk cannot cut it; choose a tower without"
    ):
        make_engine(tmp_path / "b", method=mixing, recipe={"chunk": 64}).run()
    for name in ("a", "b"):  # nor is anything written
        assert not (tmp_path / name / "metrics.jsonl").exists()
    with pytest.raises(InputError, match="'chunk' of the recipe is 0"):
        Recipe(chunk=0)


def test_chunk_belongs_to_what_is_learnt_and_the_guard_to_how_it_runs():
    """So a run cannot be resumed with another chunk, whose dropout would differ, but with another
    guard."""
    config = resolve("clip", {"train": "glyphs"}, recipe={"chunk": 64}, options={"spike": 5.0})
    assert (config.recipe.chunk, config.options.spike) == (64, 5.0)
    assert resolve("clip", {"train": "glyphs"}).recipe.chunk is None


class Locked(CLIP):
    """The batch norm of a tower that is frozen does not mix."""

    def stages(self):
        return (Stage(lr_scale={"model.image": 0.0}),)


def test_batch_norm_of_a_frozen_tower_may_be_cut(tmp_path):
    pytest.importorskip("timm")
    method = make_method(image="timm:resnet10t:image_size=32")
    method.__class__ = Locked
    assert make_engine(tmp_path, method=method, recipe={"chunk": 64, "steps": 2}).run().steps == 2


RECIPE = {"clip": 0.5, "ema": 0.9, "steps": 6}


def test_a_run_in_pieces_follows_the_path_of_one_at_once(tmp_path):
    """With clipping and averaged weights, in float64; in bfloat16 as near as that is."""
    for precision, tolerance in (("float32", 1e-7), ("bfloat16", 3e-2)):
        runs = []
        for chunk in (None, 50):
            out = tmp_path / f"{precision}{chunk}"
            method = make_method()
            method = method.double() if precision == "float32" else method
            engine = make_engine(
                out, method=method, recipe={**RECIPE, "chunk": chunk, "precision": precision}
            )
            engine.run()
            runs.append((engine.delivered().state_dict(), [line["loss"] for line in read_log(out)]))
        assert runs[0][1] == pytest.approx(runs[1][1], abs=tolerance)
        if precision == "float32":
            for name, value in runs[0][0].items():
                torch.testing.assert_close(runs[1][0][name], value, rtol=1e-5, atol=1e-7)


def test_resumed_in_pieces_with_dropout_a_run_ends_with_the_same_bits(tmp_path):
    recipe = {**RECIPE, "chunk": 60}
    unbroken = make_engine(tmp_path / "a", method=make_method(**DROPPING), recipe=recipe)
    unbroken.run()

    def broken(step, batch, at):
        if at.step == 4:
            signal.raise_signal(15)
        return cached(60)(step, batch, at)

    with pytest.raises(Exception, match="stopped by a signal"):
        make_engine(
            tmp_path / "b", method=make_method(**DROPPING), recipe=recipe, backward=broken
        ).run()
    resumed = make_engine(tmp_path / "b", method=make_method(seed=9, **DROPPING), recipe=recipe)
    resumed.run(resume=True)
    for name, value in unbroken.method.state_dict().items():
        assert torch.equal(value, resumed.method.state_dict()[name]), name
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")


def train(out: str, chunk: int | None, trouble: bool, find_unused_parameters: bool = True):
    """Runs on each rank: skipped steps, weights and the losses of a short run in float64."""
    method = make_method(image=IMAGE, text=TEXT).double()
    method.find_unused_parameters = find_unused_parameters

    def backward(step, batch, at):
        losses = strategy(chunk)(step, batch, at)
        if at.step == 1 and collectives.rank() == 1:
            next(p for p in step.parameters() if p.grad is not None).grad.view(-1)[0] = float("nan")
        return losses

    Path(out).mkdir(exist_ok=True, parents=True)
    recipe = replace(Recipe(lr=1e-3, batch_size=15, steps=4), chunk=chunk)
    options = Options(quiet=True, nonfinite="skip")
    engine = Engine(
        method,
        recipe,
        {"train": Toy(44)},
        Path(out),
        options,
        backward=backward if trouble else None,
    )
    summary = engine.run()
    losses = [
        json.loads(line).get("loss")
        for line in (Path(out) / "metrics.jsonl").read_text().splitlines()
    ]
    return summary.skipped, {k: v.clone() for k, v in method.state_dict().items()}, losses


def test_ranks_in_pieces_follow_one_process_at_once(tmp_path, ranks):
    _, alone, losses = train(str(tmp_path / "one"), None, False)
    answers = ranks.run(train, str(tmp_path / "many"), 40, False)
    assert answers[0][2][1:] == pytest.approx(losses[1:], abs=1e-9)
    for _, weights, _ in answers:
        for name, value in alone.items():
            assert torch.equal(weights[name], answers[0][1][name]), f"ranks drift apart in {name}"
            torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=1e-8)


def test_trouble_on_one_rank_is_skipped_by_all_in_pieces_too(tmp_path, ranks):
    answers = ranks.run(train, str(tmp_path / "run"), 40, True)
    assert all(skipped == 1 for skipped, _, _ in answers)
    assert all(
        torch.equal(value, weights[name])
        for _, weights, _ in answers
        for name, value in answers[0][1].items()
    )


def lonely() -> dict[str, torch.Tensor | None]:
    """Gradients that only rank 1 has, that none has, and that all have, averaged."""
    some, none, every = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    if collectives.rank() == 1:
        some.grad = torch.ones(2)
    every.grad = torch.full((2,), float(collectives.rank()))
    collectives.average_gradients([some, none, every])
    return {"some": some.grad, "none": none.grad, "every": every.grad}


def test_a_gradient_that_one_rank_has_is_averaged_with_zeros(ranks):
    for found in ranks.run(lonely):
        assert found["none"] is None
        assert found["some"].tolist() == [1 / ranks.count] * 2
        assert found["every"].tolist() == [(ranks.count - 1) / 2] * 2
