"""Concepts of images: mentions, scores, clusters; against loops."""

import numpy as np
import pytest

from diptych.errors import InputError
from diptych.methods.dense.cocu.curation import Gallery, concept_scores, curate


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_names_are_whole_words_singular_or_plural():
    gallery = Gallery(
        ["Cat", "hot dog", "dog", "city", "polar bear", "cat", "glass", "new york city hall"]
    )
    assert gallery.names == (
        "cat",
        "hot dog",
        "dog",
        "city",
        "polar bear",
        "glass",
        "new york city hall",
    )
    for text, expected in (
        ("Cattle and a caterpillar", []),
        ("two CATS, one cat", ["cat"]),
        ("hot-dogs", ["hot dog", "dog"]),
        ("hot and dog", ["dog"]),
        ("cities of glasses", ["city", "glass"]),
        ("polar\nbears near New York City Hall.", ["city", "polar bear", "new york city hall"]),
        ("", []),
    ):
        assert [gallery.names[number] for number in gallery.mentioned(text)] == expected, text


def test_a_name_goes_before_the_plural_of_another():
    gallery = Gallery(["glass", "glasses"])
    assert gallery.mentioned("glasses") == [1]
    with pytest.raises(InputError, match="no names of concepts"):
        Gallery([" ", "--"])


def test_a_score_is_the_share_of_the_largest_and_of_the_references():
    """References of .20, .30 and .25, the image of .28, and .32 elsewhere; another concept is only in
    the image, by .22."""
    cosines = np.array([[0.20, 0.30, 0.25, 0.28], [0.9, 0.9, 0.9, 0.22], [0.32, 0.9, 0.9, 0.1]])
    refers = np.array([[1, 1, 1, 1], [0, 0, 0, 1], [1, 0, 0, 1]], bool)
    found = concept_scores(cosines, refers)
    assert found[0] == pytest.approx(1.962379, abs=1e-6)
    assert found[0] - 0.28 / 0.32 == pytest.approx(1.087379, abs=1e-6)
    assert found[1] == pytest.approx(1.6875)


def test_there_are_no_scores_without_a_cosine_above_zero():
    assert concept_scores(np.array([[-0.2, 0.0]]), np.array([[True, True]])) is None
    balanced = concept_scores(np.array([[-0.2, 0.2]]), np.array([[True, True]]))
    assert balanced.tolist() == [1.0]  # the mean of the references is 0


def slow(image, index, mentions, concepts, neighbours):
    """The scores of one image's concepts, by loops."""
    order = sorted(range(len(index)), key=lambda at: -float(image @ index[at]))[:neighbours]
    archive = sorted({concept for at in order for concept in mentions[at]})
    refers = {c: [index[at] for at in order if c in mentions[at]] + [image] for c in archive}
    if not archive:
        return []
    largest = max(0.0, *(float(concepts[c] @ v) for c in archive for v in refers[c]))
    if largest == 0:
        return []
    scores = {}
    for c in archive:
        g = float(concepts[c] @ image)
        mean = sum(float(concepts[c] @ v) for v in refers[c]) / len(refers[c])
        scores[c] = g / largest + g / mean
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


@pytest.mark.parametrize("neighbours", [1, 4])
def test_concepts_are_those_of_loops(neighbours):
    rng = np.random.default_rng(0)
    index = unit(rng.normal(size=(30, 6)))
    images = np.concatenate([index[:5], unit(rng.normal(size=(7, 6)))])
    concepts = unit(rng.normal(size=(9, 6)))
    mentions = [sorted(rng.choice(9, rng.integers(0, 4), replace=False).tolist()) for _ in index]
    done = []
    found = list(
        curate(images, index, mentions, concepts, neighbours=neighbours, progress=done.append)
    )
    assert done == list(range(1, 13))
    some = 0
    for image, own in zip(images, found, strict=True):
        expected = slow(image, index, mentions, concepts, neighbours)
        assert own.numbers.tolist() == [number for number, _ in expected]
        np.testing.assert_allclose(own.scores, [score for _, score in expected], rtol=1e-9)
        count = -(-len(expected) // 2)
        assert len(set(own.clusters.tolist())) == count
        some += count > 1
    assert some > 3 or neighbours == 1


def test_near_concepts_are_in_one_cluster():
    x = np.array([[1.0, 0, 0]])
    concepts = unit(np.array([[1.0, 0.1, 0], [1, 0, 1], [1, 0.12, 0], [1, 0, 1.1]]))
    (found,) = curate(x, x, [[0, 1, 2, 3]], concepts, neighbours=1)
    clusters = dict(zip(found.numbers.tolist(), found.clusters.tolist(), strict=True))
    assert clusters[0] == clusters[2] != clusters[1] == clusters[3]


def test_equal_scores_are_in_the_order_of_the_gallery():
    x = np.array([[1.0, 0]])
    (found,) = curate(x, x, [[0, 1, 2]], np.array([[0.6, 0.8], [1, 0], [0.6, -0.8]]), neighbours=1)
    assert found.numbers.tolist() == [1, 0, 2]


def test_images_whose_neighbours_say_nothing_have_no_concepts():
    x = np.eye(2)
    found = list(curate(x, x, [[], [0]], np.array([[0.0, -1.0]]), neighbours=1))
    assert [each.numbers.tolist() for each in found] == [[], []]
