"""Variations of an item in one batch: the sheet's figures, and which samples meet."""

import numpy as np
import pytest
import torch
from tests.factories import make_method
from tests.training.helpers import make_engine, read_log

from diptych.data.batch import Batch, Tokens
from diptych.data.columns import WithColumns
from diptych.data.plan import Grouped, Shuffled
from diptych.errors import InputError
from diptych.evaluation.suites.composition import report
from diptych.methods.base import At
from diptych.methods.robust.generative_negatives import GenerativeNegatives
from diptych.objectives import info_nce
from diptych.testing import Toy


def variations(count=48, group=4, iva=20.0):
    """Toys in groups, with scores."""
    columns = {
        "item": np.arange(count) // group,
        "itm": np.arange(count) % group + 0.5,
        "iva": np.full(count, iva),
    }
    return WithColumns(Toy(count), columns)


def method(**config):
    return make_method(GenerativeNegatives, **config)


def engine(folder, made, pairs=True, source=None, **options):
    found = make_engine(folder, method=made, source=source or variations(), **options)
    if pairs:
        found.feed.given["pairs"] = Toy(40)
        made.setup(found.feed.given)
    return found


def test_one_sibling_pair_carries_all_of_the_loss():
    """Cosines .3 of pairs and .1 of others at scale 100; then .29 of one pair of siblings."""
    cosines = torch.full((4, 4), 0.1, dtype=torch.float64) + 0.2 * torch.eye(4, dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    assert float(info_nce(cosines, eye, torch.tensor(100.0))) == pytest.approx(6.18346e-9, rel=1e-5)
    cosines[0, 1] = cosines[1, 0] = 0.29
    assert float(info_nce(cosines, eye, torch.tensor(100.0))) == pytest.approx(
        0.156630848, abs=1e-9
    )


def test_four_way_measures_are_those_of_the_published_code():
    table = np.array(
        [[0.9, 0.2, 0.1, 0], [0.8, 0.7, 0.1, 0], [0.1, 0.2, 0.6, 0.65], [0, 0.1, 0.3, 0.5]]
    )
    found = report([table], [("", "a", "a", "a")])
    assert [found[name] for name in ("text_1", "image_1", "group_1")] == [0.5, 0.75, 0.25]
    assert [found[name] for name in ("text_all", "image_all", "group_all")] == [0, 0, 0]


def test_variations_of_an_item_meet_beside_ordinary_pairs(tmp_path):
    made = method(share=0.5, variations=2)
    seen = []
    loss = made.loss

    def watching(features, batch, at):
        seen.append({name: list(part.keys) for name, part in batch.items()})
        return loss(features, batch, at)

    made.loss = watching
    engine(tmp_path, made, recipe={"batch_size": 16, "steps": 3}).run()
    for batch in seen:
        assert len(batch["pairs"]) == 8
        items = [int(key) // 4 for key in batch["train"]]
        assert items[::2] == items[1::2]
        assert len(set(items)) == len(items) // 2


def test_the_loss_is_that_of_all_pairs_of_the_batch_at_once():
    made = method()
    made.setup({"train": Toy(8), "pairs": Toy(8)})
    vectors = torch.nn.functional.normalize(
        torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    parts = {"train": slice(0, 3), "pairs": slice(3, 7)}
    features = {
        f"{stream}.{name}": vectors[number, rows]
        for stream, rows in parts.items()
        for number, name in enumerate(("image", "text"))
    }
    batch = {
        stream: Batch(
            texts={
                "main": Tokens(torch.ones(n, 1, 2 + n, dtype=torch.int64), torch.full((n, 1), 2))
            },
            keys=tuple(map(str, range(n))),
        )
        for stream, n in (("train", 3), ("pairs", 4))
    }
    found = made.loss(features, batch, At(0, 1, 0, 0)).total
    expected = info_nce(vectors[0], vectors[1], made.model.logit_scale())
    torch.testing.assert_close(found, expected)


def test_what_matches_badly_or_hardly_varies_is_left_out(tmp_path):
    made = method(min_itm=1.0)
    source = made.samples(made.stages()[0], "train", variations())
    assert (source.labels("itm") > 1).all()
    assert len(source) == 36
    assert made.samples(made.stages()[0], "pairs", Toy(8)).name == "toy"
    with pytest.raises(
        InputError, match="no variation of toy has itm above 0 and iva above 14; lower"
    ):
        method().samples(made.stages()[0], "train", variations(iva=14.0))


def test_without_a_group_each_variation_is_by_itself():
    made = method(group="", itm=None, iva=None)
    made.setup({"train": Toy(8)})
    assert made.stages()[0].plan == Shuffled()
    assert made.needs(made.stages()[0]) == ("images.main", "texts.caption")
    assert method().stages()[0].plan["train"] == Grouped("item", 2, "itm")


def test_variations_alone_make_batches_too(tmp_path):
    made = method(variations=4)
    made.setup({"train": variations()})
    engine(tmp_path, made, pairs=False, recipe={"batch_size": 16, "steps": 2}).run()
    assert len([line for line in read_log(tmp_path) if "loss" in line]) == 2


def test_captions_alone_vary_where_images_of_siblings_are_no_rows(tmp_path):
    """Of six variations of two items the first two keep their images; all six captions compete."""
    made = method(edited="texts", variations=3, share=0.5)
    image, text = torch.nn.functional.normalize(torch.randn(2, 7, 32), dim=-1)
    batch = Batch(
        texts={"main": Tokens(torch.ones(7, 1, 2, dtype=torch.int64), torch.full((7, 1), 2))},
        fields={"group": torch.tensor([5, 5, 5, 8, 8, 8, -1])},
        keys=tuple(map(str, range(7))),
    )
    scale = made.model.logit_scale().detach()
    rows, others = torch.tensor([0, 3, 6]), torch.tensor([1, 2, 4, 5])
    logits = scale * image[rows] @ torch.cat([text[rows], text[others]]).T
    cross = torch.nn.functional.cross_entropy
    expected = (cross(logits, torch.arange(3)) + cross(logits[:, :3].T, torch.arange(3))) / 2
    found = made.loss({"image": image, "text": text}, batch, At(0, 1, 0, 0)).total
    torch.testing.assert_close(found, expected)
    engine(tmp_path, made, recipe={"batch_size": 12, "steps": 2}).run()
    with pytest.raises(InputError, match="give a group, and leave out duplicates"):
        method(edited="texts", group="")
