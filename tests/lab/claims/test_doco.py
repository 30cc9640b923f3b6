"""The claim on the words of pages asks what it says: arms on the same pages that differ in losses and
teachers alone, boxes that say other words of their page, page retrieval among all pages."""

from dataclasses import replace

import pytest

from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import doco


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doco, "PARTS", {"train": 240, "probe": 240, "test": 80})
        return doco.draw(Trial(seed=5, folder=tmp_path_factory.mktemp("doco"), quick=True))


def test_permuted_boxes_say_other_words_of_their_page(drawn):
    own, other = (open_source(drawn[name]) for name in ("train", "permuted"))
    assert list(own.keys()) == list(other.keys())
    for one, two in zip(own, other, strict=True):
        assert one.images["main"].read() == two.images["main"].read()
        assert [box.xyxy for box in one.boxes] == [box.xyxy for box in two.boxes]
        texts = [[box.text for box in page.boxes] for page in (one, two)]
        assert sorted(texts[0]) == sorted(texts[1])
        assert not any(a == b for a, b in zip(*texts, strict=True))


def test_pages_of_the_parts_differ_and_none_has_more_words_than_are_read(drawn):
    sources = {name: open_source(drawn[name]) for name in doco.PARTS}
    keys = [set(source.keys()) for source in sources.values()]
    assert len(set.union(*keys)) == sum(map(len, keys))
    counts = [len(sample.boxes) for source in sources.values() for sample in source]
    assert min(counts) > 4
    assert max(counts) <= doco.MOST


def test_arms_differ_in_losses_teacher_and_texts_alone(tmp_path, monkeypatch):
    begun = {}

    def run(config, folder, change):
        begun[name] = config
        raise StopIteration

    monkeypatch.setattr(doco, "run", run)
    prelude = {"train": "pages:seed=1", "permuted": "pages:seed=2"}
    for name, arm in doco.claim.arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude=prelude))
    own = begun["doco"]
    assert {name for name, each in begun.items() if each.data != own.data} == {"permuted"}
    assert {name for name, each in begun.items() if each.recipe != own.recipe} == {"random"}
    differ = {
        name: {key for key, value in each.config.items() if own.config.get(key) != value}
        for name, each in begun.items()
    }
    assert {name: keys for name, keys in differ.items() if keys} == {
        "inter": {"intra"},
        "layout": {"teacher"},
    }
    assert begun["inter"].config["intra"] == 0
    same = {str(replace(each, data={}, config={}, recipe=own.recipe)) for each in begun.values()}
    assert len(same) == 1


def test_the_floor_is_of_the_arms_that_learn_pages():
    assert set(doco.claim.learning) == {"inter", "doco"}
    assert doco.claim.floor.value > 10 * doco.claim.floor.chance


def test_an_arm_measures_what_is_judged(tmp_path, monkeypatch, drawn, brief):
    brief(doco)
    monkeypatch.setattr(
        doco, "TOWER", f"conv:image_size={doco.SIZE}:widths=(8,):depths=(1,):stem=8"
    )
    monkeypatch.setattr(doco, "BATCH", 6)
    found = doco.claim.arms["doco"](Trial(seed=5, folder=tmp_path, quick=True, prelude=drawn))
    assert set(found) == set(doco.claim.table)
    assert all(0 <= value <= 1 for value in found.values())
