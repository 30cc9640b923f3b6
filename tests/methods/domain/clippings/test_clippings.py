"""Records of entities: the published figures, the loss by loops, groups of hard negatives, and what
is delivered."""

import math

import numpy as np
import pytest
import torch
from tests.factories import AT, make_batch, make_method
from torch.nn.functional import normalize

from diptych.data.columns import WithColumns
from diptych.data.plan import Mined, PerClass
from diptych.data.sample import BadSample, Field, Sample, Text
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.methods.base import At
from diptych.methods.domain.clippings import NEAR, Clippings, with_own_first
from diptych.methods.domain.clippings.pairwise import pairwise
from diptych.methods.mix import mixed
from diptych.metrics import nearest
from diptych.objectives import nt_xent, supervised
from diptych.testing import Toy
from diptych.towers.dual import pooled
from diptych.training.prepare import Run

RECORDS = At(0, 10, 0, 0, "records")


def method(**config) -> Clippings:
    return make_method(Clippings, **config)  # type: ignore[return-value]


def batch_of(entities: list[int]):
    return make_batch(len(entities), {"main": 1}, {"main": 1}, entity=torch.tensor(entities))


def loops(z, labels, tau):
    """SupCon's loss, and the mean over records with another of their entity."""
    losses = []
    for i, own in enumerate(labels):
        positives = [p for p, other in enumerate(labels) if p != i and other == own >= 0]
        if not positives:
            continue
        dots = [sum(a * b for a, b in zip(z[i], each, strict=True)) / tau for each in z]
        total = sum(math.exp(dot) for a, dot in enumerate(dots) if a != i)
        losses.append(-sum(dots[p] - math.log(total) for p in positives) / len(positives))
    return sum(losses) / len(losses), losses


@pytest.mark.parametrize(("tau", "expected"), [(0.1, 0.063780), (0.5, 0.430190)])
def test_two_entities_have_the_published_loss(tau, expected):
    z = torch.tensor([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    assert supervised(z[None], labels, tau).item() == pytest.approx(expected, abs=1e-6)
    assert loops(z.tolist(), labels.tolist(), tau)[0] == pytest.approx(expected, abs=1e-6)


def test_a_record_without_another_of_its_entity_is_no_anchor():
    z = normalize(torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]).double(), dim=1)
    labels = torch.tensor([0, 0, 0, 1])
    found, each = loops(z.tolist(), labels.tolist(), 0.1)
    assert each == pytest.approx([0.6936, 1.2604, 1.2604], abs=1e-4)
    assert found == pytest.approx(1.071429, abs=1e-6)
    assert supervised(z[None], labels, 0.1).item() == pytest.approx(found)
    alone = supervised(z[None], torch.tensor([0, 1, 2, -1]), 0.1)
    assert alone.item() == 0, "and without any anchor there is no loss"


def test_two_records_of_each_entity_are_two_views():
    """With one positive each, SupCon is InfoNCE with the other 2N - 2 as negatives."""
    x, y = normalize(torch.randn(2, 5, 8, dtype=torch.float64), dim=-1)
    labels = torch.arange(5).repeat(2)
    found = supervised(torch.cat([x, y])[None], labels, 0.1)
    torch.testing.assert_close(found, nt_xent(x, y, 0.1))


def test_supcon_is_that_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    z = normalize(torch.randn(12, 8, dtype=torch.float64), dim=1)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 0])
    expected = losses.SupConLoss(temperature=0.1)(z, labels)
    torch.testing.assert_close(supervised(z[None], labels, 0.1), expected)
    margins = losses.ContrastiveLoss(pos_margin=0.1, neg_margin=1.2)
    torch.testing.assert_close(pairwise(z, labels, 0.1, 1.2), margins(z, labels))


def test_the_loss_of_pairs_is_a_mean_over_terms_that_are_not_zero():
    z = normalize(torch.randn(7, 4, dtype=torch.float64), dim=1)
    labels = [0, 0, 1, 1, 2, -1, -1]
    pull, push = [], []
    for i in range(7):
        for j in range(7):
            distance = math.dist(z[i].tolist(), z[j].tolist())
            same = labels[i] == labels[j] >= 0
            term = distance if same else 1.1 - distance
            if i != j and term > 0:
                (pull if same else push).append(term)
    expected = np.mean(pull) + (np.mean(push) if push else 0)
    assert pairwise(z, torch.tensor(labels), 0.0, 1.1).item() == pytest.approx(expected)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: pairwise(z, torch.tensor(labels), 0.0, 1.1), z)
    equal = torch.ones(2, 3, requires_grad=True)
    pairwise(equal, torch.tensor([0, 0])).backward()
    assert equal.grad.isfinite().all()


def test_records_are_pooled_before_they_are_made_unit():
    image = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    text = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    mean = (image + text) / 2
    assert float(mean.norm()) == pytest.approx(0.894427, abs=1e-6)
    assert float(mean.norm()) == pytest.approx(math.sqrt((1 + 0.6) / 2))
    assert pooled(image, text, 0.5)[0].tolist() == pytest.approx([0.894427, 0.447214], abs=1e-6)
    assert pooled(image, text, 0.76)[0].tolist() == pytest.approx([0.9782, 0.2078], abs=1e-4)
    assert torch.autograd.gradcheck(
        lambda x, y: pooled(x, y, 0.3), (image.requires_grad_(), text.requires_grad_())
    )


def test_opposite_vectors_have_no_direction():
    image = torch.tensor([[1.0, 0.0]], requires_grad=True)
    z = pooled(image, -image.detach(), 0.5)
    assert z.tolist() == [[0, 0]]
    z.sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


@pytest.mark.parametrize(("weight", "still"), [(1.0, "text"), (0.0, "image")])
def test_one_side_alone_leaves_the_other_without_gradient(weight, still):
    made = method(weight=weight)
    batch = batch_of([0, 0, 1, 1])
    made.loss(made.encode(batch, RECORDS), batch, RECORDS).total.backward()
    towers = {
        name: [each.grad for each in getattr(made.model, name).parameters()]
        for name in ("image", "text")
    }
    assert all(not grad.any() for grad in towers[still])
    assert any(grad.any() for grad in towers["text" if still == "image" else "image"])


@pytest.mark.parametrize("loss", ["supcon", "pairwise"])
def test_the_loss_of_a_batch_is_that_of_its_records(loss):
    made = method(loss=loss, weight=0.7, tau=0.2).double()
    entities = [3, 3, 5, 5, 5, -1]
    batch = batch_of(entities)
    features = made.encode(batch, RECORDS)
    found = float(made.loss(features, batch, RECORDS).total.detach())
    z = [
        [0.7 * a + 0.3 * b for a, b in zip(x, y, strict=True)]
        for x, y in zip(features["image"].tolist(), features["text"].tolist(), strict=True)
    ]
    z = [[v / math.hypot(*row) for v in row] for row in z]
    if loss == "supcon":
        assert found == pytest.approx(loops(z, entities, 0.2)[0])
    else:
        expected = pairwise(torch.tensor(z, dtype=torch.float64), torch.tensor(entities))
        assert found == pytest.approx(float(expected))


def test_pairs_have_clips_loss():
    made = method(scale=5.0)
    clip = make_method("clip", scale=5.0)
    batch = make_batch(4, {"main": 1}, {"main": 1})
    at = At(0, 10, 0, 0, "pairs")
    clip.model.load_state_dict(made.model.state_dict())
    with torch.no_grad():
        features = clip.encode(batch, AT)
        found = made.loss(features, batch, at).total
        torch.testing.assert_close(found, clip.loss(features, batch, AT).total)


class Firms(Toy):
    """Records of firms: each number is a firm, -1 none."""

    def __init__(self, entities, texts=None, bad=()):
        super().__init__(len(entities))
        self.entities = np.array(entities)
        self.texts = texts
        self.bad = bad

    def schema(self):
        return {**super().schema(), "labels.entity": Field(kind="int")}

    def labels(self, name):
        return self.entities

    def __getitem__(self, index):
        if index in self.bad:
            raise BadSample("utf8")
        sample = super().__getitem__(index)
        texts = sample.texts if self.texts is None else [Text(text=self.texts[index])]
        return Sample(
            key=sample.key,
            source="firms",
            images=sample.images,
            texts=texts,
            labels={"entity": int(self.entities[index])},
        )


def mined(made: Clippings, source) -> np.ndarray:
    run = Run(made, {"train": source}, RECORDS, torch.device("cpu"))
    made.stages()[-1].prepare(run)
    return run.columns["train"][NEAR]


def test_each_entity_is_put_together_with_its_nearest():
    made = method(nearest=3)
    source = Firms([7, 7, 2, -1, 2, 9, 4])
    near = mined(made, source)
    firsts = {2: 2, 4: 6, 7: 0, 9: 5}
    assert near.shape == (7, 3)
    for row in range(7):
        if row not in firsts.values():
            assert near[row].tolist() == [-1, -1, -1], "one anchor for each entity"
    run = Run(made, {"train": source}, RECORDS, torch.device("cpu"))
    views = made.views(made.stages()[0])
    order = [firsts[each] for each in sorted(firsts)]
    features = run.map(lambda b: made.encode(b, RECORDS), views, Wrapped(source, np.array(order)))
    z = pooled(torch.tensor(features["image"]), torch.tensor(features["text"]), 0.5)
    for at, entity in enumerate(sorted(firsts)):
        distances = (z - z[at]).norm(dim=1)
        expected = distances.argsort()[:3].tolist()
        found = [sorted(firsts).index(each) for each in near[firsts[entity]]]
        assert found[0] == at, "its own is first"
        assert sorted(found) == sorted(expected)


def test_blocks_of_hard_negatives_stay_whole():
    made = method(nearest=2, each=3)
    source = Firms([0, 0, 1, 1, 2, 3])
    near = mined(made, source)
    stage = made.stages()[-1]
    assert isinstance(stage.plan, Mined)
    batches = stage.plan(WithColumns(source, {NEAR: near}), 0, 0, 14)
    blocks = np.concatenate(batches).reshape(-1, 2, 3)
    assert [len(each) for each in batches] == [12, 12]
    assert len(blocks) == 4, "a block for each entity"
    for block in source.entities[blocks]:
        assert (block == block[:, :1]).all(), "records of an entity are side by side"
        assert block[0, 0] != block[1, 0]


def test_own_entity_is_first_where_another_is_as_near():
    z = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    near = with_own_first(nearest(z, z, 2)[0])
    assert near[:, 0].tolist() == [0, 1, 2, 3]
    assert (near[:, 1] != near[:, 0]).all()


def test_random_batches_have_records_of_each_entity():
    stage = method(negatives="random", each=2).stages()[-1]
    assert stage.plan == PerClass("entity", 2)
    assert stage.prepare is None
    again = method(mine_again=True).stages()[-1]
    assert again.every == "epoch"


def test_equal_texts_are_used_once_for_pairs():
    made = method()
    pairs, records = made.stages()
    source = Firms([0, 0, 1, 1], ["a", "b", "a", "c"], bad=(3,))
    kept = made.samples(pairs, "train", source)
    assert list(kept.keys()) == ["000", "001", "003"]
    assert made.samples(records, "train", source) is source
    assert made.samples(pairs, "train", Firms([0, 1], ["a", "b"])).__class__ is Firms


def test_stages_are_in_order_and_read_their_streams():
    made = method(pairs_from="crops", select=True, rate=0.5)
    pairs, records = made.stages()
    assert (pairs.name, pairs.streams, pairs.select) == ("pairs", ("crops",), "-val/pair_loss")
    assert (records.name, records.streams) == ("records", ("train",))
    assert records.lr_scale["records"] == 0.5
    assert records.lr_scale["records.encoder.logit_scale"] == 0
    assert not any(name.startswith("labels") for name in made.needs(pairs, "crops"))
    assert "labels.entity" in made.needs(records)
    assert [each.name for each in method(order=("records",)).stages()] == ["records"]
    with pytest.raises(InputError, match="it must be pairs, records or both"):
        method(order=("pairs", "pairs"))


def test_decay_slows_the_lower_blocks_in_both_stages():
    pairs, records = method(decay=0.5, rate=0.1).stages()
    name = next(iter(pairs.lr_scale))
    assert name.startswith("records.encoder.")
    assert records.lr_scale[name] == pytest.approx(0.1 * pairs.lr_scale[name])


def test_images_are_padded_with_their_border():
    preprocess = method().model.image.preprocess
    assert (preprocess.resize, preprocess.fill) == ("longest", "border")
    assert method(pad=False).model.image.preprocess.resize == "shortest"


def test_too_few_entities_are_told():
    with pytest.raises(InputError, match="has 2 values of labels.entity.*lower --method.nearest"):
        mined(method(nearest=3), Firms([0, 0, 1]))


def test_its_loss_is_not_added_to_another_method():
    with pytest.raises(InputError, match="clippings"):
        mixed(make_method("clip"), ["clippings"])
