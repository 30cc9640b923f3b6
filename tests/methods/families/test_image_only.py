"""The baselines on images alone: each loss from the features, who follows whom, models without
texts."""

import math

import pytest
import torch
from tests.factories import make_batch, make_method
from tests.methods.families.helpers import AT, FEW, method
from torch.nn.functional import cosine_similarity, normalize

import diptych
from diptych.errors import InputError
from diptych.methods.base import At
from diptych.methods.registry import method_class
from diptych.objectives import dcl, nt_xent, supervised
from diptych.objectives.noncontrastive import redundancy, sinkhorn
from diptych.training.config import resolve
from diptych.training.run import run


def batch(count=8, crops=3):
    return make_batch(count, {"main": 2, "small": crops}, label=torch.arange(count) % 3)


def slow_swav(held, features):
    """Each full crop's assignment, predicted by every other crop."""
    prototypes = normalize(held.prototypes.weight, dim=1)
    crops = [features["views"][:, 0], features["views"][:, 1], *features["crops"].unbind(1)]
    losses = []
    for v in range(2):
        rows = torch.cat([crops[v], held.queues[v].rows])
        assigned = sinkhorn(rows @ prototypes.T)[:8]
        for u, crop in enumerate(crops):
            if u != v:
                losses.append(
                    -(assigned * (crop @ prototypes.T / 0.1).log_softmax(1)).sum(1).mean()
                )
    return sum(losses) / len(losses)


def expected(name, held, features):
    if name == "simsiam":
        z, p = features["views"], features["predictions"]
        return -sum(cosine_similarity(p[:, a], z[:, 1 - a]).mean() for a in (0, 1)) / 2
    if name == "byol":
        z, p = features["targets"], features["predictions"]
        return sum(2 - 2 * cosine_similarity(p[:, a], z[:, 1 - a]).mean() for a in (0, 1))
    if name == "barlow_twins":
        return 0.5 * redundancy(*features["views"].unbind(1), off_diagonal=0.0051)
    if name == "swav":
        return slow_swav(held, features)
    views = normalize(features["views"], dim=-1)
    one, other = views.unbind(1)
    if name == "supcon":
        return supervised(views.transpose(0, 1), torch.arange(8) % 3, 0.3)
    return nt_xent(one, other, 0.3) if name == "simclr" else dcl(one, other, 0.3, sigma=0.5)


@pytest.mark.parametrize("name", FEW)
def test_the_loss_is_that_of_the_views_and_reaches_all_that_is_trained(name):
    held, given = method(name), batch()
    features = held.encode(given, AT)
    losses = held.loss(features, given, AT)
    torch.testing.assert_close(losses.total, expected(name, held, features))
    losses.total.backward()
    assert not [
        key for key, value in held.named_parameters() if value.requires_grad and value.grad is None
    ]


@pytest.mark.parametrize("name", FEW)
def test_a_run_is_loaded_without_a_text_tower(name, tmp_path):
    config = resolve(
        name,
        {"train": "glyphs:split=val:design=noto"},
        image_tower="conv:image_size=32:widths=(8,16):depths=(1,1)",
        embed_dim=16,
        config={**FEW[name], **{"supcon": {"label": "group"}}.get(name, {})},
        recipe={"steps": 2, "batch_size": 16, "ema": None},
        options={"quiet": True},
    )
    run(config, tmp_path / "run")
    model = diptych.load(tmp_path / "run")
    assert model.encoder.text is None
    assert model.represent(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).pooled.shape == (2, 16)


def test_byols_copy_follows_by_a_momentum_that_rises_to_one():
    held = method("byol", momentum=0.9)
    before = [value.clone() for value in held.slow.module.parameters()]
    with torch.no_grad():
        for parameter in held.model.parameters():
            parameter.add_(1.0)
    held.after_step({}, At(5, 10, 0, 0))
    m = 1 - 0.1 * (math.cos(math.pi / 2) + 1) / 2
    torch.testing.assert_close(next(held.slow.module.parameters()), before[0] + 1 - m)
    held.after_step({}, At(10, 10, 0, 0))
    torch.testing.assert_close(next(held.slow.module.parameters()), before[0] + 1 - m)


def test_swavs_prototypes_stand_still_at_first_and_its_queue_takes_full_crops():
    held, given = method("swav", still=0.3), batch()
    losses = held.loss(held.encode(given, AT), given, At(0, 10, 0, 0))
    losses.total.backward()
    assert held.prototypes.weight.grad.abs().max() == 0
    held.after_step(losses.carry, AT)
    for queue, rows in zip(held.queues, losses.carry["full"], strict=True):
        torch.testing.assert_close(queue.rows[:8], rows)


def test_small_crops_may_have_a_size_of_their_own():
    held = method("swav", crop_size=16)
    assert [view.gives for view in held.views(held.stages()[0])] == [
        ("images.main",),
        ("images.small",),
    ]
    assert held.views(held.stages()[0])[1].preprocess.size == 16
    assert [view.gives for view in method("swav", crops=0).views(held.stages()[0])] == [
        ("images.main",)
    ]


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("simclr", {"tau": 0.0}, "'tau' of method SimCLR is 0.0"),
        ("byol", {"momentum": 2.0}, "'momentum' of method BYOL is 2.0"),
        ("barlow_twins", {"weight": -1.0}, "'weight' of method BarlowTwins is -1.0"),
        ("dcl", {"sigma": -1.0}, "'sigma' of method DCL is -1.0"),
        ("supcon", {"tau": -1.0}, "'tau' of method SupCon is -1.0"),
        ("swav", {"prototypes": 1}, "'prototypes' of method SwAV is 1"),
        ("swav", {"eps": 0.0}, "'eps' of method SwAV is 0.0"),
    ],
)
def test_bad_options_are_refused(name, config, said):
    with pytest.raises(InputError, match=said):
        method_class(name).configure(config)


def test_a_text_tower_is_refused():
    with pytest.raises(InputError, match="images alone"):
        make_method("simclr")
