"""The losses of the baselines on images alone against lightly's and pytorch-metric-learning's:
values and gradients.

Both libraries take features as they come and make unit vectors of them; ours take unit vectors.
Where two published definitions differ, the comment at the test says by what, and the test holds
them to that difference exactly.
"""

import math

import pytest
import torch
from lightly.loss import (
    BarlowTwinsLoss,
    DCLLoss,
    DCLWLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    SwaVLoss,
)
from lightly.loss.swav_loss import sinkhorn as lightlys_sinkhorn
from pytorch_metric_learning import losses as metric
from tests.methods.families.helpers import AT, method
from torch.nn import functional as F

from diptych.data.batch import Batch
from diptych.objectives import dcl, nt_xent, poly_view, supervised
from diptych.objectives.noncontrastive import negative_cosine, redundancy, sinkhorn

pytestmark = pytest.mark.parity

SIZES = pytest.mark.parametrize(("count", "seed"), [(2, 0), (3, 1), (8, 2), (33, 3)])
TAU = pytest.mark.parametrize("tau", [0.07, 0.5])
WIDTH = 6


def drawn(seed, *shape, scale=1.7):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()


def two(seed, count):
    return drawn(seed, count, WIDTH), drawn(seed + 100, count, WIDTH)


def unit(x):
    return F.normalize(x, dim=-1)


def same(ours, theirs, inputs):
    """Two losses of the same inputs have one value and one gradient in each of them."""
    value, expected = ours(), theirs()
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(value, expected.reshape(()), **close)
    gradients = [
        torch.autograd.grad(loss.sum(), inputs, allow_unused=True) for loss in (value, expected)
    ]
    for mine, other, given in zip(*gradients, inputs, strict=True):
        none = torch.zeros_like(given)
        torch.testing.assert_close(
            none if mine is None else mine, none if other is None else other, **close
        )
    assert any(mine is not None and mine.abs().max() > 1e-6 for mine in gradients[0])


def held(name, **config):
    """A method in float64, small: its loss is a function of features alone."""
    return method(name, **config).double()


def loss_of(made, features, count, **fields):
    batch = Batch(fields=fields, keys=tuple(map(str, range(count))))
    return made.loss(features, batch, AT).total


# ---- NT-Xent (SimCLR)


@SIZES
@TAU
def test_nt_xent_is_both_libraries(count, seed, tau):
    x, y = two(seed, count)
    for theirs in (
        NTXentLoss(temperature=tau),
        metric.SelfSupervisedLoss(metric.NTXentLoss(temperature=tau)),
    ):
        same(lambda: nt_xent(unit(x), unit(y), tau), lambda theirs=theirs: theirs(x, y), (x, y))


@SIZES
def test_simclrs_loss_is_lightlys_of_what_it_encodes(count, seed):
    made, views = held("simclr", tau=0.2), drawn(seed, count, 2, WIDTH)
    same(
        lambda: loss_of(made, {"views": views}, count),
        lambda: NTXentLoss(temperature=0.2)(*views.unbind(1)),
        (views,),
    )


@SIZES
@TAU
@pytest.mark.parametrize("many", [2, 3, 4])
def test_poly_view_is_nt_xent_over_pairs_of_one_label(count, seed, tau, many):
    """pytorch-metric-learning's loss of more than two views: each positive among itself and the
    negatives alone."""
    views = drawn(seed, many, count, WIDTH)
    labels = torch.arange(count).repeat(many)
    theirs = metric.NTXentLoss(temperature=tau)
    same(lambda: poly_view(unit(views), tau), lambda: theirs(views.flatten(0, 1), labels), (views,))


# ---- negative cosine (SimSiam, BYOL)


@SIZES
def test_negative_cosine_is_lightlys_doubled_and_two_more(count, seed):
    """BYOL's form is 2 - 2 cos, lightly's -cos. Ours stops the target's gradient itself, lightly
    leaves that to who calls it."""
    p, z = two(seed, count)
    theirs = NegativeCosineSimilarity()
    same(lambda: negative_cosine(p, z), lambda: 2 + 2 * theirs(p, z.detach()), (p, z))


@SIZES
def test_simsiam_is_the_mean_of_lightlys_two_and_byol_four_times_it_and_four_more(count, seed):
    z, p = drawn(seed, count, 2, WIDTH), drawn(seed + 100, count, 2, WIDTH)
    (z1, z2), (p1, p2) = z.detach().unbind(1), p.unbind(1)
    theirs = NegativeCosineSimilarity()

    def mean():  # as lightly's examples of both methods have it
        return (theirs(p1, z2) + theirs(p2, z1)) / 2

    same(lambda: loss_of(held("simsiam"), {"views": z, "predictions": p}, count), mean, (z, p))
    same(
        lambda: loss_of(held("byol"), {"targets": z.detach(), "predictions": p}, count),
        lambda: 4 + 4 * mean(),
        (p,),
    )


# ---- Barlow Twins


def standardised(x):
    """By the statistics of the batch, as the projector's last batch norm does it."""
    return F.batch_norm(x, None, None, training=True)


@SIZES
@pytest.mark.parametrize("off_diagonal", [0.005, 0.5])
def test_redundancy_of_standardised_views_is_lightlys_of_raw_ones(count, seed, off_diagonal):
    """lightly standardises each view inside the loss; in our methods the projector has done it."""
    x, y = two(seed, count)
    same(
        lambda: redundancy(standardised(x), standardised(y), off_diagonal=off_diagonal),
        lambda: BarlowTwinsLoss(lambda_param=off_diagonal)(x, y),
        (x, y),
    )


@SIZES
def test_barlow_twins_loss_is_lightlys_times_its_weight(count, seed):
    """Of views that are standardised each by itself. The method's batch norm sees both views of the
    batch together, so that what it encodes is standard for each of them only nearly."""
    made, views = held("barlow_twins", weight=0.5), drawn(seed, count, 2, WIDTH)
    one, other = views.unbind(1)
    same(
        lambda: loss_of(
            made, {"views": torch.stack([standardised(one), standardised(other)], 1)}, count
        ),
        lambda: 0.5 * BarlowTwinsLoss(lambda_param=0.0051)(one, other),
        (views,),
    )


# ---- SwAV


@SIZES
@pytest.mark.parametrize(("eps", "iterations"), [(0.05, 3), (0.05, 1), (0.5, 7)])
def test_sinkhorn_is_lightlys(count, seed, eps, iterations):
    """Theirs in exponentials, ours in logarithms."""
    scores = unit(drawn(seed, count, WIDTH)).detach() @ unit(drawn(seed + 1, 5, WIDTH)).detach().T
    torch.testing.assert_close(
        sinkhorn(scores, eps=eps, iterations=iterations),
        lightlys_sinkhorn(scores, iterations=iterations, epsilon=eps),
        rtol=1e-10,
        atol=1e-12,
    )


@SIZES
@pytest.mark.parametrize("queue", [0, 16])
@pytest.mark.parametrize("crops", [0, 3])
def test_swavs_loss_is_lightlys_with_small_crops_and_queue(count, seed, crops, queue):
    made = held("swav", queue=queue, crops=crops, eps=0.1, iterations=4, tau=0.2)
    width, weight = made.model.embed_dim, made.prototypes.weight
    views, small = drawn(seed, count, 2, width), drawn(seed + 1, count, max(crops, 1), width)

    def ours():
        features = {"views": unit(views), **({"crops": unit(small)} if crops else {})}
        return loss_of(made, features, count)

    def theirs():
        prototypes = unit(weight)
        high = [unit(view) @ prototypes.T for view in views.unbind(1)]
        low = [unit(view) @ prototypes.T for view in small.unbind(1)] if crops else []
        kept = [each.rows @ prototypes.T for each in made.queues] if queue else None
        return SwaVLoss(temperature=0.2, sinkhorn_iterations=4, sinkhorn_epsilon=0.1)(
            high, low, kept
        )

    same(ours, theirs, (views, small, weight))


# ---- DCL


@SIZES
@TAU
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # lightly's weights
def test_dcl_and_dclw_are_lightlys(count, seed, tau):
    x, y = two(seed, count)
    same(lambda: dcl(unit(x), unit(y), tau), lambda: DCLLoss(temperature=tau)(x, y), (x, y))
    for sigma in (0.5, 0.2):
        theirs = DCLWLoss(temperature=tau, sigma=sigma)
        same(
            lambda sigma=sigma: dcl(unit(x), unit(y), tau, sigma=sigma),
            lambda t=theirs: t(x, y),
            (x, y),
        )


@SIZES
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize("sigma", [None, 0.5])
def test_dcls_loss_is_lightlys_of_what_it_encodes(count, seed, sigma):
    made, views = held("dcl", tau=0.2, sigma=sigma), drawn(seed, count, 2, WIDTH)
    theirs = DCLLoss(temperature=0.2) if sigma is None else DCLWLoss(temperature=0.2, sigma=sigma)
    same(lambda: loss_of(made, {"views": views}, count), lambda: theirs(*views.unbind(1)), (views,))


# ---- SupCon


def apart(labels):
    """Labels for pytorch-metric-learning, which has no word for a missing one: -1 becomes a class
    of its own."""
    return torch.where(labels < 0, 1000 + torch.arange(len(labels)), labels)


@SIZES
@TAU
@pytest.mark.parametrize("many", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_supcon_is_pytorch_metric_learnings(count, seed, tau, many, missing):
    """L_out in both. Its mean leaves out rows whose loss is 0, which are rows without a positive;
    here each has one."""
    views = drawn(seed, many, count, WIDTH)
    labels = torch.arange(count) % 3
    if missing:
        labels[0] = -1
    theirs = metric.SupConLoss(temperature=tau)
    same(
        lambda: supervised(unit(views), labels, tau),
        lambda: theirs(views.flatten(0, 1), apart(labels).repeat(many)),
        (views,),
    )


@SIZES
def test_supcons_loss_is_pytorch_metric_learnings_of_what_it_encodes(count, seed):
    made, views = held("supcon", tau=0.2), drawn(seed, count, 2, WIDTH)
    labels = torch.arange(count) % 3
    same(
        lambda: loss_of(made, {"views": views}, count, label=labels),
        lambda: metric.SupConLoss(temperature=0.2)(
            views.transpose(0, 1).flatten(0, 1), labels.repeat(2)
        ),
        (views,),
    )


def test_a_batch_of_one_class_is_0_there_and_the_papers_loss_here():
    """pytorch-metric-learning asks for a negative somewhere; the paper's equation does not: of four
    equal vectors each is one of three."""
    views = torch.ones(2, 2, WIDTH, dtype=torch.float64)
    labels = torch.zeros(2, dtype=torch.long)
    assert metric.SupConLoss(temperature=0.5)(views.flatten(0, 1), labels.repeat(2)).item() == 0
    assert supervised(unit(views), labels, 0.5).item() == pytest.approx(math.log(3))
