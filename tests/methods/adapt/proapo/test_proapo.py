"""ProAPO: what is searched and chosen, in whole runs and on embeddings alone."""

import json
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.factories import make_method, tokenizer
from tests.training.helpers import make_engine, read_log
from torch.nn.functional import cross_entropy, normalize

from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.adapt import proapo
from diptych.methods.adapt.proapo import GROUP_GENERATIONS, ProAPO, descriptions
from diptych.methods.adapt.proapo.descriptions import DescriptionSearch
from diptych.methods.adapt.proapo.evolution import Operators
from diptych.methods.adapt.proapo.fitness import PromptScorer, Weights
from diptych.methods.adapt.proapo.units import initial_sets, unit_masks, units_of
from diptych.rng import generator
from diptych.testing import Toy

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SOURCES = {"train": Toy(16, ["images.main", "labels.class"])}
LIBRARY = "a {} | the {}. | one {}, seen from the left. | two of {} | {} here"


def proapo_method(**config):
    return make_method(ProAPO, embed_dim=16, **{"templates": LIBRARY, **config})


@pytest.fixture
def sentences(tmp_path):
    path = tmp_path / "sentences.json"
    content = {
        name: [f"A {name} circle.", "It is a thing.", f"A bar beside {name}."] for name in COLOURS
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def engine(folder, method, seed=0):
    return make_engine(folder, method=method, source=SOURCES["train"], seed=seed)


def losses(folder, stage):
    return [line["loss"] for line in read_log(folder) if line.get("stage") == stage]


def encoded(method, prompts):
    """The class embeddings (C, E) of each class's prompts, every prompt encoded by itself."""
    model = method.model.eval()
    means = []
    with torch.no_grad():
        for own in prompts:
            embeddings = torch.stack([model.embed([prompt])[0] for prompt in own])
            means.append(embeddings.mean(0))
    return normalize(torch.stack(means), dim=1)


def training_images(method):
    """The embeddings of the training images, and their labels."""
    toy = SOURCES["train"]
    pixels = torch.stack(
        [method.model.image.preprocess(toy[i].images["main"].decode()) for i in range(16)]
    )
    with torch.no_grad():
        return method.model.eval().image_features(pixels), torch.arange(16) % 8


def test_what_is_logged_is_the_fitness_of_the_prompts_that_are_delivered(tmp_path, sentences):
    method = proapo_method(descriptions=sentences, rounds=1)
    engine(tmp_path / "run", method).run()
    model = method.deliver()
    images, labels = training_images(method)
    stages = {
        "templates": [
            [template.replace("{}", name) for template in model.templates] for name in COLOURS
        ],
        "descriptions": [model.prompts.of(name) for name in COLOURS],
    }
    for stage, prompts in stages.items():
        logits = method.model.encoder.logit_scale() * images @ encoded(method, prompts).T
        top1 = 100 * (logits.argmax(1) == labels).float().mean()
        expected = 0.5 * top1 - 10 * cross_entropy(logits, labels)
        assert -losses(tmp_path / "run", stage)[-1] == pytest.approx(float(expected), abs=1e-3)
    torch.testing.assert_close(
        model.text_features(), encoded(method, stages["descriptions"]), atol=1e-5, rtol=1e-5
    )


def test_the_best_never_gets_worse_and_runs_repeat_by_their_seed(tmp_path, sentences):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        engine(tmp_path / folder, proapo_method(descriptions=sentences, rounds=1), seed).run()
    for stage in ("templates", "descriptions"):
        found = losses(tmp_path / "a", stage)
        assert found == sorted(found, reverse=True)
        assert found == losses(tmp_path / "b", stage)
    assert len(losses(tmp_path / "a", "templates")) == 8
    assert len(losses(tmp_path / "a", "descriptions")) % GROUP_GENERATIONS == 0
    assert losses(tmp_path / "a", "descriptions") != losses(tmp_path / "c", "descriptions")


def test_templates_that_cost_the_top1_of_two_classes_are_not_searched(tmp_path, monkeypatch):
    seen = {}
    method = proapo_method(
        templates="a photo of a {}. | one {} | two {} | three {} | four {}", max_templates=3
    )

    def evolve(archive, score, space, *rest):
        seen["free"] = space.free
        seen["first"] = archive.rows.argmax(1)
        return archive.rows[archive.best()[0]]

    monkeypatch.setattr(proapo, "evolve", evolve)
    top1 = np.array([90.0, 65.0, 64.5, 95.0, 90.0])  # of 8 classes: 25.1 points may be lost
    scores = SimpleNamespace(top1=top1, fitness=np.array([1.0, 9.0, 99.0, 3.0, 2.0]))
    monkeypatch.setattr(PromptScorer, "score", lambda self, classes: scores)
    engine(tmp_path / "run", method).run()
    assert seen["free"].tolist() == [
        False,
        True,
        False,
        True,
        True,
    ]  # the third costs too much, and `most` is three
    assert sorted(seen["first"].tolist()) == [1, 3, 4]


def test_a_library_of_the_baseline_gives_the_baseline(tmp_path):
    method = proapo_method(templates="plain")
    engine(tmp_path / "run", method).run()
    assert method.deliver().templates == ("a photo of a {}.",)
    assert method.deliver().units == {}
    assert len(set(losses(tmp_path / "run", "templates"))) == 1


def test_words_for_the_classes_enlarge_the_library():
    method = proapo_method(types=["pet"], template="A photo of a {}.")
    plain = proapo_method()
    method.setup(SOURCES)
    plain.setup(SOURCES)
    assert method.library[:2] == ("a photo of a {}.", "a photo of a {}, a type of pet.")
    assert method.model.template == "a photo of a {}."
    assert len(method.library) > len(plain.library) == 6


def test_without_sentences_there_is_one_stage():
    assert [stage.name for stage in proapo_method().stages()] == ["templates"]
    assert [stage.name for stage in proapo_method(synonyms="s.json").stages()] == [
        "templates",
        "descriptions",
    ]


def test_a_run_broken_off_between_its_stages_goes_on_with_its_templates(tmp_path, sentences):
    whole = proapo_method(descriptions=sentences, rounds=1)
    engine(tmp_path / "a", whole).run()
    broken = engine(tmp_path / "b", proapo_method(descriptions=sentences, rounds=1))
    broken.method.search_descriptions = lambda run: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = engine(tmp_path / "b", proapo_method(descriptions=sentences, rounds=1))
    resumed.run(resume=True)
    assert resumed.method.deliver().extra_state() == whole.deliver().extra_state()
    again = engine(
        tmp_path / "b", proapo_method(descriptions=sentences, rounds=1)
    )  # finished: nothing is searched
    again.run(resume=True)
    assert again.delivered().extra_state() == whole.deliver().extra_state()


def test_a_class_that_a_file_lacks_is_refused_before_the_search(tmp_path, sentences):
    content = json.loads((tmp_path / "sentences.json").read_text())
    del content["purple"]
    (tmp_path / "sentences.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"sentences.json: there is no class 'purple'"):
        engine(tmp_path / "run", proapo_method(descriptions=sentences, rounds=1))


@pytest.mark.parametrize("option", ["descriptions", "synonyms"])
def test_missing_scikit_learn_is_refused_before_the_search(
    tmp_path, sentences, monkeypatch, option
):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(
        InputError, match=r"needs scikit-learn; install it with: pip install 'diptych\[lab\]'"
    ):
        engine(tmp_path / "run", proapo_method(**{option: sentences}))
    engine(tmp_path / "run", proapo_method()).run()  # templates alone do not need it


def test_a_warning_counts_prompts_that_are_cut(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        engine(tmp_path / "run", proapo_method(templates=f"a {{}} | {'very ' * 30}{{}}")).run()
    assert "8 of 24 prompts are longer than the context of 24 and are cut" in caplog.messages


def test_a_run_is_loaded_without_the_files_that_it_read(tmp_path, sentences):
    library = tmp_path / "library.txt"
    library.write_text("a {}\nthe {}\n")
    method = proapo_method(descriptions=sentences, templates=str(library), rounds=1)
    engine(tmp_path / "run", method).run()
    chosen = method.deliver()
    config = {"descriptions": sentences, "templates": str(library), "rounds": 1}
    description = store.describe("proapo", config, chosen, tokenizer(), chosen.image.preprocess)
    store.save_model(tmp_path / "model", description, chosen.state_dict())
    library.unlink()
    (tmp_path / "sentences.json").unlink()
    loaded = store.load(tmp_path / "model")
    assert loaded.classifier.extra_state() == chosen.extra_state()
    torch.testing.assert_close(loaded.classifier.text_features(), chosen.text_features())


def test_synonyms_are_searched_as_well_as_the_class_names(tmp_path, sentences):
    path = tmp_path / "synonyms.json"
    path.write_text(json.dumps({name: [f"{name} thing"] for name in COLOURS}))
    method = proapo_method(descriptions=sentences, synonyms=str(path), rounds=1)
    engine(tmp_path / "run", method).run()
    assert [len(units) for units in method.units] == [2 + 2 * 3] * 8
    assert any(bits[1] or bits[5:].any() for bits in method.of_units), (
        "no synonym was chosen for any class"
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"generations": 0}, "'generations' of method ProAPO is 0"),
        ({"groups": 0}, "'groups' of method ProAPO is 0"),
        ({"max_templates": 0}, "'max_templates' of method ProAPO is 0"),
        ({"types": "pet"}, "is 'pet'; it must be [text, …]"),
        ({"templates": "a photo"}, "unknown templates"),
        ({"w2": 1.0}, "unknown option"),
    ],
)
def test_bad_options_are_refused(config, message):
    with pytest.raises(InputError) as refusal:
        proapo_method(**config).setup(SOURCES)
    assert message in str(refusal.value)


# ---- the search for units, on embeddings


def make_search(classes=6, right=3, wrong=3, seed=0):
    """A search over units near the image of their class or near another's, and the mask of the
    latter (C, K)."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((16, 16)))[0][:classes]
    units = [
        units_of(f"c{number}", [f"{i}." for i in range(right + wrong)]) for number in range(classes)
    ]
    exists, name_only = unit_masks(units)
    means = []
    for number in range(classes):
        name = rng.standard_normal((1, 16))
        true = np.repeat(centres[[number]], right, 0)
        false = centres[(number + rng.integers(1, classes, wrong)) % classes]
        means.append(np.concatenate([name, true, false]))
    embeddings = np.stack(means)
    embeddings = (
        torch.from_numpy(embeddings + 0.1 * rng.standard_normal(embeddings.shape)).float() * 0.5
    )
    images = torch.from_numpy(centres + 0.1 * rng.standard_normal(centres.shape)).float()
    scorer = PromptScorer(normalize(images, dim=1), torch.arange(classes), 10.0, Weights())
    is_false = np.zeros_like(exists)
    is_false[:, 1 + right :] = True
    return DescriptionSearch(scorer, embeddings, exists, name_only, seed), is_false


@pytest.mark.parametrize("seed", range(3))
def test_false_units_are_dropped_and_true_ones_kept(seed):
    search, false = make_search(seed=seed)
    for _ in range(3):
        search.evolve(np.arange(6), Operators(mutate=4), GROUP_GENERATIONS)
    assert search.best[false].sum() <= 1
    assert search.best[~false & ~search.name_only].mean() > 0.3
    assert search.best.any(1).all()


def test_a_group_changes_only_its_own_classes_and_scores_are_those_of_whole_sets():
    search, _ = make_search()
    before = search.best
    search.evolve(np.array([4, 1]), Operators(mutate=4), GROUP_GENERATIONS)
    rows = search.archive.rows.reshape(-1, *before.shape)
    assert (rows[:, [0, 2, 3, 5]] == before[[0, 2, 3, 5]]).all()
    whole = search.scorer.score(search.class_embeddings(search.archive.rows)).fitness
    np.testing.assert_allclose(search.archive.fitness, whole, atol=1e-4)
    first = len(search.archive.rows)
    search.evolve(np.array([0, 2]), Operators(mutate=4), GROUP_GENERATIONS)
    later = search.archive.rows[first:].reshape(-1, *before.shape)
    assert (later[:, [3, 5]] == before[[3, 5]]).all()
    assert (
        later[:, [4, 1]] != before[[4, 1]]
    ).any()  # a group starts from the result of the one before


def test_units_that_cost_too_much_are_not_added():
    search, _ = make_search(right=1, wrong=6)
    group = np.array([0, 1, 2])
    start = search.name_only.copy()
    free = search._tolerated(start, group)
    before = search.scorer.score(search.class_embeddings(start[None])).top1[0]
    for row, owner in enumerate(group):
        for unit in range(start.shape[1]):
            rows = start.copy()
            rows[owner, unit] = True
            top1 = search.scorer.score(search.class_embeddings(rows[None])).top1[0]
            assert free[row, unit] == (not start[owner, unit] and before - top1 < 200 / 6 + 0.1)


def test_each_class_is_scored_with_all_its_units_and_the_others_as_in_the_best_set():
    search, _ = make_search()
    search.evolve(np.array([0, 1]), Operators(mutate=4), GROUP_GENERATIONS)
    assert not np.array_equal(search.best, search.name_only)
    fitness, baseline = search.full_list_fitness()
    assert baseline == pytest.approx(search.archive.fitness.max(), abs=1e-4)
    for number in range(6):
        rows = search.best.copy()
        rows[number] = search.exists[number]
        expected = search.scorer.score(search.class_embeddings(rows[None])).fitness[0]
        assert fitness[number] == pytest.approx(expected, abs=1e-4)


def test_classes_that_gain_least_are_excluded_only_where_they_lose(monkeypatch):
    search, _ = make_search()
    excluded = []
    monkeypatch.setattr(
        descriptions, "confused_groups", lambda *args: excluded.append(args[3].copy()) or []
    )
    for scores, expected in (
        ([6, 7, 8, 9, 10, 11], []),
        ([1, 7, 4, 9, 10, 11], [0, 2]),
        ([5, 1, 2, 3, 9, 9], [1, 2]),
    ):
        monkeypatch.setattr(
            search, "full_list_fitness", lambda scores=scores: (np.array(scores, float), 5.5)
        )
        search.confused()
        assert np.flatnonzero(excluded[-1]).tolist() == expected


def test_groups_are_selected_anew_in_each_round_from_the_best_set(tmp_path, sentences, monkeypatch):
    method = proapo_method(descriptions=sentences, rounds=3)
    seen = []
    select_groups = ProAPO.select_groups

    def recorded(self, search):
        seen.append(search.best)
        return select_groups(self, search)

    monkeypatch.setattr(ProAPO, "select_groups", recorded)
    engine(tmp_path / "run", method).run()
    assert len(seen) == 3
    assert not np.array_equal(seen[0], seen[1])


def test_the_search_starts_from_the_fittest_initial_set():
    search, _ = make_search()
    rows = initial_sets(search.exists, search.name_only, generator(0, "proapo", "descriptions"))
    scores = search.scorer.score(search.class_embeddings(rows)).fitness
    assert np.array_equal(search.best, rows[scores.argmax()])
    assert search.archive.fitness[0] == pytest.approx(scores.max())


def test_groups_of_both_kinds_alternate_up_to_the_number_asked_for():
    method = proapo_method(groups=3)
    search = SimpleNamespace(
        salient=lambda: [np.array([0, 1]), np.array([2])],
        confused=lambda: [np.array([3, 4]), np.array([5, 6])],
    )
    assert [group.tolist() for group in method.select_groups(search)] == [[0, 1], [3, 4], [5, 6]]
