"""Contrastive distillation: its loss against loops, the layers that it reads, and its runs."""

import math

import pytest
import torch
from tests.factories import AT, det, make_method

from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.methods.make import NO_TOWER
from diptych.methods.text.nlp_primer.catalogue import describe
from diptych.methods.text.nlp_primer.distilled import layer_means
from diptych.methods.text.nlp_primer.losses import binary_nce, layer_contrast

SOURCE = open_source("sentences:count=24")
TOKENIZER = build("bpe:vocab_size=400:context=48", [SOURCE[i].captions()[0] for i in range(24)])
SPECS = (
    "crd",
    "crd:form=info",
    "crd:layers=(1,2):teacher_layers=(0,-1):width=16",
)


def method_of(spec, embed_dim=32, text=None):
    text = text or "text:width=32:depth=2:heads=2:causal=false:pooling=mean"
    parts = {"image": NO_TOWER, "text": text, "embed_dim": embed_dim, "words": TOKENIZER}
    return make_method("nlp_primer", objective=spec, **parts).double()


def batch_of(method, count=6):
    method.setup({})
    loader = Loader(SOURCE, method.views(method.stages()[0]), InOrder(), count)
    return next(iter(loader.epoch(0)))


def losses_of(method, batch):
    return method.loss(method.encode(batch, AT), batch, AT)


@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_the_loss_equals_loops(tau):
    s = det(5, 3, 1)
    t = det(5, 3, 2)
    nce = []
    info = []
    for i in range(5):
        scores = [float(s[i] @ t[j]) / tau for j in range(5)]
        info.append(math.log(sum(map(math.exp, scores))) - scores[i])
        noise = math.log(4 * (1 / 5))
        loss = math.log(1 + math.exp(-(scores[i] - noise)))
        loss += sum(math.log(1 + math.exp(scores[j] - noise)) for j in range(5) if j != i)
        nce.append(loss)
    assert layer_contrast(s, t, tau).item() == pytest.approx(sum(nce) / 5)
    assert layer_contrast(s, t, tau, "info").item() == pytest.approx(sum(info) / 5)


def test_it_is_binary_nce_with_uniform_noise():
    s = det(4, 6, 1)
    t = det(4, 6, 3)
    scores = s @ t.T / 0.5
    order = [[i, *(j for j in range(4) if j != i)] for i in range(4)]
    rows = torch.stack([scores[i, order[i]] for i in range(4)])
    expected = binary_nce(rows, torch.full_like(rows, 1 / 4).log())
    assert layer_contrast(s, t, 0.5).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("form", ["nce", "info"])
def test_gradients_of_the_loss(form):
    s = det(3, 4, 1).requires_grad_()
    t = det(3, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: layer_contrast(a, b, 0.5, form), (s, t))


def test_layers_are_means_over_real_tokens():
    method = method_of("crd").eval()
    tower = method.model.text
    batch = batch_of(method)
    ids, lengths = batch.text.flat
    assert len(set(lengths.tolist())) > 1
    with torch.no_grad():
        found = layer_means(method.model, ids, lengths, (0, 1, 2, -1, -3))
        for i, n in enumerate(lengths.tolist()):
            x = tower.embed(ids[i : i + 1, :n])
            hidden = [x]
            for block in tower.transformer.layers:
                x = block(x)
                hidden.append(x)
            hidden[-1] = tower.norm(x)
            means = [sum(hidden[layer][0]) / n for layer in (0, 1, 2, 2, 0)]
            assert torch.allclose(found[i], torch.cat(means), atol=1e-10)


@pytest.mark.parametrize("spec", SPECS)
def test_halves_of_a_batch_give_the_loss_of_the_whole(spec):
    method = method_of(spec).eval()
    batch = batch_of(method)
    with torch.no_grad():
        whole = method.encode(batch, AT)
        halves = [method.encode(batch.rows(at, at + 3), AT) for at in (0, 3)]
        joined = {name: torch.cat([half[name] for half in halves]) for name in whole}
        found, expected = (method.loss(each, batch, AT).total for each in (joined, whole))
    assert torch.allclose(found, expected, atol=1e-6)  # the teacher has its own precision


@pytest.mark.parametrize("spec", SPECS)
def test_both_maps_and_the_tower_learn_but_not_the_teacher(spec):
    method = method_of(spec)
    losses_of(method, batch_of(method)).total.backward()
    idle = [
        name
        for name, parameter in method.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert not idle
    assert not any(p.requires_grad for p in method.teacher.module.parameters())
    assert not [
        name for name in method.state_dict() if "teacher." in name and "checksum" not in name
    ]


def test_a_part_of_the_tower_may_learn_alone():
    method = method_of("crd:layers=1")
    assert method.find_unused_parameters
    losses_of(method, batch_of(method)).total.backward()
    layers = method.model.text.transformer.layers
    assert layers[0].mlp.fc1.weight.grad.any()
    assert layers[1].mlp.fc1.weight.grad is None


def test_the_teacher_reads_the_same_text_by_its_own_tokenizer():
    method = method_of("crd")
    batch = batch_of(method)
    words = method.teacher.model.tokenizer
    for i in range(6):
        n = int(batch.texts["teacher"].lengths[i, 0])
        ids = batch.texts["teacher"].ids[i, 0, :n].tolist()
        assert ids == words.encode(SOURCE[i].captions())[0]


def test_layers_and_models_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="there is no layer 3: the tower's last is 2"):
        method_of("crd:layers=3").setup({})
    with pytest.raises(InputError, match="there is no layer 40"):
        method_of("crd:teacher_layers=40").setup({})
    with pytest.raises(InputError, match="the teacher tiny-lm does not embed texts"):
        method_of("crd:teacher=tiny-lm")
    with pytest.raises(InputError, match="CRD, CoDIR trains the text tower alone"):
        method_of("crd", embed_dim=16)
    with pytest.raises(InputError, match="no layers are given"):
        method_of("crd:layers=()")


def test_the_place_in_the_taxonomy():
    assert describe("crd:teacher=tiny").positives == "a teacher's layer of the same text"
