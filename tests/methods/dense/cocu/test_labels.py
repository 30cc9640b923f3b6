"""Which concepts become texts of an image, and the loss of several texts an image."""

import math

import numpy as np
import pytest
import torch
from tests.factories import tokenizer
from torch.nn.functional import normalize

from diptych.data.sample import BadSample, Sample, Text
from diptych.methods.dense.cocu.labels import ConceptView, draw_concepts, multi_label_nce
from diptych.objectives import info_nce
from diptych.rng import generator

IMAGES = torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64)
PROMPTS = normalize(torch.tensor([[[1.0, 0], [1, 1]], [[0, 1], [-1, 1]]]).double(), dim=-1)


def slow(image, texts, scale):
    """The loss by loops over images and texts."""
    B, K = texts.shape[:2]
    flat = [(owner, texts[owner, k]) for owner in range(B) for k in range(K)]
    to_text = to_image = 0.0
    for b in range(B):
        logits = [scale * float(image[b] @ text) for _, text in flat]
        total = math.log(sum(map(math.exp, logits)))
        to_text += (
            sum(total - logit for logit, (own, _) in zip(logits, flat, strict=True) if own == b)
            / K
            / B
        )
    for owner, text in flat:
        logits = [scale * float(each @ text) for each in image]
        to_image += (math.log(sum(map(math.exp, logits))) - logits[owner]) / len(flat)
    return to_text, to_image


def test_the_loss_of_two_prompts_each():
    to_text, to_image = slow(IMAGES, PROMPTS, 1 / 0.07)
    assert to_text == pytest.approx(2.114662, abs=1e-6)
    assert to_image == pytest.approx(0.173287, abs=1e-6)
    found = float(multi_label_nce(IMAGES, PROMPTS, 1 / 0.07))
    assert found == pytest.approx(1.143975, abs=1e-6)
    assert found == pytest.approx((to_text + to_image) / 2, abs=1e-12)


def test_one_text_each_is_clips_loss():
    first = PROMPTS[:, :1]
    found = float(multi_label_nce(IMAGES, first, 1 / 0.07))
    assert found == pytest.approx(6.249e-7, rel=1e-3)
    torch.manual_seed(0)
    x, y = (normalize(torch.randn(5, 4).double(), dim=1) for _ in range(2))
    torch.testing.assert_close(multi_label_nce(x, y[:, None], 3.0), info_nce(x, y, 3.0))


def test_it_is_that_of_loops_and_has_its_gradient():
    torch.manual_seed(0)
    image = normalize(torch.randn(4, 6).double(), dim=1).requires_grad_()
    texts = normalize(torch.randn(4, 3, 6).double(), dim=2).requires_grad_()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    expected = slow(image.detach(), texts.detach(), 5.0)
    assert float(multi_label_nce(image, texts, scale).detach()) == pytest.approx(sum(expected) / 2)
    assert torch.autograd.gradcheck(multi_label_nce, (image, texts, scale))


def test_perfect_texts_are_bounded_by_the_entropy_of_the_targets():
    image = torch.eye(4, dtype=torch.float64)
    texts = image[:, None].expand(4, 3, 4)
    assert 2 * float(multi_label_nce(image, texts, 100.0)) == pytest.approx(math.log(3), abs=1e-9)


def view(**options):
    given = {"role": "caption", "concepts": "concept", "labels": 3, "sampling": "clusters"}
    return ConceptView(tokenizer=tokenizer(), templates=("a {}", "one {}"), **{**given, **options})


def sample(*concepts, captions=("red", "blue")):
    """A sample with concepts (name, score, cluster)."""
    texts = [Text(text=text) for text in captions]
    for name, *attrs in concepts:
        texts.append(
            Text(
                text=name,
                role="concept",
                attrs=dict(zip(("score", "cluster"), attrs, strict=False)),
            )
        )
    return Sample(key="a", source="here", texts=texts)


FOUR = (("dog", 1.0, 0), ("cat", 2.0, 0), ("car", 0.5, 1), ("sky", 2.0, 2))


def test_outside_training_the_highest_concepts_follow_the_first_caption():
    """Of equal scores the first one is taken first."""
    rng = generator(0)
    assert view().drawn(sample(*FOUR), rng, None) == ["red", "a cat", "a sky", "a dog"]
    encoded = view()(sample(*FOUR), rng, None)["texts.main"]
    assert encoded == tokenizer().encode(["red", "a cat", "a sky", "a dog"])


def test_too_few_concepts_are_filled_up_with_the_caption():
    rng = generator(0)
    assert view().drawn(sample(("dog",)), rng, None) == ["red", "a dog", "red", "red"]
    caption, *others = view().drawn(sample(), rng, 0.5)
    assert caption in ("red", "blue")
    assert others == [caption] * 3


def test_the_highest_scores_are_taken_where_that_is_asked_for():
    rng = generator(0)
    for _ in range(9):
        _, *texts = view(sampling="top").drawn(sample(*FOUR), rng, 0.5)
        assert [text.split()[-1] for text in texts] == ["cat", "sky", "dog"]
        assert {text.split()[0] for text in texts} <= {"a", "one"}


def test_training_draws_captions_templates_and_concepts():
    rng = generator(0)
    drawn = [view().drawn(sample(*FOUR), rng, 0.5) for _ in range(60)]
    assert {texts[0] for texts in drawn} == {"red", "blue"}
    said = {text for texts in drawn for text in texts[1:]}
    assert said == {f"{one} {name}" for one in ("a", "one") for name, *_ in FOUR}


def test_clusters_are_drawn_by_the_mean_score_and_concepts_within_by_theirs():
    scores = np.array([1.0, 2.0, 0.5, 2.0])
    clusters = np.array([7, 7, 0, 3])
    weights = {7: math.exp(1.5), 0: math.exp(0.5), 3: math.exp(2.0)}
    total = sum(weights.values())
    expected = []
    for score, cluster in zip(scores, clusters, strict=True):
        own = sum(math.exp(s) for s, c in zip(scores, clusters, strict=True) if c == cluster)
        expected.append(weights[cluster] / total * math.exp(score) / own)
    rng = generator(0)
    rows = np.concatenate([draw_concepts(scores, clusters, 3, rng) for _ in range(4000)])
    shares = np.bincount(rows, minlength=4) / len(rows)
    assert np.abs(shares - expected).max() < 0.02


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (sample(captions=(" ",)), "no-caption"),
        (sample(("dog", "high", 0)), "concepts"),
        (sample(("dog", float("nan"), 0)), "concepts"),
    ],
)
def test_bad_samples_are_told(given, reason):
    with pytest.raises(BadSample) as caught:
        view().drawn(given, generator(0), None)
    assert caught.value.reason == reason
