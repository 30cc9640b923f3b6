"""Composed retrieval against loops: what the gallery is, what is left out of it, groups and
kinds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import WIDTH, Dot, Fake, Rows, digits

from diptych.data.sample import Field, Sample, Text
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.composed import composed

FIELDS = {
    "images.reference": Field(kind="image", optional=True),
    "texts.instruction": Field(kind="text", optional=True),
    "labels.group": Field(kind="int"),
    "labels.edit": Field(kind="int", classes=("add", "remove")),
}


class Composer(Fake):
    """An index of two vectors a dot, a query that is the reference's vector plus that of the
    digits."""

    def __init__(self, table):
        super().__init__(table)
        generator = torch.Generator().manual_seed(5)
        self.tokens = torch.stack(
            [self.vectors, torch.randn(self.vectors.shape, generator=generator) / WIDTH], 1
        )
        self.indexed = []

    def index(self, images, *, batch_size):
        self.indexed += self.numbers(images).tolist()
        return self.tokens[self.numbers(images)]

    def compose(self, images, texts, *, batch_size):
        self.seen += texts
        return self.query(self.numbers(images), [digits(text) for text in texts])

    def query(self, references, numbers):
        return torch.nn.functional.normalize(
            self.vectors[references] + self.vectors[numbers], dim=1
        )


def triple(key, target, reference=None, *texts, group=-1, edit=-1, damage=""):
    images = {"main": Dot(target, damage)} | (
        {} if reference is None else {"reference": Dot(reference)}
    )
    said = [Text(text=text, role="instruction") for text in texts]
    return Sample(
        key=key, source="rows", images=images, texts=said, labels={"group": group, "edit": edit}
    )


def source(samples, **fields):
    return Rows(samples, fields={**FIELDS, **fields})


def table(seed=0, count=20):
    return np.random.default_rng(seed).normal(size=(count, WIDTH))


def slow(model, triples, gallery, groups, keep):
    """Ranks in the gallery, and in the group where there is one, by looking at one image after the
    other. Scores closer than the stated tolerance, a millionth of the norms, are ties."""
    found = {"all": [], "subset": []}
    for target, reference, text, group in triples:
        query = model.query(torch.tensor([reference]), [digits(text)])[0].double()
        score = {
            image: max(float(query @ each) for each in model.tokens[image].double())
            for image in gallery
        }
        out = set() if keep or reference == target else {reference}
        for name, images in (("all", gallery), ("subset", groups.get(group, ()))):
            compared = [image for image in images if image not in out]
            if images:
                longest = max(
                    float(each.norm())
                    for image in compared
                    for each in model.tokens[image].double()
                )
                bar = score[target] - 1e-6 * longest * float(query.norm())
                found[name].append(
                    1 + sum(score[each] >= bar for each in compared if each != target)
                )
    return found


@settings(max_examples=30, deadline=None)
@given(
    triples=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 19), st.integers(-1, 2)),
        min_size=1,
        max_size=8,
    ),
    alone=st.lists(st.tuples(st.integers(0, 14), st.integers(-1, 2)), max_size=4),
    keep=st.booleans(),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 50),
)
def test_equals_the_loop_over_queries(triples, alone, keep, batch_size, seed):
    model = Composer(table(seed))
    samples = [
        triple(f"t{at}", target, reference, f"make it {number}", group=group)
        for at, (target, reference, number, group) in enumerate(triples)
    ]
    samples += [triple(f"a{at}", number, group=group) for at, (number, group) in enumerate(alone)]
    samples.insert(1, triple("bad", 13, 14, "make it 1", group=0, damage="html"))
    groups = {}
    for target, reference, _, group in triples:
        groups.setdefault(group, set()).update({target, reference})
    for number, group in alone:
        groups.setdefault(group, set()).add(number)
    groups.pop(-1, None)
    gallery = {number for each in triples for number in each[:2]} | {number for number, _ in alone}
    result = composed(model, source(samples), ks=(1, 5), keep_reference=keep, batch_size=batch_size)
    ranks = slow(model, [(t, r, str(n), g) for t, r, n, g in triples], gallery, groups, keep)
    assert (result["n"], result["gallery"], result["bad"]) == (
        len(triples),
        len(gallery),
        {"html": 1},
    )
    for name, recalled in (("all", (1, 5)), ("subset", (1, 2, 3))):
        for k in recalled if ranks[name] else ():
            assert result[f"{name}_r{k}"] == pytest.approx((np.array(ranks[name]) <= k).mean())
    assert ("subset_r1" in result) == bool(ranks["subset"])
    if ranks["subset"]:
        assert result["mean"] == pytest.approx((result["all_r5"] + result["subset_r1"]) / 2)
    assert len(model.indexed) <= len(samples) + len(triples)


def test_each_content_is_one_image_of_the_gallery():
    model = Composer(table())
    samples = [
        triple("a", 1, 0, "3"),
        triple("b", 2, 0, "4"),
        triple("c", 1, 2, "5"),
        triple("d", 0),
        triple("e", 6),
    ]
    result = composed(model, source(samples), batch_size=2)
    assert result["gallery"] == 4
    assert sorted(set(model.indexed)) == [0, 1, 2, 6]
    assert result["chance_all_r1"] == pytest.approx(1 / 3)  # of four, less the reference
    kept = composed(model, source(samples), keep_reference=True)
    assert kept["chance_all_r1"] == pytest.approx(1 / 4)
    assert kept["protocol"] != result["protocol"]


def test_instructions_of_a_sample_are_joined_in_order():
    model = Composer(table())
    composed(model, source([triple("a", 1, 0, "is blue", "has no 7"), triple("b", 2, 1, "is 8")]))
    assert model.seen == ["is blue and has no 7", "is 8"]


def test_kinds_of_edits_stand_in_a_table():
    """The query is the reference's vector plus the target's own, so that some are found and some
    not."""
    model = Composer(np.eye(20)[:, :WIDTH] + np.eye(20, WIDTH, -WIDTH))
    model.tokens = model.vectors[:, None]
    samples = [
        triple("a", 1, 0, "1", edit=0),
        triple("b", 2, 3, "4", edit=0),
        triple("c", 5, 3, "5", edit=1),
    ]
    result = composed(model, source(samples), ks=(1, 5))
    assert {kind: row["n"] for kind, row in result["by_edit"].items()} == {"add": 2, "remove": 1}
    assert result["by_edit"]["add"]["all_r1"] == 0.5
    assert result["by_edit"]["remove"]["all_r1"] == 1.0
    assert "subset_r1" not in result["by_edit"]["remove"]


def test_fields_abilities_and_roles_are_asked_for_before():
    samples = [triple("a", 1, 0, "1")]
    with pytest.raises(InputError, match="composed needs images.reference"):
        evaluate(Composer(table()), Rows(samples), ["composed"])
    with pytest.raises(InputError, match="needs a model with index, which Fake has not"):
        evaluate(Fake(table()), source(samples), ["composed"])
    with pytest.raises(
        InputError, match="unknown label of source 'rows' for groups 'grup'; did you mean 'group'"
    ):
        evaluate(Composer(table()), source(samples), ["composed"], siblings="grup")
    with pytest.raises(InputError, match="unknown role of the texts of source 'rows' 'instrction'"):
        evaluate(Composer(table()), source(samples), ["composed"], role="instrction")
    fields = {name: field for name, field in FIELDS.items() if name != "texts.instruction"}
    with pytest.raises(InputError, match="unknown role of the instructions 'instruction'"):
        evaluate(Composer(table()), Rows(samples, fields=fields), ["composed"])
    with pytest.raises(
        InputError, match="no sample of 'rows' has a reference and texts of role 'instruction'"
    ):
        evaluate(Composer(table()), source([triple("a", 1), triple("b", 2)]), ["composed"])
