"""BioViL's losses: the published figures, slow references, gradients."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Tokens
from diptych.methods.domain.biovil import TEXT_PROJECTION, Config, matched
from diptych.methods.domain.biovil.local import local_alignment
from diptych.objectives import info_nce
from diptych.towers.nn.heads import head
from diptych.towers.nn.words import WordHead, masked_losses
from diptych.towers.text.text import TextConfig, TextTower

EYE = torch.eye(2, dtype=torch.float64)
ALL = torch.tensor([True, True])


def unit(*shape, seed=0) -> Tensor:
    drawn = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return normalize(drawn, dim=-1)


def test_orthonormal_pairs():
    assert float(matched(EYE, EYE, ALL, 0.5)) == pytest.approx(0.253856, abs=1e-6)
    assert float(matched(EYE, EYE, ALL, 0.5)) / 2 == pytest.approx(0.126928, abs=1e-6)


def test_given_similarities():
    similar = torch.tensor([[1.0, 0.2], [0.4, 0.8]], dtype=torch.float64)
    found = info_nce(similar, EYE, 2.0, directions="sum")  # <f_i, e_j> is row i at column j
    assert float(found) == pytest.approx(0.540783, abs=1e-6)
    assert float(info_nce(similar, EYE, 2.0)) == pytest.approx(0.270392, abs=1e-6)


def test_collapsed_embeddings_have_twice_the_log_of_their_number():
    one = unit(1, 8).expand(5, 8)
    found = matched(one, one, torch.ones(5, dtype=torch.bool), 0.5)
    assert float(found) == pytest.approx(2 * math.log(5))


def test_reports_that_lack_a_section_are_left_out():
    findings, impressions = unit(4, 8), unit(4, 8, seed=1)
    both = torch.tensor([True, False, True, True])
    rows = both.nonzero()[:, 0]
    found = matched(findings, impressions, both, 0.5)
    torch.testing.assert_close(
        found, matched(findings[rows], impressions[rows], torch.ones(3, dtype=torch.bool), 0.5)
    )
    logits = (findings[rows] @ impressions[rows].T / 0.5).tolist()
    total = 0.0
    for table in (logits, list(zip(*logits, strict=True))):
        for at, line in enumerate(table):
            total += (math.log(sum(map(math.exp, line))) - line[at]) / len(table)
    assert float(found) == pytest.approx(total)
    findings.requires_grad_()
    alone = matched(findings, impressions, torch.tensor([True, False, False, False]), 0.5)
    alone.backward()
    assert float(alone.detach()) == 0
    assert not findings.grad.any()


def local_by_loops(patches, words, there, scale, attention=4.0, matching=5.0) -> float:
    table = []
    for image in patches.tolist():
        line = []
        for text, real in zip(words.tolist(), there.tolist(), strict=True):
            total = 0.0
            for word, exists in zip(text, real, strict=True):
                if not exists:
                    continue
                weights = [
                    math.exp(attention * sum(a * b for a, b in zip(word, patch, strict=True)))
                    for patch in image
                ]
                context = [
                    sum(w * patch[at] for w, patch in zip(weights, image, strict=True))
                    / sum(weights)
                    for at in range(len(word))
                ]
                size = math.sqrt(sum(value * value for value in context))
                cosine = sum(a * b / size for a, b in zip(context, word, strict=True))
                total += math.exp(matching * cosine)
            line.append(scale * math.log(total / sum(real)) / matching)
        table.append(line)
    loss = 0.0
    for rows in (table, list(zip(*table, strict=True))):
        for at, line in enumerate(rows):
            loss += (math.log(sum(map(math.exp, line))) - line[at]) / len(rows)
    return loss


def test_the_local_loss_is_that_of_loops():
    patches, words = unit(3, 4, 5), unit(3, 6, 5, seed=1)
    there = torch.arange(6) < torch.tensor([6, 2, 4])[:, None]
    found = float(local_alignment(patches, words, there, 2.0))
    assert found == pytest.approx(local_by_loops(patches, words, there, 2.0), abs=1e-9)
    noise = torch.where(there[..., None], words, 9.0)
    assert float(local_alignment(patches, noise, there, 2.0)) == pytest.approx(found)


def test_gradients_of_the_local_loss():
    there = torch.tensor([[True, True], [True, False]])
    patches, words = (unit(2, 2, 3, seed=seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(
        lambda patches, words: local_alignment(patches, words, there, 2.0), (patches, words)
    )


def tower() -> TextTower:
    torch.manual_seed(0)
    config = TextConfig(vocab_size=12, context=6, width=8, depth=1, heads=2, causal=False)
    return TextTower(config).double().eval()


@torch.no_grad()
def test_masked_words_are_those_of_loops():
    text, words = tower(), WordHead(8, 12).double()
    torch.nn.init.normal_(words.bias)
    ids = torch.randint(3, 12, (3, 2, 6))
    marks = torch.full_like(ids, -1)
    marks[0, 0, 2], marks[0, 1, 1], marks[2, 1, 5] = 7, 4, 9
    lengths = torch.full((3, 2), 6)
    found = masked_losses(words, text, Tokens(ids, lengths, marks))
    assert found["words"].tolist() == [2, 0, 1]
    for sample in range(3):
        total = 0.0
        for row in range(2):
            hidden = text(ids[sample, row][None], lengths[sample, :1]).tokens[0]
            for at in range(6):
                if marks[sample, row, at] >= 0:
                    inner = words.norm(torch.nn.functional.gelu(words.dense(hidden[at])))
                    logits = [
                        float(inner @ own + b)
                        for own, b in zip(text.table.weight, words.bias, strict=True)
                    ]
                    total += math.log(sum(map(math.exp, logits))) - logits[marks[sample, row, at]]
        assert float(found["word_loss"][sample]) == pytest.approx(total, abs=1e-9)


def test_both_heads_are_those_of_the_published_layers():
    """A 1 x 1 convolution, batch norm, ReLU, convolution on maps; and on [CLS] a layer, GELU, layer
    norm, a layer."""
    torch.manual_seed(0)
    ours = head(Config().image_projection, 16, 8, "image").double()
    maps = torch.nn.Sequential(
        torch.nn.Conv2d(16, 128, 1, bias=False),
        torch.nn.BatchNorm2d(128),
        torch.nn.ReLU(),
        torch.nn.Conv2d(128, 8, 1),
    ).double()
    own = ours.state_dict().values()
    theirs = maps.state_dict()
    maps.load_state_dict(
        {name: value.reshape(theirs[name].shape) for name, value in zip(theirs, own, strict=True)}
    )
    x = torch.randn(3, 16, 4, 5, dtype=torch.float64)
    for training in (True, False):
        ours.train(training)
        maps.train(training)
        torch.testing.assert_close(ours(x.flatten(2).mT), maps(x).flatten(2).mT)
    into, activation, norm, out = head(TEXT_PROJECTION, 16, 8, "text").double()
    assert norm.eps == 1e-12
    h = torch.randn(2, 16, dtype=torch.float64)
    inner = into(h).tolist()
    for row, values in enumerate(inner):
        values = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in values]
        mean = sum(values) / 128
        size = math.sqrt(sum((v - mean) ** 2 for v in values) / 128)
        expected = torch.tensor([(v - mean) / size for v in values], dtype=torch.float64)
        torch.testing.assert_close(out(norm(activation(into(h))))[row], out(expected))
