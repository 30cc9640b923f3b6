"""The claim on reports asks what it says: impressions of other reports, stages and losses by arm."""

from dataclasses import replace

import pytest

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, best
from diptych.lab.claims import biovil


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(biovil, "run", lambda settings, out: None)
        for name, count in {"IMAGES": 320, "REPORTS": 400, "MEASURED": 100}.items():
            patch.setattr(biovil, name, count)
        return biovil.draw(Trial(seed=5, folder=folder, quick=True))


def test_permuted_reports_have_their_findings_and_impressions_of_others(drawn):
    own, other = (list(open_source(drawn[name])) for name in ("reports", "permuted"))
    assert [s.captions("findings") for s in own] == [s.captions("findings") for s in other]
    impressions = [[s.captions("impression")[0] for s in source] for source in (own, other)]
    assert sorted(impressions[0]) == sorted(impressions[1])
    assert sum(a == b for a, b in zip(*impressions, strict=True)) <= 2


def test_reports_have_one_finding_and_images_one_or_two(drawn):
    found = {
        name: {sum(sample.labels.values()) for sample in open_source(drawn[name])}
        for name in ("pairs", "reports")
    }
    assert found == {"pairs": {1, 2}, "reports": {1}}


def test_phrases_are_those_of_each_section_on_the_same_images(drawn):
    own, findings = (open_source(drawn[f"measured{end}"]) for end in ("", "_findings"))
    for a, b in zip(own, findings, strict=True):
        assert [box.xyxy for box in a.boxes] == [box.xyxy for box in b.boxes]
    phrases = [{box.text for s in source for box in s.boxes} for source in (own, findings)]
    assert not phrases[0] & phrases[1]


def test_arms_differ_in_stages_and_reports_alone(tmp_path, monkeypatch, drawn):
    begun = {}

    def run(config, folder):
        begun[name] = config
        raise StopIteration

    monkeypatch.setattr(biovil, "run", run)
    for name, arm in biovil.claim.arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude={**drawn, "start": "tiny"}))
    options = {name: c.config for name, c in begun.items()}
    assert {name: tuple(c["stages"]) for name, c in options.items()} == {
        "contrast": ("joint",),
        **dict.fromkeys(("biovil", "no_matching", "permuted"), biovil.STAGES),
    }
    assert {name for name, c in options.items() if not c.get("shuffle", True)} == {"contrast"}
    assert {name for name, c in options.items() if c.get("masking") == 0} == {"contrast"}
    assert {name for name, c in options.items() if c.get("matching") == 0} == {"no_matching"}
    permuted = {name for name, c in begun.items() if c.data["reports"] == drawn["permuted"]}
    assert permuted == {"permuted"}
    steps = {
        name: c.recipe.steps + sum(each["steps"] for each in c.config["recipes"].values())
        for name, c in begun.items()
    }
    assert set(steps.values()) == {sum(biovil.STEPS[name] for name in biovil.STAGES)}
    rates = {name: c.recipe.lr for name, c in begun.items()}
    assert rates == {
        name: best(biovil.RATES["contrast" if name == "contrast" else "biovil"]) for name in rates
    }
    same = {
        str(replace(c, data={}, config={}, recipe=replace(c.recipe, steps=1, lr=1.0)))
        for c in begun.values()
    }
    assert len(same) == 1


def test_the_floor_is_well_above_an_untrained_model():
    assert biovil.claim.floor.metric == "r1"
    assert biovil.claim.learning == ("contrast", "biovil")
    assert biovil.claim.floor.value >= 10 / biovil.MEASURED


def test_a_quick_arm_runs(tmp_path, brief, monkeypatch):
    brief(biovil)
    for name, count in {"IMAGES": 240, "REPORTS": 700, "MEASURED": 100}.items():
        monkeypatch.setattr(biovil, name, count)
    for name in biovil.STEPS:
        monkeypatch.setitem(biovil.STEPS, name, 3)
    trial = Trial(seed=100, folder=tmp_path, quick=True)
    trial = replace(trial, prelude=biovil.draw(trial))
    found = biovil.claim.arms["biovil"](trial)
    assert set(found) == set(biovil.claim.table)
    assert all(0 <= found[name] <= 1 for name in ("r1", "r5", "miou"))
