"""Probes against scikit-learn and loops; what they learn from, and what they are told of it."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.evaluation.helpers import Fake, Plane, Rows, Words, digits, row, vectors
from tests.evaluation.suites.helpers import class_model, clusters, labelled_dots

from diptych.data.sample import Field, Sample
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites import probe as suite
from diptych.evaluation.suites._features import split
from diptych.evaluation.suites._ridge import ALPHAS, ridge
from diptych.evaluation.suites.factors import factors
from diptych.evaluation.suites.probe import few_shot, knn, linear
from diptych.evaluation.suites.probe import probe as run
from diptych.linear import CS, classifier, hold_out


def chosen_by_scikit_learn(estimator, values, name, x, y, seed, scoring):
    """The same choice by GridSearchCV on the same fifth."""
    aside = hold_out(len(y), seed)[1]
    fold = np.full(len(y), -1)
    fold[aside] = 0
    grid = {f"{type(estimator).__name__.lower()}__{name}": list(values)}
    search = GridSearchCV(
        make_pipeline(StandardScaler(), estimator), grid, cv=PredefinedSplit(fold), scoring=scoring
    )
    return search.fit(x, y)


@pytest.mark.parametrize(("seed", "classes"), [(0, 4), (1, 2), (2, 5)])
def test_the_linear_probe_equals_scikit_learns_pipeline_with_its_grid_search(seed, classes):
    x, y = clusters(seed, classes=classes)
    test_x, test_y = clusters(seed + 50, classes=classes)
    search = chosen_by_scikit_learn(
        LogisticRegression(max_iter=1000), CS, "C", x, y, seed, "accuracy"
    )
    found = linear(x, y, test_x, test_y, seed=seed)
    assert found["C"] == search.best_params_["logisticregression__C"]
    predicted = search.best_estimator_.predict(test_x)
    assert found["top1"] == pytest.approx((predicted == test_y).mean())
    by_class = [(predicted[test_y == value] == value).mean() for value in np.unique(test_y)]
    assert found["mean_per_class"] == pytest.approx(np.mean(by_class))
    common = Counter(y.tolist()).most_common(1)[0][0]
    assert found["chance_top1"] == pytest.approx((test_y == common).mean())


def test_a_class_that_was_never_seen_is_never_right_and_one_class_alone_is_an_error():
    x, y = clusters(0, classes=3)
    assert linear(x, y, x[y == 0], np.full((y == 0).sum(), 7))["top1"] == 0.0
    assert knn(x, y, x[y == 0], np.full((y == 0).sum(), 7))["top1"] == 0.0
    with pytest.raises(InputError, match="all samples that a probe learns from are of one class"):
        linear(x, np.zeros_like(y), x, y)


def test_features_that_say_nothing_give_chance():
    x, y = clusters(0, count=400)
    found = linear(np.ones_like(x), y, np.ones_like(x), y)
    assert found["top1"] == found["chance_top1"]
    noise = np.random.default_rng(0).normal(size=(800, 6))
    assert linear(noise[:400], y, noise[400:], y)["top1"] < 0.36


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 25),
    m=st.integers(1, 8),
    k=st.integers(1, 9),
    tied=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_neighbours_equal_brute_force_with_ties_and_scikit_learn_without(n, m, k, tied, seed):
    rng = np.random.default_rng(seed)
    draw = (
        (lambda size: rng.integers(-1, 2, size).astype(float))
        if tied
        else (lambda size: rng.normal(size=size))
    )
    x, test_x = draw((n, 3)), draw((m, 3))
    y, test_y = rng.integers(0, 3, n), rng.integers(0, 3, m)
    unit, test_unit = (
        a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12) for a in (x, test_x)
    )
    hits = []
    for query, wanted in zip(test_unit, test_y, strict=True):
        near = unit @ query
        last = sorted(near)[-min(k, n)]
        votes = Counter(
            label for label, value in zip(y.tolist(), near, strict=True) if value >= last - 1e-6
        )
        top = max(votes.values())
        hits.append(
            votes[int(wanted)] == top and sum(count == top for count in votes.values()) == 1
        )
    found = knn(x, y, test_x, test_y, k=k)["top1"]
    assert found == pytest.approx(np.mean(hits))
    if not tied and k == 1:  # no ties of either kind
        peer = KNeighborsClassifier(1, metric="cosine").fit(x, y)
        assert found == pytest.approx((peer.predict(test_x) == test_y).mean())


def test_neighbours_do_not_hang_on_the_order_of_the_data():
    rng = np.random.default_rng(0)
    x, y = rng.integers(-1, 2, (60, 3)).astype(float), rng.integers(0, 3, 60)
    test_x, test_y = rng.integers(-1, 2, (40, 3)).astype(float), rng.integers(0, 3, 40)
    order = rng.permutation(60)
    assert knn(x, y, test_x, test_y, k=7) == knn(x[order], y[order], test_x, test_y, k=7)


def test_few_shots_see_so_many_of_each_class_and_grow_better(monkeypatch):
    x, y = clusters(0, count=400, noise=1.5)
    test_x, test_y = clusters(1, count=400, noise=1.5)
    fitted = []
    monkeypatch.setattr(suite, "fitted", lambda a, b, C: fitted.append(b) or original(a, b, C))
    found = {
        shots: few_shot(x, y, test_x, test_y, shots=shots, seeds=(0, 1, 2)) for shots in (1, 16)
    }
    assert {tuple(np.bincount(labels)) for labels in fitted} == {(1,) * 4, (16,) * 4}
    assert found[1]["top1"] + 0.1 < found[16]["top1"] < linear(x, y, test_x, test_y)["top1"] + 0.02
    assert found[1]["std"] > found[16]["std"] > 0
    again = few_shot(x, y, test_x, test_y, shots=16, seeds=(0, 1, 2))
    assert again == found[16]


original = suite.fitted


def test_more_shots_than_a_class_has_are_an_error_that_names_it():
    x, y = clusters(0, count=40)
    with pytest.raises(
        InputError, match=r"50 shots a class are asked for, class \d has \d+ samples; ask for fewer"
    ):
        few_shot(x, y, x, y, shots=50)


@pytest.mark.parametrize("seed", [0, 1])
def test_ridge_equals_scikit_learns_with_its_grid_search(seed):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(160, 5)), rng.normal(size=5)
    y = x @ w + rng.normal(size=160)
    search = chosen_by_scikit_learn(
        Ridge(), ALPHAS, "alpha", x[:80], y[:80], seed, "neg_mean_squared_error"
    )
    found = ridge(x[:80], y[:80], x[80:], y[80:], seed=seed)
    assert found["alpha"] == search.best_params_["ridge__alpha"]
    predicted = search.best_estimator_.predict(x[80:])
    assert found["r2"] == pytest.approx(r2_score(y[80:], predicted))
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - y[80:]) ** 2)))
    assert found["chance_rmse"] == pytest.approx(np.sqrt(np.mean((y[:80].mean() - y[80:]) ** 2)))
    assert found["chance_r2"] <= 0
    assert ridge(x, y, x, np.ones(160))["r2"] == 0.0


# ---- the suites


def test_the_suite_gives_what_its_functions_give_on_the_embeddings():
    model, halves = class_model(), split(labelled_dots(), None, 3)
    assert not {*halves.train.keys()} & {*halves.test.keys()}
    assert (len(halves.train), len(halves.test)) == (48, 12)
    x, test_x = (
        np.stack([model.vectors[int(key.split("/")[1])].numpy() for key in part.keys()])  # noqa: SIM118
        for part in (halves.train, halves.test)
    )
    y, test_y = (
        np.array([int(key.split("/")[1]) % 3 for key in part.keys()])  # noqa: SIM118
        for part in (halves.train, halves.test)
    )
    result = run(model, labelled_dots(), seeds=(3,), k=5, batch_size=7, shots=(2,))
    expected = linear(x, y, test_x, test_y, seed=3)
    assert (result["linear_top1"], result["C"]) == (expected["top1"], expected["C"])
    assert result["knn_top1"] == knn(x, y, test_x, test_y, k=5)["top1"]
    assert result["by_shots"]["2"] == few_shot(x, y, test_x, test_y, shots=2, seeds=(3,))
    assert (result["n"], result["n_train"], result["classes"]) == (12, 48, 3)
    assert model.largest == 7


def test_the_protocol_names_the_source_to_learn_from():
    def protocol(**settings):
        settings = {"train": labelled_dots(30, 1), "seeds": (0,), **settings}
        return run(class_model(), labelled_dots(), **settings)["protocol"]

    base = protocol()
    assert base == protocol(batch_size=3)
    others = [
        {"train": None},
        {"train": labelled_dots(31, 1)},
        {"features": "pooled"},
        {"seeds": (1,)},
        {"k": 3},
        {"shots": (1,)},
    ]
    assert len({base, *(protocol(**each) for each in others)}) == 1 + len(others)
    assert run(class_model(), labelled_dots(), train=labelled_dots(30, 1))["n"] == 60


def test_samples_without_the_label_are_left_out_and_told():
    samples = [*labelled_dots(40), row("none", 3, label=-1), row("bad", 4, label=1, damage="html")]
    result = run(class_model(), Rows(samples), train=labelled_dots(30, 1))
    assert result["bad"] == {"no-label": 1, "html": 1}
    assert result["n"] == 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "clas"}, "did you mean 'class'"),
        ({"features": "tokens"}, "features are 'tokens'"),
        ({"shots": (0,)}, "shots is 0"),
        ({"k": 0}, "k is 0"),
        ({"shots": (1,), "seeds": ()}, "no seed"),
        ({"train": Rows([])}, "empty"),
        (
            {"shots": (1, 30)},
            "30 shots a class are asked for, class 'c[012]' has 1. samples; ask for fewer",
        ),
        (
            {"train": Rows([row("a", 1, label=0)], ("c0", "other"))},
            "label 'class' has other class names",
        ),
    ],
)
def test_bad_requests_are_told_before_anything_is_computed(settings, message):
    model = class_model()
    with pytest.raises(InputError, match=message):
        evaluate(model, labelled_dots(), ["probe"], **settings)
    assert model.largest == 0


def test_factors_probe_each_label_and_leave_out_what_does_not_recur():
    colours = np.random.default_rng(0).integers(0, 255, (150, 3)).astype(np.uint8)
    samples = [
        Sample(
            key=str(i),
            source="rows",
            images={"main": Plane(np.tile(colour, (2, 2, 1)))},
            labels={
                "red": int(colour[0] > 127),
                "green": float(colour[1]),
                "noise": i % 7 % 2,
                "id": i,
                "same": 1,
                "rare": float("nan") if i else 1.0,
            },
        )
        for i, colour in enumerate(colours)
    ]
    fields = {f"labels.{name}": Field(kind="int") for name in ("red", "noise", "id", "same")}
    fields |= {f"labels.{name}": Field(kind="float") for name in ("green", "rare")}
    model = Fake(vectors(0), size=2)
    result = factors(model, Rows(samples, fields=fields), features="pooled")
    assert set(result["by_factor"]) == {"red", "green", "noise"}
    assert set(result["left_out"]) == {"class", "id", "same", "rare"}
    assert "do not recur" in result["left_out"]["id"]
    rows = result["by_factor"]
    assert rows["red"]["top1"] > 0.95 > 0.7 > rows["noise"]["top1"]
    assert rows["green"]["r2"] > 0.99 > 0.01 > rows["green"]["chance_r2"]
    assert result["mean_top1"] == pytest.approx((rows["red"]["top1"] + rows["noise"]["top1"]) / 2)
    assert result["chance_mean_top1"] == pytest.approx(
        (rows["red"]["chance_top1"] + rows["noise"]["chance_top1"]) / 2
    )
    named = factors(model, Rows(samples, fields=fields), features="pooled", labels=["green"])
    assert set(named["by_factor"]) == {"green"}
    assert named["protocol"] != result["protocol"]
    with pytest.raises(InputError, match="did you mean 'green'"):
        factors(model, Rows(samples, fields=fields), labels=["greeen"])


def test_the_pooled_features_come_from_represent():
    class Blind(Fake):
        embed_images = property()

    planes = [
        Sample(
            key=str(i),
            source="rows",
            images={"main": Plane(np.full((2, 2, 3), 40 * (i % 3), np.uint8))},
            labels={"class": i % 3},
        )
        for i in range(40)
    ]
    assert (
        run(Blind(vectors(0), size=2), Rows(planes), features="pooled", k=3)["linear_top1"] == 1.0
    )
    with pytest.raises(
        InputError, match="a probe needs a model with embed_images, which Blind has not"
    ):
        evaluate(Blind(vectors(0), size=2), Rows(planes), ["probe"])


def test_the_classifier_of_dense_probes_is_that_of_the_linear_one():
    x, y = clusters(0)
    model, C = classifier(torch.from_numpy(x).numpy(), y)
    assert linear(x, y, x, y) == pytest.approx(
        {**linear(x, y, x, y), "top1": (model.predict(x) == y).mean(), "C": C}
    )


class Reader:
    """Embeds texts alone, as the vectors of their numbers."""

    identity = "reader"

    def __init__(self, count: int = 60):
        self.vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(count, 6))).float()

    def embed_texts(self, texts):
        return self.vectors[[digits(text) for text in texts]]


def test_texts_are_probed_as_images_are():
    model = Reader()
    sides = (model.vectors[:, 0] > 0).long().tolist()
    source = Words(
        [
            {"caption": [f"t {at}", "t 0"], "other": "t 1", "side": side}
            for at, side in enumerate(sides)
        ]
        + [{"other": "t 3", "side": 1}]
    )
    found = evaluate(model, source, ["probe"], features="text", shots=[2], seeds=[0])["probe"]
    parts = split(source, None, 0)
    assert found["n"] + found["n_train"] == 60
    assert found["bad"] == {"no-caption": 1}
    assert found["options"][-3] == "role=caption"
    x, y, test_x, test_y = [], [], [], []
    for part, (values, labels) in ((parts.train, (x, y)), (parts.test, (test_x, test_y))):
        for at in map(int, part.keys()):
            if at < 60:
                values.append(model.vectors[at].numpy())
                labels.append(sides[at])
    x, y, test_x, test_y = map(np.array, (x, y, test_x, test_y))
    assert found["linear_top1"] == linear(x, y, test_x, test_y)["top1"] > 0.8
    wanted = few_shot(x, y, test_x, test_y, shots=2, seeds=[0])
    assert found["by_shots"]["2"] == wanted
    other = evaluate(model, source, ["probe"], features="text", role="other")["probe"]
    assert other["protocol"] != found["protocol"]
    rows = evaluate(model, source, ["factors"], features="text")["factors"]["by_factor"]
    assert rows["side"]["top1"] == found["linear_top1"]


def test_a_probe_of_texts_says_what_it_needs():
    source = Words([{"caption": f"t {at}", "side": at % 2} for at in range(20)])
    with pytest.raises(
        InputError, match=r"needs images\.main, .* probe its texts with features=text"
    ):
        evaluate(Reader(), source, ["probe"])
    with pytest.raises(InputError, match="unknown role of the texts of source 'words' 'x'"):
        evaluate(Reader(), source, ["probe"], features="text", role="x")
    with pytest.raises(InputError, match="a probe needs a model with embed_texts"):
        evaluate(object(), source, ["probe"], features="text")
