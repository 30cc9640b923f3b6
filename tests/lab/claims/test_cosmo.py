"""The claim on contrast beside a language model asks what it says: documents in which one of three defined
words is used, arms that differ in losses, data and what is read."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import cosmo


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cosmo, "LEARNT", {"pairs": 640, "documents": 480})
        return cosmo.draw(Trial(seed=5, folder=tmp_path_factory.mktemp("cosmo"), quick=True))


def test_documents_define_three_words_and_use_one_of_them(drawn):
    source = open_source(drawn["documents"])
    places = set()
    for sample in source:
        assert tuple(sample.images) == cosmo.ROLES
        *defined, used = sample.captions("document")
        assert len(defined) == cosmo.WORDS
        words = [text.split()[1] for text in defined]
        assert all(text.split()[2] == "is" for text in defined)
        assert len(set(words)) == cosmo.WORDS
        [place] = [at for at, word in enumerate(words) if word in used.split()]
        places.add(place)
    assert places == {0, 1, 2}


def test_arms_differ_in_losses_data_and_what_is_read_alone(tmp_path, monkeypatch, drawn):
    begun, changed = {}, {}

    def run(config, folder, change):
        method = SimpleNamespace(loss=None)
        if change is not None:
            change(method)
        begun[name], changed[name] = config, method.loss is not None
        raise StopIteration

    monkeypatch.setattr(cosmo, "run", run)
    for name, arm in cosmo.claim.arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude=drawn))
    said = {
        name: (c.config.get("contrastive", 1.0), c.config.get("reach", "latest"))
        for name, c in begun.items()
    }
    assert said == {
        "lm": (0.0, "latest"),
        "both": (1.0, "latest"),
        "pairs_only": (1.0, "latest"),
        "blind": (1.0, "none"),
        "permuted": (1.0, "latest"),
    }
    assert {name for name, other in changed.items() if other} == {"permuted"}
    assert {name for name, c in begun.items() if "documents" not in c.data} == {"pairs_only"}
    same = {
        str(replace(c, data={}, config={}, recipe=replace(c.recipe, lr=1.0)))
        for c in begun.values()
    }
    assert len(same) == 1


def test_permuted_contrasts_with_the_text_before_and_leaves_captions_alone():
    seen = []
    method = SimpleNamespace(loss=lambda features, batches, at: seen.append(features))
    cosmo.permuted(method)
    each = torch.arange(3.0)
    method.loss({"text_train": each, "image_train": each, "log_prob_train": each}, None, None)
    [found] = seen
    assert found["text_train"].tolist() == [2, 0, 1]
    assert found["image_train"].tolist() == found["log_prob_train"].tolist() == [0, 1, 2]


def test_an_arm_measures_what_it_is_judged_by(tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(cosmo, "BATCH", 8)
    monkeypatch.setattr(cosmo, "MEASURED", {"pairs": 120, "documents": 60})
    found = cosmo.claim.arms["both"](Trial(seed=5, folder=tmp_path, quick=True, prelude=drawn))
    assert cosmo.claim.needs("both") <= set(found)
    assert set(cosmo.claim.table) == set(found)
    assert 0 <= found["word"] <= 1
    assert found["caption_loss"] > 0
