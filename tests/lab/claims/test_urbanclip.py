"""The claim on captions of tiles asks what it says: arms on the same images, captions that are those of
other tiles, blocks that no arm has seen."""

import pytest

from diptych.data.sample import labels_of
from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import urbanclip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(urbanclip, "UNLABELLED", 16 * 24)
        patch.setattr(urbanclip, "SIZE", 24)
        return urbanclip.draw(Trial(seed=5, folder=tmp_path_factory.mktemp("urban"), quick=True))


def test_all_arms_see_the_same_tiles_and_no_indicator(drawn):
    sources = {name: open_source(place) for name, place in drawn.items()}
    assert set(sources) == {"plain", "shuffled", "noisy", "no_works"}
    plain = sources["plain"]
    for source in sources.values():
        assert [sample.key for sample in source] == [sample.key for sample in plain]
        assert source[3].images["main"].read() == plain[3].images["main"].read()
        assert not any(name.startswith("labels.") for name in source.schema())
    texts = {name: [sample.captions()[0] for sample in each] for name, each in sources.items()}
    assert sorted(texts["shuffled"]) == sorted(texts["plain"])
    assert texts["shuffled"] != texts["plain"]
    assert texts["noisy"] != texts["plain"]
    assert not any("works" in text for text in texts["no_works"])


def test_no_sample_keeps_its_own_caption():
    others = urbanclip.Others(open_source("tiles:count=9:size=24"), 0)
    assert sorted(others.other.tolist()) == list(range(9))
    assert all(own != other for own, other in enumerate(others.other.tolist()))


def test_arms_differ_in_what_they_say_alone(tmp_path, monkeypatch):
    begun = {}

    def run(config, folder):
        begun[name] = config
        raise StopIteration

    monkeypatch.setattr(urbanclip, "run", run)
    places = {
        name: f"tiles:seed={at}"
        for at, name in enumerate(("plain", "shuffled", "noisy", "no_works"))
    }
    for name, arm in urbanclip.claim.arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude=places))
    own = begun["urbanclip"]
    assert {config.image_tower for config in begun.values()} == {own.image_tower}
    assert {name for name, each in begun.items() if each.data != own.data} == {
        "shuffled",
        "noisy",
        "no_works",
    }
    assert {name for name, each in begun.items() if each.config != own.config} == {
        "simclr",
        "con",
        "cap",
    }
    assert {name for name, each in begun.items() if each.recipe.steps != own.recipe.steps} == {
        "random"
    }
    assert begun["simclr"].method == "simclr"


def test_an_arm_measures_what_is_judged(tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(urbanclip, "SIZE", 24)
    monkeypatch.setattr(urbanclip, "CITIES", (2,))
    monkeypatch.setattr(urbanclip, "IMAGE", "conv:image_size=24:widths=(8,16):depths=(1,1)")
    monkeypatch.setattr(urbanclip, "BATCH", 12)
    found = urbanclip.claim.arms["urbanclip"](
        Trial(seed=5, folder=tmp_path, quick=True, prelude=drawn)
    )
    assert set(found) == set(urbanclip.claim.table)
    assert all(value <= 1 for value in found.values())


def test_labelled_tiles_are_of_other_blocks(drawn):
    trial = Trial(seed=5, folder=None)
    blocks = {
        name: set(labels_of(open_source(spec), "block").tolist())
        for name, spec in {
            "captions": urbanclip.city(trial, urbanclip.UNLABELLED),
            "labelled": urbanclip.city(
                trial, urbanclip.LABELLED, 1, f":start={urbanclip.UNLABELLED}"
            ),
            "judged": urbanclip.city(trial, urbanclip.JUDGED, 1, ":split=test"),
        }.items()
    }
    assert not blocks["captions"] & blocks["labelled"]
    assert not blocks["judged"] & (blocks["captions"] | blocks["labelled"])


def test_each_arm_measures_what_it_is_judged_by(tmp_path, monkeypatch):
    rows = {name: {"r2": 0.5} for name in urbanclip.INDICATORS}
    found = {"indicators": {"mean_r2": 0.5, "by_indicator": rows}}
    monkeypatch.setattr(urbanclip, "run", lambda settings, folder: None)
    monkeypatch.setattr(urbanclip, "load", lambda folder: None)
    monkeypatch.setattr(urbanclip, "evaluate", lambda *args, **options: found)
    places = dict.fromkeys(("plain", "shuffled", "noisy", "no_works"), "tiles")
    for name, arm in urbanclip.claim.arms.items():
        metrics = arm(Trial(seed=100, folder=tmp_path, prelude=places))
        assert urbanclip.claim.needs(name) <= set(metrics), name
