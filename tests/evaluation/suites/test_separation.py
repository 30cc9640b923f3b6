"""The suite separation: the four cells of a model of which each space is known, targets, and what
is refused."""

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Fake, Rows, row

from diptych.data.sample import Field
from diptych.errors import InputError
from diptych.evaluation import evaluate

FIELDS = {
    "labels.thing": Field(kind="int", classes=("a", "b")),
    "labels.mark": Field(kind="int", classes=("none", "x", "y", "z")),
    "labels.depth": Field(kind="float"),
}


class Two(Fake):
    """A model whose spaces are tables of vectors by the number of a dot."""

    name = "two"

    def __init__(self, tables):
        super().__init__(tables["common"])
        self.tables = tables
        self.spaces = tuple(tables)

    def space(self, name):
        other = Two(self.tables)
        other.table = torch.from_numpy(self.tables[name]).float()
        return other

    def project_images(self, images, *, batch_size):
        return self.table[self.numbers(images)]


def samples(count=120):
    """Dots with a thing; three of four have a mark, and a depth."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        sample = row(str(number), number)
        mark = int(rng.integers(0, 4))
        labels = {"thing": int(rng.integers(0, 2)), "mark": mark}
        labels["depth"] = float(rng.normal()) if mark else float("nan")
        sample.labels.clear()
        sample.labels.update(labels)
        found.append(sample)
    return found


def of(found, *names):
    """Vectors that say exactly what some labels are, and nothing else."""
    rng = np.random.default_rng(1)
    columns = [rng.normal(size=(len(found), 1))]
    for name in names:
        values = np.nan_to_num(np.array([sample.labels[name] for sample in found], float))
        columns.append(values[:, None] if name == "depth" else np.eye(4)[values.astype(int)])
    return np.concatenate(columns, 1)


def test_cells_of_separated_and_of_exchanged_spaces():
    found = samples()
    source = Rows(found, fields=FIELDS)
    tables = {
        "common": of(found, "thing"),
        "salient": of(found, "mark", "depth"),
        "all": of(found, "thing", "mark", "depth"),
    }
    how = {"common": ["thing"], "salient": ["mark", "depth"], "background": "none"}
    model = Two(tables)
    result = evaluate(model, source, ["separation"], **how)["separation"]
    targets = sum(sample.labels["mark"] > 0 for sample in found)
    assert result["n"] + result["n_train"] == targets
    assert result["c_common"] == 1
    assert result["s_salient"] > 0.99
    chance = result["chance_c_common"]
    assert chance == result["by_space"]["chance"]["thing"] == result["chance_s_common"]
    assert result["delta_total"] == pytest.approx(
        1
        - result["s_salient"]
        + abs(result["c_salient"] - result["chance_c_salient"])
        + abs(result["s_common"] - chance)
    )
    assert result["c_salient"] == pytest.approx(
        np.mean([result["by_space"]["common"][name] for name in ("mark", "depth")])
    )
    swapped = evaluate(model, source, ["separation"], spaces=["all", "common"], **how)["separation"]
    assert swapped["c_salient"] > 0.99
    assert swapped["s_common"] == 1
    assert swapped["delta_total"] > result["delta_total"] + 1
    assert swapped["protocol"] != result["protocol"]


def test_without_background_targets_are_the_images_with_a_value():
    found = samples()
    for sample in found:
        sample.labels["mark"] -= 1
    source = Rows(found, fields={**FIELDS, "labels.mark": Field(kind="int")})
    tables = {"common": of(found, "thing"), "salient": of(found, "depth")}
    for salient in ("mark", "depth"):
        how = {"common": ["thing"], "salient": [salient], "train": source}
        result = evaluate(Two(tables), source, ["separation"], **how)["separation"]
        assert result["n"] == result["n_train"] == sum(s.labels["mark"] >= 0 for s in found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"common": ["thing"]}, "--common LABEL and --salient LABEL"),
        ({"common": ["mark"], "salient": ["mark"]}, "mark is named as a common and as a salient"),
        ({"common": ["thin"], "salient": ["mark"]}, "did you mean 'thing'"),
        ({"spaces": ["common"]}, "1 spaces are named; name two"),
        ({"spaces": ["common", "other"]}, "two has no space 'other'; it has common, salient"),
        ({"common": ["thing"], "salient": ["mark"], "background": "w"}, "unknown value of"),
        ({"common": ["thing"], "salient": ["mark"], "background": "none+x+y+z"}, "is a target"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_once(settings, message):
    found = samples(20)
    model = Two({"common": of(found, "thing"), "salient": of(found, "mark")})
    with pytest.raises(InputError, match=message):
        evaluate(model, Rows(found, fields=FIELDS), ["separation"], **settings)
    model.spaces = ()
    with pytest.raises(InputError, match="a run of sepclr has two"):
        evaluate(
            model, Rows(found, fields=FIELDS), ["separation"], common=["thing"], salient=["mark"]
        )
