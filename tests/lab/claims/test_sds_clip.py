"""The claim on a denoiser's error asks what it says: captions of others, no gradient to the CLIP, one
start and one teacher for all arms."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import sds_clip
from diptych.methods.robust.sds_clip import LatentMapper

SMALL = {"LEARNT": 320, "MEASURED": 160, "RETRIEVED": 160, "TEACHER_MEASURED": 4}


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """What the prelude returns, of small sources; its models are not trained."""
    for name, count in SMALL.items():
        monkeypatch.setattr(sds_clip, name, count)
    monkeypatch.setattr(sds_clip, "run", lambda settings, out: None)
    return sds_clip.draw(Trial(seed=5, folder=tmp_path, quick=True))


def test_pairs_differ_by_a_swap_and_are_not_learnt(drawn):
    swaps = list(open_source(drawn["swaps"]))
    assert {edit.kind for sample in swaps for edit in sample.edits} == {"swap"}
    learnt = {s.images["main"].read() for s in open_source(drawn["pairs"])}
    for sample in swaps:
        own = sample.captions()[0]
        for edit in sample.edits:
            assert sorted(edit.captions()[0].split()) == sorted(own.split())
            assert edit.captions()[0] != own
        assert sample.images["main"].read() not in learnt
    assert sum(len(sample.edits) for sample in swaps) > len(swaps) / 2


def test_the_first_teacher_that_tells_swaps_apart_is_taken(tmp_path, monkeypatch):
    for name, count in SMALL.items():
        monkeypatch.setattr(sds_clip, name, count)
    monkeypatch.setattr(sds_clip, "LEARNT", 80)
    begun = []
    monkeypatch.setattr(sds_clip, "run", lambda settings, out: begun.append(settings.options.seed))
    told = iter((0.5, 0.95, 1.0))
    monkeypatch.setattr(sds_clip, "swaps_by_error", lambda denoiser, source: next(told))
    found = sds_clip.draw(Trial(seed=5, folder=tmp_path))
    assert found["teacher"].endswith("teacher-1")
    assert begun == [5, 1005, 5]  # two teachers, then the CLIP


def test_the_denoiser_reads_the_caption_of_another_sample():
    rows = torch.arange(3.0)[:, None, None].expand(3, 2, 4)
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    method = SimpleNamespace(teacher=SimpleNamespace(rows=lambda batch: (rows, mask)))
    sds_clip.shuffle(method)  # type: ignore[arg-type]
    found, there = method.teacher.rows(None)
    assert found[:, 0, 0].tolist() == [2, 0, 1]
    assert there.tolist() == [[True, True], [True, True], [True, False]]


def test_a_detached_error_trains_the_map_alone():
    method = SimpleNamespace(mapper=None)

    def setup(sources):
        method.mapper = LatentMapper(4, (3, 2, 2))

    method.setup = setup
    sds_clip.detach(method)  # type: ignore[arg-type]
    method.setup({})
    mapper = method.mapper
    assert isinstance(mapper, LatentMapper)
    vectors = torch.randn(2, 4, requires_grad=True)
    mapper(vectors).square().sum().backward()
    assert vectors.grad is None
    assert mapper.linear.weight.grad is not None


def test_arms_differ_in_the_error_alone(tmp_path, monkeypatch, drawn):
    begun, changes = {}, {}

    def run(config, folder, change=None):
        begun[name] = config
        changes[name] = change
        raise StopIteration

    monkeypatch.setattr(sds_clip, "run", run)
    arms = {
        name: arm for name, arm in sds_clip.claim.arms.items() if name not in ("start", "teacher")
    }
    arms["rate"] = sds_clip.tuned(rate=0.5)
    prelude = {**drawn, "start": "tiny", "teacher": "a-run"}
    for name, arm in arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude=prelude))
    assert begun.pop("rate").recipe.lr == 0.5
    assert {name: c.config["weight"] for name, c in begun.items()} == {
        **dict.fromkeys(("sds", "shuffled", "detached"), 1.0),
        "norms": 0.0,
    }
    assert {name: c.config["denoiser"] for name, c in begun.items()} == {
        **dict.fromkeys(("sds", "shuffled", "detached"), "a-run"),
        "norms": "",
    }
    assert {name: change for name, change in changes.items() if change} == {
        "shuffled": sds_clip.shuffle,
        "detached": sds_clip.detach,
    }
    assert {name for name, c in begun.items() if "held_out" in c.data} == {"sds", "detached"}
    assert {c.data["train"] for c in begun.values()} == {drawn["pairs"]}
    same = {
        str(replace(c, data={}, config={}, recipe=replace(c.recipe, lr=1.0)))
        for c in begun.values()
    }
    assert len(same) == 1


def test_the_floor_is_the_precondition():
    claim = sds_clip.claim
    assert claim.learning == ("teacher",)
    assert claim.floor.metric == claim.headline[0].metric == "swap"
    assert claim.floor.value == 0.8


def test_quick_arms_run(tmp_path, brief, monkeypatch):
    brief(sds_clip)
    for name, count in SMALL.items():
        monkeypatch.setattr(sds_clip, name, count)
    trial = Trial(seed=100, folder=tmp_path / "prelude", quick=True)
    trial = replace(trial, prelude=sds_clip.draw(trial))
    for name, metrics in {"teacher": {"swap"}, "detached": set(sds_clip.claim.table)}.items():
        (tmp_path / name).mkdir()
        found = sds_clip.claim.arms[name](replace(trial, folder=tmp_path / name))
        assert set(found) == metrics
        assert 0 <= found["swap"] <= 1
