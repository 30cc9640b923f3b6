"""DreamLIP: which texts an image gets, one loss a column of texts, groups of its own patches."""

import numpy as np
import pytest
import torch
from tests.factories import AT, IMAGE, make_batch, make_method, tokenizer

from diptych.data.sample import BadSample, Sample, Text
from diptych.data.sources import open_source
from diptych.data.views import SentenceView, sentences
from diptych.errors import InputError
from diptych.methods.pretrain import dreamlip
from diptych.methods.pretrain.dreamlip import DreamLIP
from diptych.objectives import info_nce
from diptych.objectives.grouping import grouped, grouping


def method(**config):
    return make_method(
        DreamLIP, image=IMAGE.replace("patch=16", "patch=8"), embed_dim=24, **config
    ).eval()


def batch(count=5, drawn=3):
    return make_batch(count, {"main": 1}, {"main": 1, "sentences": drawn})


@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_the_loss_is_a_mean_over_columns_and_the_groups(negatives):
    held, given = (
        method(negatives=negatives, sigma=0.2, contrastive=0.5, subcaption=2.0, scale=8.0),
        batch(),
    )
    with torch.no_grad():
        features = held.encode(given, AT)
        assert {name: tuple(value.shape) for name, value in features.items()} == {
            "image": (5, 24),
            "texts": (5, 4, 24),
            "groups": (5, 4, 24),
        }
        model = held.model
        torch.testing.assert_close(features["image"], model.embed_images(given.image.flat))
        torch.testing.assert_close(features["texts"][:, 0], model.embed_texts(*given.text.flat))
        patches = model.project_image(model.encode_image(given.image.flat).patches)
        patches = torch.nn.functional.normalize(patches, dim=-1)
        assert patches.shape == (5, 16, 24)
        torch.testing.assert_close(
            features["groups"], grouped(features["texts"], patches, sigma=0.2)
        )
        losses = held.loss(features, given, AT)
    columns = [info_nce(features["image"], features["texts"][:, k], 8.0) for k in range(4)]
    torch.testing.assert_close(losses.terms["contrastive"], 0.5 * sum(columns) / 4)
    local = grouping(features["texts"], features["groups"], 1 / 0.07, negatives=negatives)
    torch.testing.assert_close(losses.terms["subcaption"], 2 * local)


def test_without_the_grouping_there_are_no_groups_and_no_scale_of_theirs():
    held = method(subcaption=0.0)
    assert "groups" not in held.encode(batch(), AT)
    assert not hasattr(held, "local")
    assert held.loss(held.encode(batch(), AT), batch(), AT).terms.keys() == {"contrastive"}


def test_patches_below_an_even_share_are_cut_off_by_default():
    held, given = method(), batch()
    with torch.no_grad():
        features = held.encode(given, AT)
        patches = held.model.project_image(held.model.encode_image(given.image.flat).patches)
        expected = grouped(
            features["texts"], torch.nn.functional.normalize(patches, dim=-1), sigma=1 / 16
        )
    assert patches.shape[1:] == (16, 24)
    torch.testing.assert_close(features["groups"], expected)


def test_a_tower_that_leaves_patches_out_in_training_groups_those_it_keeps(monkeypatch):
    """As `tiny` does, which `--init tiny` starts from."""
    dropping = IMAGE.replace("patch=16", "patch=8:patch_dropout=0.25")
    held = make_method(DreamLIP, image=dropping, embed_dim=24)
    seen = []
    monkeypatch.setattr(
        dreamlip,
        "grouped",
        lambda texts, patches, **options: seen.append((patches, options)) or texts,
    )
    held.train().encode(batch(), AT)
    [(patches, options)] = seen
    assert patches.shape == (5, 12, 24)
    assert options["sigma"] == 1 / 12


# ---- sentences


def test_sentences_end_at_full_stops_line_breaks_and_tags():
    said = "A red cat. It sits on a mat.\n\nIt weighs 3.5 kg, i.e. much.</s> .. "
    assert sentences(said) == ["A red cat", "It sits on a mat", "It weighs 3.5 kg, i.e. much"]
    assert sentences("  \n . ") == []


def drawn(texts, seed=0, progress=0.0, **options):
    sample = Sample(key="a", source="s", texts=[Text(text=text, role=role) for role, text in texts])
    view = SentenceView(tokenizer=tokenizer(), **options)
    ids = view(sample, np.random.default_rng(seed), progress)["texts.sentences"]
    return [tokenizer().decode(each).strip() for each in ids]


TEXTS = (
    ("caption", "a red circle"),
    ("long", "a blue square. a green circle"),
    ("long", "a red star"),
    ("web", "left"),
)


def test_sentences_are_drawn_without_repetition_where_there_are_enough():
    every = {"a red circle", "a blue square", "a green circle", "a red star"}
    for seed in range(10):
        assert set(drawn(TEXTS, seed, count=4)) == every
    assert len(set(map(tuple, (drawn(TEXTS, seed, count=2) for seed in range(20))))) > 5
    seen = {text for seed in range(30) for text in drawn(TEXTS, seed, count=1)}
    assert seen == every  # the published code never draws the last one
    assert len(drawn(TEXTS[:1], count=3)) == 3
    assert drawn(TEXTS, progress=None, count=2) == ["a red circle", "a blue square"]


def test_neighbours_are_merged_within_a_role():
    assert set(drawn(TEXTS, count=3, merged=2)) == {
        "a red circle",
        "a blue square. a green circle",
        "a green circle. a red star",
    }


def test_a_sample_without_a_sentence_is_bad():
    with pytest.raises(BadSample, match="no sentence"):
        drawn((("caption", " . "),))


def test_scenes_give_what_it_reads_and_the_raw_caption_stands_first():
    held = method(pool="caption+long", sentences=3)
    views = held.views(held.stages()[0])
    assert [view.gives for view in views] == [
        ("images.main",),
        ("texts.main",),
        ("texts.sentences",),
    ]
    assert set(held.needs(held.stages()[0])) == {"images.main", "texts.caption", "texts.long"}
    sample = open_source("scenes:count=1:texts=caption+long")[0]
    given = views[1](sample, np.random.default_rng(0), 0.0)["texts.main"]
    assert tokenizer().decode(given[0]) == tokenizer().decode(
        tokenizer().encode(sample.captions())[0]
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"sentences": 0}, "'sentences' of method DreamLIP is 0"),
        ({"sigma": 2.0}, "'sigma' of method DreamLIP is 2.0"),
        ({"subcaption": -1.0}, "'subcaption' of method DreamLIP is -1.0"),
        ({"role": "caption;long"}, "one role"),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        DreamLIP.configure(config)
