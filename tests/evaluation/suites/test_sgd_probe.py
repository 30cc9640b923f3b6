"""The layer that SGD fits, what it gets right and how far the test set lets that vary."""

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Fake, Rows, row, vectors
from tests.evaluation.suites.helpers import class_model, clusters, labelled_dots
from torch.nn.functional import cross_entropy

from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites._accuracy import report, resampled
from diptych.evaluation.suites._sgd_probe import layer
from diptych.evaluation.suites.probe import probe as run
from diptych.linear import classifier, hits, hold_out


def by_loops(x, y, val_x, val_y, lr, batch, epochs, seed):
    """The published recipe, plain SGD and the last of the best epochs, on features over their mean
    norm."""
    size = np.mean([np.sqrt((row**2).sum()) for row in x])
    names = sorted(set(y.tolist()))
    linear = torch.nn.Linear(x.shape[1], len(names)).double()
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimizer, order = (
        torch.optim.SGD(linear.parameters(), lr=lr),
        torch.Generator().manual_seed(seed),
    )
    features = torch.from_numpy(x / size)
    targets = torch.tensor([names.index(value) for value in y.tolist()])
    best, kept = -1.0, None
    for epoch in range(1, epochs + 1):
        places = torch.randperm(len(x), generator=order)
        for start in range(0, len(x), batch):
            rows = places[start : start + batch]
            optimizer.zero_grad()
            cross_entropy(linear(features[rows]), targets[rows]).backward()
            optimizer.step()
        guesses = linear(torch.from_numpy(val_x / size)).argmax(1).tolist()
        reached = np.mean(
            [names[guess] == wanted for guess, wanted in zip(guesses, val_y.tolist(), strict=True)]
        )
        if reached >= best:
            best, kept = (
                reached,
                (epoch, linear.weight.detach().clone() / size, linear.bias.detach().clone()),
            )
    return kept


def test_the_layer_is_that_of_the_published_recipe():
    x, y = clusters(0, count=50, classes=3)
    val_x, val_y = clusters(1, count=30, classes=3)
    found = layer(7 * x, y, 7 * val_x, val_y, seed=3, lr=0.5, batch=16, epochs=25)
    epoch, weight, bias = by_loops(7 * x, y, 7 * val_x, val_y, 0.5, 16, 25, 3)
    assert found.epoch == epoch
    np.testing.assert_allclose(found.weight, weight.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.bias, bias.numpy(), atol=1e-5)


def test_the_lengths_of_features_change_nothing():
    x, y = clusters(0, count=60)
    one, other = (layer(s * x, y, s * x, y, epochs=20) for s in (1.0, 1000.0))
    np.testing.assert_allclose(
        one.decision_function(x), other.decision_function(1000 * x), atol=1e-3
    )


def test_of_equally_good_epochs_the_last_is_kept():
    x, y = clusters(0, count=60, noise=0.01)
    assert layer(x, y, x, y, epochs=30).epoch == 30
    noisy, labels = clusters(0, count=60, noise=2.0)
    other = clusters(5, count=60, noise=2.0)
    assert layer(noisy, labels, *other, epochs=200).epoch < 200  # to fit longer is to fit the noise


def test_features_of_zeros_give_one_answer_for_all():
    y = np.array([0] * 30 + [1] * 20 + [2] * 10)
    found = layer(np.zeros((60, 4)), y, np.zeros((60, 4)), y, epochs=200)
    assert not found.weight.any()
    assert found.bias.argmax() == 0  # the most common class
    assert report(found, y, np.zeros((60, 4)), y)["top1"] == pytest.approx(0.5)


def test_classes_need_not_be_numbered_from_zero_and_one_alone_is_an_error():
    x, y = clusters(0, count=60, classes=3, noise=0.1)
    assert hits(layer(x, 10 * y + 5, x, 10 * y + 5, epochs=50), x, 10 * y + 5).all()
    with pytest.raises(InputError, match="of one class"):
        layer(x, np.zeros_like(y), x, y)


def test_three_first_places_beside_the_three_most_common_classes():
    class Scores:
        classes_ = np.arange(5)

        def decision_function(self, x):
            return x

    scores = np.array([[5.0, 4, 3, 2, 1], [5, 4, 3, 2, 1], [5, 4, 3, 3, 1], [5, 4, 3, 2, 1]])
    labels = np.array(
        [0, 2, 3, 4]
    )  # first; third; shares the third place with another, and so is fourth; fifth
    found = report(Scores(), np.array([0, 0, 1, 2, 2, 3]), scores, labels)
    assert (found["top1"], found["top3"]) == (0.25, 0.5)
    assert found["chance_top3"] == 0.5  # classes 0, 2 and the first of those that come once, 1
    assert "top1_std" not in found
    assert set(report(Scores(), labels, scores, labels, bootstrap=10)) - set(found) == {
        "top1_std",
        "top3_std",
    }


def test_the_bootstrap_is_that_of_a_share():
    values = np.arange(200) < 60
    found = resampled(values, 2000)
    assert found == pytest.approx(np.sqrt(0.3 * 0.7 / 200), rel=0.05)
    assert resampled(values, 2000) == found != resampled(values, 2000, seed=1)
    assert resampled(np.ones(50, bool), 100) == 0.0


# ---- in the suite


def test_the_suite_fits_the_layer_and_chooses_its_epoch_on_other_images():
    model = class_model(200)
    pixels, labels = model.vectors.numpy(), np.arange(200) % 3
    result = run(
        model,
        labelled_dots(60),
        train=labelled_dots(60),
        val=labelled_dots(40),
        fit="sgd",
        bootstrap=50,
    )
    found = layer(pixels[:60], labels[:60], pixels[:40], labels[:40])
    assert result["epoch"] == found.epoch
    expected = report(found, labels[:60], pixels[:60], labels[:60], bootstrap=50)
    assert {
        name: result[f"linear_{name}"] for name in ("top1", "top3", "top1_std", "top3_std")
    } == {name: expected[name] for name in ("top1", "top3", "top1_std", "top3_std")}
    assert "C" not in result
    fit, aside = hold_out(60, 0)
    alone = layer(pixels[fit], labels[fit], pixels[aside], labels[aside])
    assert run(model, labelled_dots(60), train=labelled_dots(60), fit="sgd")["epoch"] == alone.epoch


def test_c_too_is_chosen_on_the_images_given_for_it():
    x, y = clusters(0)
    val_x, val_y = clusters(3, count=40)
    model, C = classifier(x, y, aside=(val_x, val_y))
    best = {
        c: hits(classifier(x, y, aside=(val_x, val_y), cs=(c,))[0], val_x, val_y).mean()
        for c in (1e-4, C, 100.0)
    }
    assert best[C] == max(best.values())
    assert model[-1].C == C
    held = class_model()
    assert (
        run(held, labelled_dots(), train=labelled_dots(30), val=labelled_dots(20))["protocol"]
        != run(held, labelled_dots(), train=labelled_dots(30))["protocol"]
    )


def test_vectors_with_their_own_lengths_can_be_probed():
    class Long(Fake):
        def project_images(self, images, *, batch_size=64):
            return 3 * self.embed_images(images, batch_size=batch_size)

    model = Long(class_model().vectors.numpy())
    unit = run(model, labelled_dots(), train=labelled_dots(30), features="embedding")
    own = run(model, labelled_dots(), train=labelled_dots(30), features="projected")
    assert (
        own["linear_top1"] == unit["linear_top1"]
    )  # logistic regression takes standardised features
    assert own["protocol"] != unit["protocol"]
    with pytest.raises(
        InputError, match="a probe needs a model with project_images, which Fake has not"
    ):
        evaluate(Fake(vectors(0)), labelled_dots(), ["probe"], features="projected")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit": "sdg"}, "did you mean 'sgd'"),
        ({"bootstrap": -1}, "bootstrap is -1; it must be at least 0"),
        (
            {"val": Rows([row("a", 1, label=0)], ("c0", "other"))},
            "label 'class' has other class names",
        ),
    ],
)
def test_bad_requests_are_told_before_anything_is_computed(settings, message):
    model = class_model()
    with pytest.raises(InputError, match=message):
        evaluate(model, labelled_dots(), ["probe"], **settings)
    assert model.largest == 0
