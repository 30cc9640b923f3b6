"""INTRA: the loss against loops in float64 and the anchors, maps, verbs and what is frozen."""

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import diptych
from diptych.data.worlds.tools.words import SYNONYMS, related
from diptych.errors import InputError
from diptych.methods.dense.intra import under
from diptych.methods.dense.intra.model import VerbMap
from diptych.methods.dense.intra.relations import (
    VerbView,
    related_contrast,
    relation_table,
    synonym_lists,
)
from diptych.objectives import nt_xent
from diptych.objectives.multiview import supervised
from diptych.rng import generator
from diptych.testing import Toy

Z = torch.tensor([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]], dtype=torch.float64)
Y = torch.tensor([0, 0, 1, 1])
THINGS = torch.tensor([0, 1, 0, 1])
NAMES = ("hold", "carry", "cut with")


def by_loops(z, labels, table, tau):
    """The sum over pairs, as it is printed."""
    total = 0.0
    for i in range(len(z)):
        if labels[i] < 0:
            continue
        others = sum(int(labels[j] == labels[i]) for j in range(len(z)) if j != i)
        every = [float(z[i] @ z[k]) / tau for k in range(len(z)) if k != i]
        normaliser = np.log(np.sum(np.exp(every)))
        for j in range(len(z)):
            if j != i and labels[j] >= 0 and table[labels[i], labels[j]]:
                total -= (float(z[i] @ z[j]) / tau - normaliser) / max(1, others)
    return total / len(z)


@pytest.mark.parametrize(
    ("labels", "table", "mean"),
    [(Y, torch.eye(2), 0.172804), (Y, torch.ones(2, 2), 8.5184), (THINGS, torch.eye(2), 4.1728)],
)
def test_anchors(labels, table, mean):
    found = related_contrast(Z, labels, table, 0.2)
    assert float(found) == pytest.approx(mean, abs=5e-5)
    assert float(found) == pytest.approx(by_loops(Z, labels, table, 0.2), rel=1e-9)


def test_totals_of_the_anchors():
    things = 4 * related_contrast(Z, THINGS, torch.eye(2), 0.2)
    for table, total in ((torch.eye(2), 16.8640), (torch.ones(2, 2), 25.2096)):
        found = related_contrast(Z, Y, table, 0.2) + things
        assert float(found) == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_as_loops_in_float64_with_gradients(seed):
    torch.manual_seed(seed)
    z = normalize(torch.randn(10, 5, dtype=torch.float64), dim=-1).requires_grad_()
    labels = torch.randint(-1, 4, (10,))
    table = (torch.rand(4, 4) < 0.4).double()
    table = ((table + table.T + torch.eye(4)) > 0).double()
    found = related_contrast(z, labels, table, 0.3, tile=3)
    assert float(found.detach()) == pytest.approx(
        by_loops(z.detach(), labels, table, 0.3), rel=1e-9
    )
    assert torch.autograd.gradcheck(lambda x: related_contrast(x, labels, table, 0.3), (z,))


def test_without_relations_it_is_the_supervised_contrast():
    torch.manual_seed(0)
    views = normalize(torch.randn(2, 6, 8, dtype=torch.float64), dim=-1)
    labels = torch.tensor([0, 1, 0, 2, 2, 3])
    found = related_contrast(views.flatten(0, 1), labels.repeat(2), torch.eye(4), 0.2)
    torch.testing.assert_close(found, supervised(views, labels, 0.2))


def test_of_one_pair_of_views_a_verb_it_is_nt_xent():
    torch.manual_seed(0)
    one, other = normalize(torch.randn(2, 6, 8, dtype=torch.float64), dim=-1)
    found = related_contrast(torch.cat([one, other]), torch.arange(6).repeat(2), torch.eye(6), 0.2)
    torch.testing.assert_close(found, nt_xent(one, other, 0.2))


def test_patches_are_averaged_under_the_map_over_all_positions():
    patches = torch.tensor([[[1.0, 0], [0, 1], [1, 1], [0, 0]]])
    found = under(patches, torch.tensor([[[1.0, 0.5], [0, 0.25]]]))
    assert found.tolist() == [[0.25, 0.125]]


def test_a_map_is_from_0_to_1_and_0_where_all_is_alike():
    torch.manual_seed(0)
    made = VerbMap(16, 12, depth=1, heads=2)
    patches = torch.randn(3, 12, 16)
    text = torch.randn(3, 12)
    heat = made(patches, (3, 4), text)
    assert heat.shape == (3, 3, 4)
    torch.testing.assert_close(heat.amin((1, 2)), torch.zeros(3))
    torch.testing.assert_close(heat.amax((1, 2)), torch.ones(3), atol=1e-4, rtol=0)
    assert not torch.equal(heat, made(patches, (3, 4), text.flip(0)))  # the verb counts
    for parameter in made.convolutions.parameters():
        torch.nn.init.zeros_(parameter)
    flat = made(patches, (3, 4), text)
    assert torch.equal(flat, torch.zeros(3, 3, 4))
    with pytest.raises(InputError, match="heads is 3 and the image tower is 16 wide"):
        VerbMap(16, 12, depth=1, heads=3)


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def test_relations_are_symmetric_and_of_every_verb_with_itself(tmp_path):
    path = write(tmp_path / "related.json", {"Hold": ["carry"]})
    table = relation_table(NAMES, path)
    assert table.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert relation_table(NAMES, None).tolist() == np.eye(3).tolist()
    bad = write(tmp_path / "bad.json", {"hold": ["carri"]})
    with pytest.raises(InputError, match="did you mean 'carry'"):
        relation_table(NAMES, bad)


def test_synonyms_are_no_verbs(tmp_path):
    path = write(tmp_path / "words.json", {"hold": ["grasp", "clasp"]})
    assert synonym_lists(NAMES, path) == [("grasp", "clasp"), (), ()]
    assert synonym_lists(NAMES, None) == [(), (), ()]
    bad = write(tmp_path / "bad.json", {"hold": ["Carry"]})
    with pytest.raises(InputError, match="'Carry' of 'hold' is a verb of its own"):
        synonym_lists(NAMES, bad)


def test_a_synonym_takes_the_verbs_place_in_training_alone():
    tokenizer = diptych.load("tiny").tokenizer
    view = VerbView(
        label="verb", names=NAMES, synonyms=[("grasp",), (), ()], swap=0.2, tokenizer=tokenizer
    )
    sample = Toy(1, ["labels.verb"])[0]  # of verb 0
    ids = {text: tokenizer.encode([text])[0] for text in ("hold", "grasp")}
    read = [view(sample, generator(0, "draw", at), 0.5)["texts.main"][0] for at in range(400)]
    assert 50 < sum(row == ids["grasp"] for row in read) < 110
    assert all(row in ids.values() for row in read)
    assert view(sample, generator(0, "draw", 0), None)["texts.main"][0] == ids["hold"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intra")
    config = {
        "relations": write(folder / "related.json", related()),
        "synonyms": write(
            folder / "words.json", {verb: list(own) for verb, own in SYNONYMS.items()}
        ),
        "depth": 1,
        "width": 16,
    }
    source = "tools:count=32:size=64"
    diptych.train(
        "intra",
        source,
        folder / "run",
        init="tiny",
        config=config,
        steps=2,
        batch_size=16,
        quiet=True,
    )
    return diptych.load(folder / "run")


def test_the_towers_stay_and_the_map_is_asked_with_any_text(trained):
    given = diptych.load("tiny")
    pixels = torch.randint(0, 255, (3, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(trained.embed_images(pixels), given.embed_images(pixels))
    assert torch.equal(trained.embed_texts(["hold"]), given.embed_texts(["hold"]))
    heat = trained.heat(pixels, ["hold", "throw a"])
    assert heat.shape == (3, 2, 8, 8)
    torch.testing.assert_close(heat.amin((2, 3)), torch.zeros(3, 2))
    assert not torch.equal(heat[:, 0], heat[:, 1])
    one = trained.heat(pixels[1], "throw a")
    torch.testing.assert_close(one[0, 0], heat[1, 1], atol=1e-5, rtol=0)


def test_it_is_measured_by_maps(trained):
    found = diptych.evaluate(trained, "tools:count=4:actor=false:split=test", ["affordance"])
    assert set(found["affordance"]) >= {"kld", "sim", "nss"}


def test_labels_without_names_are_refused(tmp_path):
    class Numbers(Toy):
        def _field(self, name):
            field = super()._field(name)
            return type(field)(kind=field.kind) if name == "labels.verb" else field

    source = Numbers(16, ["images.main", "labels.verb", "labels.object"])
    with pytest.raises(InputError, match="labels.verb of toy has no names"):
        diptych.train("intra", source, tmp_path / "run", init="tiny", steps=1, batch_size=8)
