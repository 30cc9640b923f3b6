"""Links and clusters of a loaded model's records."""

import numpy as np
import pytest
from tests.evaluation.helpers import Fake, row
from tests.evaluation.records import Named, known_model, three_each

from diptych.errors import InputError
from diptych.inference.link import Cluster, Link, Linker, as_rows


def exemplars() -> Named:
    return Named([row(f"t{at}", 3 * at, f"text {3 * at}", label=at) for at in range(2)])


def test_records_are_linked_to_the_nearest_exemplar_or_to_none():
    linker = Linker(known_model(), threshold=0.5)
    linker.index(exemplars())
    found = linker.link(three_each())
    assert [each.target for each in found[:6]] == ["t0"] * 3 + ["t1"] * 3
    assert all(each.target is None for each in found[6:])
    assert found[0].similarity == pytest.approx(1, abs=1e-4)
    linker.threshold = -np.inf
    assert all(each.target for each in linker.link(three_each()))


def test_thresholds_are_chosen_on_other_records():
    linker = Linker(known_model())
    linker.tune(three_each(1), trials=3)
    assert 0.1 < linker.threshold < 0.99
    found = [each.cluster for each in linker.cluster(three_each())]
    assert found == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4, 5]
    fixed = Linker(known_model(), weight=0.9)
    fixed.tune(three_each(1), trials=3)
    assert fixed.cluster_weight == fixed.link_weight == 0.9


def test_rows_have_the_columns_of_a_table_of_pairs():
    assert as_rows([Link("a", None, 0.25)]) == [
        {"source_path": "a", "target_path": None, "similarity": 0.25}
    ]
    assert as_rows([Cluster("a", 3)]) == [{"key": "a", "cluster": 3}]


def test_what_does_not_fit_is_told():
    with pytest.raises(InputError, match="weight is 3; it is the share of the image"):
        Linker(known_model(), weight=3)
    with pytest.raises(InputError, match="threshold is 3.0; it must be a number from -1 to 1"):
        Linker(known_model(), threshold=3)
    with pytest.raises(InputError, match="distance is 3.0; it must be a number from 0 to 2"):
        Linker(known_model(), distance=3)
    with pytest.raises(InputError, match="clusters have no largest distance"):
        Linker(known_model()).cluster(three_each())
    with pytest.raises(InputError, match="no entity with two records, so it tells no threshold"):
        Linker(known_model()).tune(exemplars())
    with pytest.raises(InputError, match="linking records needs a model with embed_images"):
        Linker(object())
    blind = Fake(np.eye(6))
    blind.embed_texts = None
    assert Linker(blind).link_weight == 0.5, "a model without a weight of its own"
