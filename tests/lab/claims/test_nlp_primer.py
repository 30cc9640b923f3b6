"""The claim on labels and texts asks what it says: things that are no labels, twins that differ in one fact,
arms that differ in the objective alone."""

from dataclasses import replace

import pytest

from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.lab.claim import Trial, best, block, find
from diptych.lab.claims import nlp_primer
from diptych.methods.text.nlp_primer.label_views import content_words
from diptych.training.config import resolve
from diptych.training.run import build_method


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("primer"), quick=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TEXTS", "LABELLED", "TWINS"):
            patch.setattr(nlp_primer, name, 2000)
        return replace(trial, prelude=nlp_primer.draw(trial))


def test_the_floor_is_of_the_arms_that_learn_labels():
    claim = block(find("nlp_primer"))
    assert claim.learning == ("cless", "labels_only")
    assert claim.mechanism == ("dealt",)


def test_things_that_are_no_labels_are_in_texts(trial):
    learnt = list(open_source(trial.prelude["train"]))
    labels = {label for sample in learnt for label in sample.captions("label")}
    words = {word for sample in learnt for word in content_words(sample.captions()[0])}
    assert not labels & nlp_primer.HELD_OUT
    assert words & nlp_primer.HELD_OUT
    held = {
        label
        for sample in open_source(trial.prelude["labelled"])
        for label in sample.captions("label")
    }
    assert held & nlp_primer.HELD_OUT
    assert held - nlp_primer.HELD_OUT


def core(text):
    """The words of a text without its filler."""
    filler = max((each for each in nlp_primer.FILLERS if text.startswith(each)), key=len)
    return text.removeprefix(filler).split(), filler


def test_twins_differ_in_one_word_or_in_the_order_of_two(trial):
    for sample in open_source(trial.prelude["twins"]):
        (text, filler), (other, another), (negated, second), (swapped, third) = (
            core(sample.captions(role)[0])
            for role in ("caption", "paraphrase", "negated", "swapped")
        )
        assert set(content_words(" ".join(text))) == set(content_words(" ".join(other)))
        assert text != other
        assert filler == second == third != another
        assert sum(a != b for a, b in zip(text, negated, strict=True)) == 1
        assert sum(a != b for a, b in zip(text, swapped, strict=True)) == 2
        assert sorted(text) == sorted(swapped)


def test_arms_differ_in_the_objective_alone(trial, tmp_path, monkeypatch):
    begun = []
    changed = []

    def run(config, folder, change):
        begun.append(config)
        changed.append(change is not None)

    monkeypatch.setattr(nlp_primer, "run", run)
    monkeypatch.setattr(nlp_primer, "load", lambda folder: None)
    monkeypatch.setattr(nlp_primer, "measure", lambda model, trial, matches: {})
    for arm in nlp_primer.claim.arms.values():
        arm(replace(trial, folder=tmp_path, quick=False))
    found = dict(zip(nlp_primer.claim.arms, begun, strict=True))
    objectives = {name: config.config["objective"] for name, config in found.items()}
    assert objectives == {**nlp_primer.OBJECTIVES, "dealt": nlp_primer.OBJECTIVES["cless"]}
    assert dict(zip(nlp_primer.claim.arms, changed, strict=True)) == {
        name: name == "dealt" for name in nlp_primer.claim.arms
    }
    assert found["dealt"].recipe == found["cless"].recipe
    steps = {name: config.recipe.steps for name, config in found.items()}
    assert steps == {**nlp_primer.STEPS, "dealt": nlp_primer.STEPS["cless"]}
    rates = {name: best(nlp_primer.RATES[name]) for name in nlp_primer.OBJECTIVES}
    for name, config in found.items():
        assert config.recipe.lr == rates.get(name, rates["cless"])
    for pair in nlp_primer.claim.headline:  # both sides take as many steps
        assert steps[pair.arm] == steps[pair.other]
    same = {
        str(replace(config, config={}, recipe=replace(config.recipe, lr=1.0, steps=1)))
        for config in begun
    }
    assert len(same) == 1


def test_dealt_texts_have_their_labels_and_the_words_of_others(trial):
    settings = resolve(
        "nlp_primer",
        {"train": trial.prelude["train"]},
        text_tower=nlp_primer.TOWER,
        embed_dim=nlp_primer.WIDTH,
        tokenizer="chars:context=96",
        config={"objective": nlp_primer.OBJECTIVES["cless"]},
    )
    source = open_source(trial.prelude["train"])
    method, _ = build_method(settings, build(settings.tokenizer))
    nlp_primer.dealing(trial)(method)
    method.setup({"train": source})
    alike = 0
    for at in range(50):
        sample = source[at]
        (text,) = sample.captions("caption")
        real, words = method.view.all_positives(sample, text)
        assert set(real) == set(sample.captions("label"))
        assert words == method.view.all_positives(sample, text)[1]
        alike += set(words) == set(content_words(text))
    assert alike < 5


def test_rare_labels_are_the_tail_and_the_unseen_by_their_number():
    rows = {
        "tail": {"labels": 1, "average_precision": 0.9},
        "unseen": {"labels": 3, "average_precision": 0.1},
        "head": {"labels": 5, "average_precision": 1.0},
    }
    found = nlp_primer.precisions(rows)
    assert found["rare_ap"] == pytest.approx(0.3)
    assert (found["tail_ap"], found["unseen_ap"], found["head_ap"]) == (0.9, 0.1, 1.0)


@pytest.mark.parametrize("name", ["cless", "deletion"])
def test_an_arm_measures_what_is_judged(trial, tmp_path, name):
    found = nlp_primer.claim.arms[name](replace(trial, folder=tmp_path))
    assert nlp_primer.claim.needs(name) <= set(found)
    assert all(0 <= value <= 1 for value in found.values())
