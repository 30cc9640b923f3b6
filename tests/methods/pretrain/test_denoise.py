"""Denoising diffusion given texts: its loss by loops, texts that are left out, and the way from a
world to drawings and to swaps."""

import json
import math

import pytest
import torch
from tests.factories import AT, make_batch, make_method, tokenizer

from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.methods.make import NO_TOWER
from diptych.methods.pretrain.denoise import Denoise
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

SMALL = {"size": 8, "patch": 4, "width": 32, "depth": 1, "steps": 20}


def method(**config):
    made = make_method(
        Denoise,
        image=NO_TOWER,
        text="text:width=32:depth=1:heads=2:causal=false",
        **SMALL,
        **config,
    )
    torch.nn.init.normal_(made.model.denoiser.out.weight, std=0.1)
    return made.eval()


def batch(dropped=(False, False, False)):
    generator = torch.Generator().manual_seed(2)
    return make_batch(
        3,
        {"main": 1},
        {"main": 1},
        size=8,
        noise=torch.randn(3, 3, 8, 8, generator=generator, dtype=torch.float64),
        time=torch.tensor([0, 7, 19]),
        dropped=torch.tensor(dropped),
    )


def test_the_loss_is_that_of_loops():
    made = method().double()
    given = batch()
    with torch.no_grad():
        found = float(made.loss(made.encode(given, AT), given, AT).total)
        total = 0.0
        for at in range(3):
            t = int(given.fields["time"][at])
            edge = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
            kept = math.cos(((t + 1) / 20 + 0.008) / 1.008 * math.pi / 2) ** 2 / edge
            kept = min(max(kept, 1e-4), 0.99999)
            x = given.image.flat[at].double().flatten().tolist()
            e = given.fields["noise"][at].flatten().tolist()
            noisy = [
                math.sqrt(kept) * (value / 127.5 - 1) + math.sqrt(1 - kept) * own
                for value, own in zip(x, e, strict=True)
            ]
            ids, lengths = given.text.flat
            rows, mask = made.model.rows(ids[at : at + 1], lengths[at : at + 1])
            z = torch.tensor(noisy, dtype=torch.float64).view(1, 3, 8, 8)
            predicted = made.model(z, torch.tensor([t]), rows, mask).flatten().tolist()
            total += sum((a - b) ** 2 for a, b in zip(predicted, e, strict=True)) / len(e)
    assert found == pytest.approx(total / 3, rel=1e-5)


def test_a_text_that_is_dropped_is_the_empty_one():
    made = method()
    ids, lengths = batch().text.flat
    found, short = made._dropped(ids, lengths, torch.tensor([True, False, True]))
    [empty] = tokenizer().encode([""])
    assert short.tolist() == [len(empty), 5, len(empty)]
    assert found[0, : len(empty)].tolist() == empty
    assert torch.equal(found[1], ids[1])


def test_a_denoiser_that_predicts_no_v_errs_by_v():
    """√(1 - a) x_t - e = -√a (√a e - √(1 - a) x_0)."""
    made = method().double()
    torch.nn.init.zeros_(made.model.denoiser.out.weight)
    given = batch()
    error = made.encode(given, AT)["error"].detach()
    kept = made.model.kept.double()[given.fields["time"]].view(-1, 1, 1, 1)
    clean = made.model.latents(given.image.flat)
    v = kept.sqrt() * given.fields["noise"] - (1 - kept).sqrt() * clean
    torch.testing.assert_close(error, (kept * v.square()).mean((1, 2, 3)))


def test_from_a_world_to_drawings_and_to_swaps(tmp_path):
    world = "scenes:number=2:same=0:size=32:texts=caption:drop=0:objects=shapes"
    settings = resolve(
        "denoise",
        {"train": f"{world}:count=24"},
        text_tower="text:width=16:depth=1:heads=2:causal=false",
        embed_dim=16,
        config={**SMALL, "schedule": "scaled_linear"},
        recipe={"steps": 2, "batch_size": 8, "ema": None},
        options={"seed": 0, "quiet": True},
    )
    run(settings, tmp_path / "run")
    model = load(tmp_path / "run")
    model.draws = 2
    assert float(model.diffusion.kept[0]) == pytest.approx(1 - 0.00085 * 50)
    swaps = open_source(f"{world}:split=val:edits=swap:count=6")
    found = evaluate(model, swaps, ["composition"], by="match")["composition"]
    assert found["n"] == 6
    assert 0 <= found["text"] <= 1
    assert model.draw("a red star", steps=2)[0].size == (8, 8)
    assert json.loads((tmp_path / "run" / "model.json").read_text())["dual"]["image"] is None
