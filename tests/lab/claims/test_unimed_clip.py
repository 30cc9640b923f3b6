"""The claim on banks of captions asks what it says: unseen words, equal steps, data as named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import unimed_clip


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    return replace(trial, prelude=unimed_clip.draw(trial))


def bank(trial, name):
    return json.loads(Path(trial.prelude[name]).read_text())


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("unimed_clip"))
    assert claim.floor.chance == 0.25
    assert not {"few", "permuted"} & set(claim.learning)


def test_no_sentence_of_the_test_is_in_a_bank_and_none_has_a_form_that_was_read(trial):
    read = {text for texts in bank(trial, "bank").values() for text in texts}
    for draw in range(unimed_clip.DRAWS):
        for forms in ("seen", "unseen"):
            asked = {text for texts in bank(trial, f"{forms}{draw}").values() for text in texts}
            assert len(asked) == 24
            if forms == "unseen":
                assert not asked & read
    assert {len(texts) for texts in bank(trial, "bank").values()} == {unimed_clip.CAPTIONS}
    assert {name: texts[:1] for name, texts in bank(trial, "bank").items()} == bank(trial, "k1")


def test_permuted_captions_are_those_of_another_class_of_the_modality(trial):
    own = bank(trial, "bank")
    dealt = bank(trial, "permuted")
    owner = {tuple(texts): name for name, texts in own.items()}
    for number in range(6):
        source = open_source(trial.prelude["test"][number])
        names = source.schema()["labels.class"].classes
        taken = [owner[tuple(dealt[name])] for name in names]
        assert sorted(taken) == sorted(names)
        assert all(a != b for a, b in zip(taken, names, strict=True))


def test_a_fifth_of_the_images_has_captions_and_parts_share_none(trial):
    parts = {
        name: [open_source(spec) for spec in trial.prelude[name]]
        for name in ("pairs", "labelled", "test")
    }
    sizes = {name: sum(map(len, sources)) for name, sources in parts.items()}
    assert sizes == {"pairs": 24, "labelled": 96, "test": 180}
    assert all("texts.caption" in source.schema() for source in parts["pairs"])
    assert not any("texts.caption" in source.schema() for source in parts["labelled"])
    for number in range(6):
        keys = [set(parts[name][number].keys()) for name in ("pairs", "labelled")]
        assert not set.intersection(*keys)


def test_arms_differ_in_captions_and_rate_alone(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(
        unimed_clip, "run", lambda config, folder: begun.setdefault(name, []).append(config)
    )
    monkeypatch.setattr(unimed_clip, "load", lambda folder: None)
    monkeypatch.setattr(unimed_clip, "measure", lambda *_: {"unseen": 0.0})
    parts = {name: ["scenes:count=4"] * 6 for name in ("pairs", "labelled", "test")}
    prelude = {**parts, "bank": "b.json", "k1": "k.json", "permuted": "p.json"}
    for name, arm in unimed_clip.claim.arms.items():  # noqa: B007  (the patched run reads it)
        arm(Trial(seed=3, folder=tmp_path, prelude=prelude))
    captions = {
        name: {spec.partition("captions=")[2] for spec in configs[0].data["train"].split(",")}
        for name, configs in begun.items()
    }
    assert captions == {
        "few": {""},
        "one": {"", unimed_clip.TEMPLATE},
        "bank": {"", "b.json"},
        "k1": {"", "k.json"},
        "permuted": {"", "p.json"},
        "specialists": {"", "b.json"},
    }
    steps = {name: [config.recipe.steps for config in configs] for name, configs in begun.items()}
    assert steps.pop("specialists") == [unimed_clip.STEPS // 6] * 6
    assert set(map(tuple, steps.values())) == {(unimed_clip.STEPS,)}
    same = {
        str(replace(config, data={}, recipe=replace(config.recipe, lr=1.0, steps=1)))
        for configs in begun.values()
        for config in configs
    }
    assert len(same) == 1


def test_one_quick_arm_runs_and_is_measured(trial, tmp_path, brief):
    brief(unimed_clip)
    found = unimed_clip.claim.arms["bank"](replace(trial, folder=tmp_path))
    assert set(found) == {"unseen", "seen"}
    assert 0 <= found["unseen"] <= 1


@pytest.fixture
def cells(tmp_path, monkeypatch, data_pack):
    data_pack("blood-cells")
    monkeypatch.setattr(unimed_clip, "CUT", {"pairs": 5, "labelled": 5, "test": 5})
    trial = Trial(seed=100, folder=tmp_path, quick=True)
    return replace(trial, prelude=unimed_clip.cut(trial))


def test_cells_are_cut_out_and_a_part_of_them_has_captions(cells):
    pairs, labelled = (open_source(cells.prelude[name][0]) for name in ("pairs", "labelled"))
    assert {len(pairs), len(labelled)} == {3}
    assert pairs.schema()["labels.class"].classes == tuple(sorted(unimed_clip.CELLS))
    assert "texts.caption" in pairs.schema()
    assert "texts.caption" not in labelled.schema()


def test_arms_on_cells_differ_in_captions_and_rate_alone(tmp_path, monkeypatch):
    begun = {}

    def begin(config, folder):
        begun[name] = config
        raise StopIteration

    monkeypatch.setattr(unimed_clip, "run", begin)
    prelude = {"pairs": ["scenes:count=4"], "labelled": ["scenes:count=4"]}
    prelude |= {"bank": "b.json", "permuted": "p.json"}
    for name, arm in unimed_clip.real.arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=3, folder=tmp_path, prelude=prelude))
    captions = {name: c.data["train"].partition("captions=")[2] for name, c in begun.items()}
    assert captions == {
        "few": "",
        "one": unimed_clip.TEMPLATE,
        "bank": "b.json",
        "permuted": "p.json",
    }
    assert begun["permuted"].recipe.lr == begun["bank"].recipe.lr
    assert {c.recipe.steps for c in begun.values()} == {unimed_clip.CELL_STEPS}
    same = {str(replace(c, data={}, recipe=replace(c.recipe, lr=1.0))) for c in begun.values()}
    assert len(same) == 1


def test_cells_are_asked_for_in_many_draws_of_unread_sentences(cells):
    read = {text for texts in bank(cells, "bank").values() for text in texts}
    asked = [bank(cells, f"unseen{draw}") for draw in range(unimed_clip.CELL_DRAWS)]
    assert not read & {text for each in asked for texts in each.values() for text in texts}
    assert len({str(each) for each in asked}) > unimed_clip.CELL_DRAWS / 2
