"""What claims on adaptation share: classes, noise that depends on the key alone, images of the
right classes."""

import numpy as np

from diptych.data.sources import open_source
from diptych.lab import adapting
from diptych.lab.claim import Trial


def test_base_and_novel_classes_are_made_of_the_same_parts():
    for seed in range(3):
        base, novel = adapting.classes(seed)
        assert len(set(base)) == len(set(novel)) == 10
        assert not set(base) & set(novel)
        for part in (0, 1):
            assert {name.split()[part] for name in base} == {name.split()[part] for name in novel}
    assert adapting.classes(0) != adapting.classes(1)


def test_noise_depends_on_the_key_and_is_as_strong_as_asked():
    plain = open_source("scenes:number=1:count=6")
    worn = adapting.Noisy(plain, 20.0)
    clean, noisy, again = (
        np.asarray(source[2].images["main"].decode(), np.float64)
        for source in (plain, worn, adapting.Noisy(plain, 20))
    )
    assert np.array_equal(noisy, again)
    middle = (clean > 60) & (clean < 195)  # nothing is cut there
    assert 18 < (noisy - clean)[middle].std() < 22
    assert worn.schema() == plain.schema()
    assert list(worn.keys()) == list(plain.keys())


def test_images_are_few_and_of_the_named_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(adapting, "DRAWN", 5)  # scenes for a class, of which the test wants 3 each
    found = adapting.images(Trial(seed=3, folder=tmp_path, quick=True), noise=5.0, shots=2)
    train, test = open_source(found["train"]), open_source(found["test"])
    base, novel = adapting.classes(3)
    assert set(train.schema()["labels.pair"].classes) == set(base)
    assert set(test.schema()["labels.pair"].classes) == {*base, *novel}
    assert found["novel"] == novel
    assert len(train) == 20
    assert len(test) == 60
    assert {sample.labels["style"] for sample in train} <= {6, 7}
