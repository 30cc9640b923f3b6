"""The claim on noisy pairs with a Q-Former asks what it says: arms as named, noise at its rate,
probabilities that are exchanged or known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from diptych.data.sample import labels_of
from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import nevlp


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nevlp, "MEASURED", 20)
        return nevlp.draw(Trial(seed=5, folder=tmp_path_factory.mktemp("nevlp"), quick=True))


def test_sets_are_the_same_scenes_and_noisy_as_they_say(drawn):
    noisy, clean = (open_source(drawn[name]) for name in ("noisy", "clean"))
    assert list(noisy.keys()) == list(clean.keys())
    assert list(open_source(drawn["half"]).keys()) == list(noisy.keys())[: len(noisy) // 2]
    kinds = noisy.schema()["labels.noise"].classes
    found = labels_of(noisy, "noise")
    for kind in ("swap", "drop"):
        assert np.mean(found == kinds.index(kind)) == pytest.approx(0.4, abs=0.09)
    assert not labels_of(clean, "noise").any()


def test_arms_differ_in_pairs_softening_and_probabilities_alone(tmp_path, monkeypatch, drawn):
    begun, changed = {}, {}

    def run(config, folder, change):
        method = SimpleNamespace(_noise=None)
        change(method)
        begun[name], changed[name] = config, method._noise is not None
        raise StopIteration

    monkeypatch.setattr(nevlp, "run", run)
    for name, arm in nevlp.claim.arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude=drawn))
    assert {name: c.config["noise"] for name, c in begun.items()} == {
        "plain": 0.0,
        "softened": nevlp.LAMBDA,
        "half": nevlp.LAMBDA,
        "dealt": nevlp.LAMBDA,
        "known": nevlp.LAMBDA,
        "clean": 0.0,
        "clean_softened": nevlp.LAMBDA,
    }
    assert {name for name, other in changed.items() if other} == {"dealt", "known"}
    clean = {name for name, c in begun.items() if c.data["train"] == drawn["clean"]}
    assert clean == {"clean", "clean_softened"}
    whole = [replace(c, data={}, config={}) for name, c in begun.items() if name != "half"]
    assert len({str(c) for c in whole}) == 1
    half = begun["half"]
    assert half.data["train"] == drawn["half"]
    assert half.recipe.epochs == 2 * whole[0].recipe.epochs


def test_probabilities_are_exchanged_or_the_flags_of_wrong_pairs(drawn):
    source = open_source(drawn["noisy"])
    trial = Trial(seed=5, folder=None)
    keys = [f"{key}#0" for key in source.keys()]  # noqa: SIM118  (a source is no mapping)
    own = np.linspace(0, 1, len(keys))
    run = SimpleNamespace(at=SimpleNamespace(epoch=2))
    method = SimpleNamespace(_noise=lambda run, pairs, keys: own)
    nevlp.dealt(method, trial, source)
    found = method._noise(run, source, keys)
    assert sorted(found) == sorted(own)
    assert (found != own).any()
    nevlp.known(method, trial, source)
    swap = source.schema()["labels.noise"].classes.index("swap")
    assert (
        method._noise(run, source, keys).tolist() == (labels_of(source, "noise") == swap).tolist()
    )
