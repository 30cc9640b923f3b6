"""ProAPO: what is searched and chosen, in whole runs and against a search that encodes every candidate anew."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.training.helpers import make_engine, read_log, tokenizer
from torch.nn.functional import cross_entropy, normalize

from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.adapt import proapo
from diptych.methods.adapt.proapo import INNER, ProAPO, descriptions
from diptych.methods.adapt.proapo.descriptions import Descriptions
from diptych.methods.adapt.proapo.evolution import Operators
from diptych.methods.adapt.proapo.fitness import Judge, Weights
from diptych.methods.adapt.proapo.units import table, units_of
from diptych.methods.make import Make
from diptych.testing import Toy

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
LIBRARY = "a {} | the {}. | one {}, seen from the left. | two of {} | {} here"


def make_method(**config):
    torch.manual_seed(0)
    make = Make(image="vit:image_size=32:patch=16:width=32:depth=1:heads=2", text="text:width=32:depth=1:heads=2",
                embed_dim=16, tokenizer=tokenizer())  # fmt: skip
    return ProAPO(ProAPO.configure({"templates": LIBRARY, **config}), make)


@pytest.fixture
def told(tmp_path):
    path = tmp_path / "told.json"
    content = {name: [f"A {name} circle.", "It is a thing.", f"A bar beside {name}."] for name in COLOURS}
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def engine(folder, method, seed=0):
    return make_engine(folder, method=method, source=Toy(16, ["images.main", "labels.class"]), seed=seed)


def losses(folder, stage):
    return [line["loss"] for line in read_log(folder) if line.get("stage") == stage]


def encoded(method, prompts):
    """The classes (C, E), every prompt encoded by itself."""
    model = method.model.eval()
    with torch.no_grad():
        each = [torch.stack([model.embed([prompt])[0] for prompt in lot]).mean(0) for lot in prompts]
    return normalize(torch.stack(each), dim=1)


def pictures(method):
    toy = Toy(16, ["images.main", "labels.class"])
    pixels = torch.stack([method.model.image.preprocess(toy[i].images["main"].decode()) for i in range(16)])
    with torch.no_grad():
        return method.model.eval().image_features(pixels), torch.arange(16) % 8


def test_what_is_logged_is_the_fitness_of_the_prompts_that_are_delivered(tmp_path, told):
    method = make_method(descriptions=told, rounds=1)
    engine(tmp_path / "run", method).run()
    model = method.deliver()
    images, labels = pictures(method)
    stages = {
        "templates": [[template.replace("{}", name) for template in model.templates] for name in COLOURS],
        "descriptions": [model.prompts_of(name) for name in COLOURS],
    }
    for stage, prompts in stages.items():
        logits = method.model.encoder.logit_scale() * images @ encoded(method, prompts).T
        top1 = 100 * (logits.argmax(1) == labels).float().mean()
        expected = 0.5 * top1 - 10 * cross_entropy(logits, labels)
        assert -losses(tmp_path / "run", stage)[-1] == pytest.approx(float(expected), abs=1e-3)
    torch.testing.assert_close(model.text_features(), encoded(method, stages["descriptions"]), atol=1e-5, rtol=1e-5)


def test_the_best_never_gets_worse_and_runs_repeat_by_their_seed(tmp_path, told):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        engine(tmp_path / folder, make_method(descriptions=told, rounds=1), seed).run()
    for stage in ("templates", "descriptions"):
        found = losses(tmp_path / "a", stage)
        assert found == sorted(found, reverse=True)
        assert found == losses(tmp_path / "b", stage)
    assert len(losses(tmp_path / "a", "templates")) == 8
    assert len(losses(tmp_path / "a", "descriptions")) % INNER == 0
    assert losses(tmp_path / "a", "descriptions") != losses(tmp_path / "c", "descriptions")


def test_templates_that_cost_two_classes_pictures_are_not_searched(tmp_path, monkeypatch):
    seen = {}
    method = make_method(templates="a photo of a {}. | one {} | two {} | three {} | four {}", most=3)

    def evolve(record, score, room, *rest):
        seen["free"], seen["first"] = room.free, record.rows.argmax(1)
        return record.rows[record.best()[0]]

    monkeypatch.setattr(proapo, "evolve", evolve)
    top1 = np.array([90.0, 65.0, 64.5, 95.0, 90.0])  # of 8 classes: 25.1 points may be lost
    scores = SimpleNamespace(top1=top1, fitness=np.array([1.0, 9.0, 99.0, 3.0, 2.0]))
    monkeypatch.setattr(Judge, "whole", lambda self, classes: scores)
    engine(tmp_path / "run", method).run()
    assert seen["free"].tolist() == [False, True, False, True, True]  # the third costs too much, three are asked for
    assert sorted(seen["first"].tolist()) == [1, 3, 4]


def test_a_library_of_the_baseline_gives_the_baseline(tmp_path):
    method = make_method(templates="plain")
    engine(tmp_path / "run", method).run()
    assert method.deliver().templates == ("a photo of a {}.",)
    assert method.deliver().units == {}
    assert len(set(losses(tmp_path / "run", "templates"))) == 1


def test_words_for_the_classes_enlarge_the_library():
    method, plain = make_method(types=["pet"], template="A photo of a {}."), make_method()
    for each in (method, plain):
        each.setup({"train": Toy(16, ["images.main", "labels.class"])})
    assert method.library[:2] == ("a photo of a {}.", "a photo of a {}, a type of pet.")
    assert method.model.template == "a photo of a {}."
    assert len(method.library) > len(plain.library) == 6


def test_without_sentences_there_is_one_stage():
    assert [stage.name for stage in make_method().stages()] == ["templates"]
    assert [stage.name for stage in make_method(synonyms="s.json").stages()] == ["templates", "descriptions"]


def test_a_run_broken_off_between_its_stages_goes_on_with_its_templates(tmp_path, told):
    whole = make_method(descriptions=told, rounds=1)
    engine(tmp_path / "a", whole).run()
    broken = engine(tmp_path / "b", make_method(descriptions=told, rounds=1))
    broken.method.search_descriptions = lambda run: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = engine(tmp_path / "b", make_method(descriptions=told, rounds=1))
    resumed.run(resume=True)
    assert resumed.method.deliver().remember() == whole.deliver().remember()
    again = engine(tmp_path / "b", make_method(descriptions=told, rounds=1))  # finished: nothing is searched
    again.run(resume=True)
    assert again.delivered().remember() == whole.deliver().remember()


def test_a_class_that_a_file_lacks_is_told_before_the_search(tmp_path, told):
    content = json.loads((tmp_path / "told.json").read_text())
    del content["purple"]
    (tmp_path / "told.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"told.json: there is no class 'purple'"):
        engine(tmp_path / "run", make_method(descriptions=told, rounds=1))


def test_a_run_is_loaded_without_the_files_that_it_was_searched_in(tmp_path, told):
    library = tmp_path / "library.txt"
    library.write_text("a {}\nthe {}\n")
    method = make_method(descriptions=told, templates=str(library), rounds=1)
    engine(tmp_path / "run", method).run()
    chosen = method.deliver()
    config = {"descriptions": told, "templates": str(library), "rounds": 1}
    description = store.describe("proapo", config, chosen, tokenizer(), chosen.image.preprocess)
    store.save_model(tmp_path / "model", description, chosen.state_dict())
    library.unlink()
    (tmp_path / "told.json").unlink()
    loaded = store.load(tmp_path / "model")
    assert loaded.classifier.remember() == chosen.remember()
    torch.testing.assert_close(loaded.classifier.text_features(), chosen.text_features())


def test_synonyms_are_searched_beside_the_names(tmp_path, told):
    path = tmp_path / "called.json"
    path.write_text(json.dumps({name: [f"{name} thing"] for name in COLOURS}))
    method = make_method(descriptions=told, synonyms=str(path), rounds=1)
    engine(tmp_path / "run", method).run()
    assert [len(units) for units in method.units] == [2 + 2 * 3] * 8
    held = [bits for bits in method.of_units if bits[1] or bits[5:].any()]
    assert held, "no synonym was chosen for any class"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"generations": 0}, "'generations' of method ProAPO is 0"),
        ({"groups": 0}, "'groups' of method ProAPO is 0"),
        ({"most": 0}, "'most' of method ProAPO is 0"),
        ({"types": "pet"}, "is 'pet'; it must be [text, …]"),
        ({"templates": "a photo"}, "unknown templates"),
        ({"w2": 1.0}, "unknown option"),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError) as refusal:
        make_method(**config).meet({"train": Toy(16, ["images.main", "labels.class"])})
    assert said in str(refusal.value)


# ---- the search for units, on vectors


def found(classes=6, right=3, wrong=3, seed=0):
    """A search among units that point to the picture of a class or to another's, and which of them are false."""
    rng = np.random.default_rng(seed)
    own = np.linalg.qr(rng.standard_normal((16, 16)))[0][:classes]
    units = [units_of(f"c{at}", [f"{i}." for i in range(right + wrong)]) for at in range(classes)]
    there, named = table(units)
    aim = np.stack(
        [
            np.concatenate(
                [
                    rng.standard_normal((1, 16)),
                    np.repeat(own[[at]], right, 0),
                    own[(at + rng.integers(1, classes, wrong)) % classes],
                ]
            )
            for at in range(classes)
        ]
    )
    vectors = torch.from_numpy(aim + 0.1 * rng.standard_normal(aim.shape)).float() * 0.5
    images = torch.from_numpy(own + 0.1 * rng.standard_normal(own.shape)).float()
    judge = Judge(normalize(images, dim=1), torch.arange(classes), 10.0, Weights())
    false = np.zeros_like(there)
    false[:, 1 + right :] = True
    return Descriptions(judge, vectors, there, named, seed), false


@pytest.mark.parametrize("seed", range(3))
def test_false_units_are_dropped_and_true_ones_kept(seed):
    search, false = found(seed=seed)
    for _ in range(3):
        search.evolve(np.arange(6), Operators(mutate=4), INNER)
    assert search.best[false].sum() <= 1
    assert search.best[~false & ~search.named].mean() > 0.3
    assert search.best.any(1).all()


def test_a_group_changes_its_own_classes_alone_and_scores_are_those_of_whole_sets():
    search, _ = found()
    before = search.best
    search.evolve(np.array([4, 1]), Operators(mutate=4), INNER)
    rows = search.record.rows.reshape(-1, *before.shape)
    assert (rows[:, [0, 2, 3, 5]] == before[[0, 2, 3, 5]]).all()
    whole = search.judge.whole(search.classes(search.record.rows)).fitness
    np.testing.assert_allclose(search.record.fitness, whole, atol=1e-4)
    first = len(search.record.rows)
    search.evolve(np.array([0, 2]), Operators(mutate=4), INNER)
    later = search.record.rows[first:].reshape(-1, *before.shape)
    assert (later[:, [3, 5]] == before[[3, 5]]).all()
    assert (later[:, [4, 1]] != before[[4, 1]]).any()  # one group goes on where the other has come to


def test_units_that_cost_too_much_are_not_added(monkeypatch):
    search, _ = found(right=1, wrong=6)
    group = np.array([0, 1, 2])
    start = search.named.copy()
    free = search._affordable(start, group)
    now = search.judge.whole(search.classes(start[None])).top1[0]
    for at, owner in enumerate(group):
        for unit in range(start.shape[1]):
            rows = start.copy()
            rows[owner, unit] = True
            top1 = search.judge.whole(search.classes(rows[None])).top1[0]
            assert free[at, unit] == (not start[owner, unit] and now - top1 < 200 / 6 + 0.1)


def test_classes_are_judged_with_all_their_units_against_what_is_best_so_far():
    search, _ = found()
    search.evolve(np.array([0, 1]), Operators(mutate=4), INNER)
    assert not np.array_equal(search.best, search.named)
    alone, baseline = search.alone()
    assert baseline == pytest.approx(search.record.fitness.max(), abs=1e-4)
    for at in range(6):
        rows = search.best.copy()
        rows[at] = search.there[at]
        assert alone[at] == pytest.approx(search.judge.whole(search.classes(rows[None])).fitness[0], abs=1e-4)


def test_the_worst_classes_that_gain_all_the_same_are_not_left_out(monkeypatch):
    search, _ = found()
    held = []
    monkeypatch.setattr(descriptions, "confused_groups", lambda *args: held.append(args[3].copy()) or [])
    for scores, expected in (([6, 7, 8, 9, 10, 11], []), ([1, 7, 4, 9, 10, 11], [0, 2]), ([5, 1, 2, 3, 9, 9], [1, 2])):
        monkeypatch.setattr(search, "alone", lambda scores=scores: (np.array(scores, float), 5.5))
        search.confused()
        assert np.flatnonzero(held[-1]).tolist() == expected


def test_groups_are_made_anew_in_each_round_from_what_is_best_by_then(tmp_path, told, monkeypatch):
    method, seen = make_method(descriptions=told, rounds=3), []
    groups = ProAPO.groups
    monkeypatch.setattr(ProAPO, "groups", lambda self, search: seen.append(search.best) or groups(self, search))
    engine(tmp_path / "run", method).run()
    assert len(seen) == 3
    assert not np.array_equal(seen[0], seen[1])


def test_the_search_begins_from_the_fittest_start():
    search, _ = found()
    from diptych.methods.adapt.proapo.units import starts
    from diptych.rng import generator

    rows = starts(search.there, search.named, generator(0, "proapo", "descriptions"))
    scores = search.judge.whole(search.classes(rows)).fitness
    assert np.array_equal(search.best, rows[scores.argmax()])
    assert search.record.fitness[0] == pytest.approx(scores.max())


def test_groups_of_both_kinds_come_in_turn_and_are_as_many_as_asked():
    method = make_method(groups=3)
    lots = SimpleNamespace(
        salient=lambda: [np.array([0, 1]), np.array([2])], confused=lambda: [np.array([3, 4]), np.array([5, 6])]
    )
    assert [group.tolist() for group in method.groups(lots)] == [[0, 1], [3, 4], [5, 6]]
