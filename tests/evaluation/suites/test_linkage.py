"""Links and clusters: the published figures, other people's implementations, thresholds that only the
validation decides, and similarities of texts."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Rows, row
from tests.evaluation.records import Named, known_model, three_each
from torch.nn.functional import normalize

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites import _links
from diptych.evaluation.suites._links import (
    CUTS,
    best_cut,
    best_threshold,
    link,
    rand_index,
    split,
    tree,
)
from diptych.evaluation.suites._records import (
    NO_ENTITY,
    Records,
    by_edits,
    by_grams,
    by_model,
    chunks,
    entity_of,
    label_of_entities,
)
from diptych.objectives import info_nce


def records(image, entities=None, text=None, texts=None) -> Records:
    image = torch.as_tensor(image, dtype=torch.float32)
    names = np.array([str(at) for at in range(len(image))])
    own = names if entities is None else np.array(entities)
    said = names if texts is None else np.array(texts)
    return Records(image, image if text is None else torch.as_tensor(text), names, said, own)


def random(count: int, seed: int = 0, width: int = 6) -> Records:
    generator = torch.Generator().manual_seed(seed)
    x, y = normalize(torch.randn(2, count, width, generator=generator), dim=-1)
    return records(x, [str(at // 3) for at in range(count)], y)


Z = [[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]]


def test_clusters_and_their_index_are_the_published_ones():
    found = tree(records(Z, list("aabb")), by_model(0.5))
    assert found.cut(0.25).tolist() == [0, 0, 1, 1]
    assert rand_index(records(Z, list("aabb")), found.cut(0.25)) == 1
    assert found.cut(0.41).tolist() == [0, 0, 0, 0]
    assert rand_index(records(Z, list("aabb")), found.cut(0.41)) == 0
    five = records(np.eye(5), list("aabbc"))
    index = rand_index(five, np.array([0, 0, 1, 1, 1]))
    assert index == pytest.approx(0.545455, abs=1e-6)
    unknown = records(np.eye(6), [*"aabbc", ""])
    assert rand_index(unknown, np.array([0, 0, 1, 1, 1, 0])) == pytest.approx(index), "no entity"


@pytest.mark.parametrize("distance", [0.0, 0.15, 0.3, 0.5, 3.0])
def test_clusters_are_those_of_dbscan(distance):
    cluster = pytest.importorskip("sklearn.cluster")
    found = random(60, seed=1)
    found = records(torch.cat([found.image, found.image[:5]]))  # some are equal
    z = found.image.double().numpy()
    theirs = cluster.DBSCAN(eps=distance + 1e-6, min_samples=1, metric="cosine").fit(z).labels_
    ours = tree(found, by_model(1.0)).cut(distance + 1e-6)
    assert rand_index(replace(found, entities=theirs.astype(str)), ours) == 1


def test_a_tree_from_parts_is_that_of_the_whole(monkeypatch):
    found = random(40)
    whole = tree(found, by_model(0.3))
    monkeypatch.setattr(_links, "chunks", partial(chunks, size=7))
    parts = tree(found, by_model(0.3))
    np.testing.assert_allclose(np.sort(parts.distance), np.sort(whole.distance), atol=1e-6)
    for distance in (0.2, 0.4):
        assert parts.cut(distance).tolist() == whole.cut(distance).tolist()


def test_links_are_those_of_loops_and_ties_are_wrong():
    queries = random(12)
    exemplars = random(9, seed=2)
    found = link(queries, exemplars, by_model(0.4))
    z = [normalize(0.4 * each.image + 0.6 * each.text, dim=1) for each in (queries, exemplars)]
    for at in range(12):
        scores = [float(z[0][at] @ other) for other in z[1]]
        assert found.score[at] == pytest.approx(max(scores), abs=1e-6)
        assert found.nearest[at] == int(np.argmax(scores))
        assert found.right[at] == (exemplars.entities[found.nearest[at]] == queries.entities[at])
        assert found.known[at] == (queries.entities[at] in exemplars.entities)
    tied = link(records([[1, 0]], ["a"]), records([[1, 0], [1, 0]], ["a", "b"]), by_model(0.5))
    assert not tied.right[0]
    alike = link(records([[1, 0]], ["a"]), records([[1, 0], [1, 0]], ["a", "a"]), by_model(0.5))
    assert alike.right[0], "two exemplars of one entity"


def test_the_threshold_is_the_most_accurate_one():
    rng = np.random.default_rng(0)
    for _ in range(20):
        score = rng.integers(0, 8, 15) / 8
        known = rng.random(15) < 0.6
        right = known & (rng.random(15) < score)
        found = link(records(np.eye(15)), records(np.eye(15)), by_model(0.5))
        found = replace(found, score=score, right=right, known=known)
        best = max(found.accuracy(t) for t in [-np.inf, *(score + 1e-9), *(score - 1e-9), np.inf])
        assert found.accuracy(best_threshold(found)) == pytest.approx(best)


def test_first_records_are_exemplars_and_half_of_the_lonely_ones_queries():
    entities = ["a", "", "b", "a", "c", "b", "d", "e", "a"]
    exemplars, queries = split(records(np.eye(9), entities))
    assert exemplars.tolist() == [0, 2, 4, 7]
    assert queries.tolist() == [3, 5, 6, 8]


def test_a_cut_is_chosen_with_the_weight_that_separates():
    """Images are noise, texts are right: the best weight is small."""
    noise = random(30, seed=3)
    text = normalize(torch.eye(10).repeat_interleave(3, 0) + 0.05, dim=1)
    image = normalize(torch.nn.functional.pad(noise.image, (0, 4)), dim=1)
    found = records(image, noise.entities, text)
    seen = []
    cut = best_cut(found, by_model, [0.9, 0.1], progress=lambda *done: seen.append(done))
    assert seen == [(done, 2 * CUTS) for done in range(1, 2 * CUTS + 1)]
    assert cut.weight == 0.1
    assert cut.ari == 1
    assert rand_index(found, tree(found, by_model(0.1)).cut(cut.distance)) == 1


def test_similarities_of_texts():
    one = records(np.eye(2), texts=["Acme Co", "borel ltd"])
    other = records(np.eye(3), texts=["acme co", "acne c0", "zz"])
    grams = by_grams(one, other)
    assert grams[0, 0] == pytest.approx(1)
    assert 0 < grams[0, 1] < 0.5
    assert grams[1].tolist() == [0, 0, 0]
    sets = [
        {f" {w} "[i : i + 3] for w in t.split() for i in range(len(w))}
        for t in ("acme co", "acne c0")
    ]
    expected = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert grams[0, 1] == pytest.approx(expected)
    pytest.importorskip("rapidfuzz")
    edits = by_edits(one, other)
    assert edits[0, 0] == 1
    assert edits[0, 1] == pytest.approx(1 - 2 / 7)
    assert edits.shape == (2, 3)


def test_a_model_that_knows_entities_links_and_clusters_all():
    pytest.importorskip("rapidfuzz")
    found = evaluate(
        known_model(), three_each(), ["linkage"], val=three_each(1), strings=True, trials=3
    )["linkage"]
    assert found["n"] == 9
    assert (found["exemplars"], found["known"]) == (5, 8)
    assert found["top1"] == found["accuracy"] == found["ari"] == 1
    assert found["chance_top1"] == 1 / 5
    assert found["clusters"] == 6
    assert 0.1 < found["threshold"] < 0.99
    assert set(found["by_similarity"]) == {"model", "levenshtein", "ngram"}
    assert found["by_similarity"]["levenshtein"]["top1"] < 1
    assert found["by_similarity"]["model"] == {"top1": 1, "accuracy": 1, "ari": 1}


def test_without_a_validation_nothing_is_chosen():
    found = evaluate(known_model(), three_each(), ["linkage"])["linkage"]
    assert not {"accuracy", "threshold", "ari"} & found.keys()
    other = evaluate(known_model(), three_each(), ["linkage"], weight=1.0)["linkage"]
    assert other["protocol"] != found["protocol"]
    vectors = normalize(known_model().vectors, dim=1)
    assert found["pair_loss"] == pytest.approx(float(info_nce(vectors, vectors, 10.0)), abs=1e-5)


def test_thresholds_do_not_depend_on_the_test():
    model = known_model()
    both = [
        evaluate(model, source, ["linkage"], val=three_each(1), trials=3)["linkage"]
        for source in (three_each(), Named(three_each().samples[:6]))
    ]
    for name in ("threshold", "cluster_distance", "cluster_weight", "val_ari"):
        assert both[0][name] == both[1][name]


def test_exemplars_of_another_source():
    targets = Named([row("t0", 0, "text 0", label=0), row("t1", 3, "text 3", label=1)])
    queries = Named([row(f"q{at}", at, f"text {at}", label=at // 3) for at in range(1, 9)])
    found = evaluate(known_model(), queries, ["linkage"], targets=targets)["linkage"]
    assert (found["n"], found["exemplars"], found["known"]) == (8, 2, 5)
    assert found["top1"] == 1
    strange = Named([row("t", 0, "text 0", label=77)])
    with pytest.raises(InputError, match="no query of rows has an exemplar of its entity"):
        evaluate(known_model(), queries, ["linkage"], targets=strange)


def test_damaged_records_are_left_out():
    rows = [*three_each().samples, row("x", 3, "text", label=1, damage="truncated"), row("y", 1)]
    found = evaluate(known_model(), Named(rows), ["linkage"])["linkage"]
    assert found["bad"] == {"truncated": 1, "no-caption": 1}


def test_a_column_of_words_names_entities(tmp_path):
    lines = ["image,caption,firm", *(f"{at}.png,text {at},firm {at // 2}" for at in range(4))]
    (tmp_path / "records.csv").write_text("\n".join([*lines, "4.png,text 4,"]))
    source = open_source(str(tmp_path / "records.csv"))
    assert label_of_entities(source, "firm") == "firm"
    names = ["firm 0", "firm 0", "firm 1", "firm 1", NO_ENTITY]
    assert [entity_of(sample, "firm", ()) for sample in source] == names
    with pytest.raises(InputError, match="unknown label of source .* 'frim'; did you mean 'firm'"):
        label_of_entities(source, "frim")
    with pytest.raises(InputError, match="name data with one, or a column of words with --label"):
        label_of_entities(source, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "firm"}, "unknown label of source"),
        ({"role": "ocr"}, "unknown role of the texts"),
        ({"weight": 2.0}, "weight is 2.0; it is the share of the image"),
        ({"val": Named([row("a", 1, "text", label=1)])}, "no entity of val has two records"),
    ],
)
def test_what_does_not_fit_is_told(settings, message):
    with pytest.raises(InputError, match=message):
        evaluate(known_model(), three_each(), ["linkage"], **settings)


def test_nothing_to_link_is_told():
    alone = Named([row("a", 1, "text", label=1)])
    with pytest.raises(InputError, match="no entity has two records; name exemplars"):
        evaluate(known_model(), alone, ["linkage"])
    assert label_of_entities(Rows([]), None) == "class"
