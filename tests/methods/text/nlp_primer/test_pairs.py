"""Objectives that contrast inputs with inputs: what they compute from a batch, and their way to a
model."""

import pytest
import torch
from tests.factories import AT, TEXT, make_method
from torch.nn.functional import normalize

from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.methods.make import NO_TOWER
from diptych.methods.text.nlp_primer.pairs import nearest_other
from diptych.objectives import nt_xent

WORLD = "sentences:count=40:paraphrases=1:roles=negated"
SOURCE = open_source(WORLD)
TOKENIZER = build(
    "bpe:vocab_size=512:context=48:special=mask", [SOURCE[i].captions()[0] for i in range(40)]
)
SPECS = (
    "consert",
    "consert:first=dropout:second=token_cutoff",
    "mirror_bert",
    "capt",
    "clear",
    "clear:first=reordering:second=deletion:masking=0",
    "declutr:min_length=4:max_length=10",
    "declutr:anchors=1:positives=1:masking=0",
    "cert:queue=16",
    "triplet",
    "triplet:positive=paraphrase:negative=negated",
    "supcon",
    "simcse",
    "simcse:positive=paraphrase:negative=negated",
)


def method_of(spec, dropout=0.0, **options):
    text = f"{TEXT}:causal=false:pooling=mean:dropout={dropout}"
    parts = {"image": NO_TOWER, "text": text, "embed_dim": 32, "words": TOKENIZER}
    return make_method("nlp_primer", objective=spec, **parts, **options).double()


def batch_of(method, count=8):
    loader = Loader(SOURCE, method.views(method.stages()[0]), InOrder(), count)
    return next(iter(loader.epoch(0)))


def losses_of(method, batch):
    return method.loss(method.encode(batch, AT), batch, AT)


@pytest.mark.parametrize("spec", SPECS)
def test_halves_of_a_batch_give_the_loss_of_the_whole(spec):
    """What a rank or a chunk encodes depends on its own samples alone."""
    method = method_of(spec).eval()
    batch = batch_of(method)
    with torch.no_grad():
        whole = method.encode(batch, AT)
        halves = [method.encode(batch.rows(at, at + 4), AT) for at in (0, 4)]
        joined = {name: torch.cat([half[name] for half in halves]) for name in whole}
        for name in whole:
            assert torch.allclose(joined[name], whole[name], atol=1e-10)
        found, expected = (method.loss(each, batch, AT).total for each in (joined, whole))
    assert torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("spec", SPECS)
def test_every_parameter_learns(spec):
    method = method_of(spec, dropout=0.1)
    batch = batch_of(method)
    losses_of(method, batch).total.backward()
    idle = [
        name
        for name, parameter in method.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert not idle


def test_consert_cuts_the_embeddings_that_the_first_block_reads():
    """By loops: rows and columns are set to zero behind the positions."""
    method = method_of("consert:first=token_cutoff:second=feature_cutoff:tokens=0.3:features=0.3")
    batch = batch_of(method, 2)
    tower = method.model.text
    found = method.encode(batch, AT)["views"]
    for row in range(2):
        for view in range(2):
            length = int(batch.text.lengths[row, view])
            ids = batch.text.ids[row, view, :length]
            x = tower.embed(ids[None])
            for place in range(length):
                if batch.text.marks[row, view, place] >= 0:
                    x[0, place] = 0
            for column in range(32):
                if batch.fields["features"][row, view, column]:
                    x[0, :, column] = 0
            encoded = tower.finish(tower.blocks(x), torch.tensor([length]))
            expected = normalize(method.model.project_text(encoded.pooled), dim=-1)
            assert torch.allclose(found[row, view], expected[0], atol=1e-10)
    assert not torch.allclose(found[:, 0], found[:, 1], atol=1e-3)


def test_shuffled_ids_are_shuffled_positions():
    """A tower that sees both ways gives a text with permuted ids what it gives for permuted
    positions."""
    tower = method_of("consert").model.text
    ids = torch.randint(4, 300, (1, 9))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    moved = tower(ids[:, order], torch.tensor([9])).pooled
    x = tower.table(ids) + tower.positions[order.argsort()]
    assert torch.allclose(
        tower.finish(tower.blocks(x), torch.tensor([9])).pooled, moved, atol=1e-10
    )


def test_only_the_version_with_dropout_is_noisy():
    method = method_of("consert:first=dropout:second=none").train()
    batch = batch_of(method)
    one, other = (method.encode(batch, AT)["views"] for _ in range(2))
    assert not torch.allclose(one[:, 0], other[:, 0])
    assert torch.equal(one[:, 1], other[:, 1])
    quiet = method.eval().encode(batch, AT)["views"]
    assert torch.allclose(quiet[:, 0], quiet[:, 1], atol=1e-10)


def test_declutr_averages_unit_vectors_of_positives():
    method = method_of("declutr:anchors=2:positives=3:min_length=3:max_length=6:masking=0")
    batch = batch_of(method, 3)
    views = method.encode(batch, AT)["views"]
    assert views.shape == (3, 2, 2, 32)
    positives = batch.texts["positives"]
    for row in range(3):
        for anchor in range(2):
            total = torch.zeros(32, dtype=torch.float64)
            for number in range(3):
                at = 3 * anchor + number
                length = positives.lengths[row, at : at + 1]
                total += method.model.embed_texts(positives.ids[row, at : at + 1], length)[0]
            assert torch.allclose(views[row, anchor, 1], total / total.norm(), atol=1e-10)
    expected = nt_xent(views.reshape(6, 2, 32)[:, 0], views.reshape(6, 2, 32)[:, 1], 0.05)
    assert torch.allclose(losses_of(method, batch).total, expected)


def test_cert_pushes_keys_and_follows_slowly():
    method = method_of("cert:queue=16:momentum=0.9")
    batch = batch_of(method)
    found = losses_of(method, batch)
    assert not found.carry["keys"].requires_grad
    before = {name: p.clone() for name, p in method.slow.module.named_parameters()}
    with torch.no_grad():
        for parameter in method.model.parameters():
            parameter += 1.0
    method.after_step(found.carry, AT)
    assert torch.allclose(method.queue.rows[:8].double(), found.carry["keys"])
    for name, parameter in method.slow.module.named_parameters():
        assert torch.allclose(parameter, before[name] + 0.1)


def test_cert_learns_to_tell_texts_from_those_in_its_queue():
    """Once keys of other texts have taken the place of the random ones."""
    method = method_of("cert:queue=16:momentum=0.9").float()
    loader = Loader(SOURCE, method.views(method.stages()[0]), InOrder(), 8)
    optimizer = torch.optim.Adam(method.model.parameters(), lr=3e-3)
    losses = []
    for epoch in range(30):
        for batch in loader.epoch(epoch):
            found = losses_of(method, batch)
            optimizer.zero_grad()
            found.total.backward()
            optimizer.step()
            method.after_step(found.carry, AT)
            losses.append(found.total.item())
    full = sum(losses[5:10]) / 5
    assert full > 1
    assert sum(losses[-5:]) / 5 < full / 2


def test_the_nearest_other_positive():
    anchors, positives = torch.eye(3), torch.eye(3)[[0, 0, 1]]
    found = nearest_other(anchors, positives)
    assert found.tolist() == [[1, 0, 0], [0, 1, 0], positives[0].tolist()]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("conzert", "did you mean 'consert'"),
        ("consert:frist=shuffle", "did you mean 'first'"),
        ("consert:first=turn", "first"),
        ("declutr:anchors=0", "anchors"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(InputError, match=message):
        method_of(spec)
