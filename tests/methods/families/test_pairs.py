"""Methods on pairs: several texts an image."""

from dataclasses import replace

import pytest
import torch
from tests.factories import AT, make_method
from tests.training.helpers import make_engine, read_log
from torch.nn.functional import normalize

from diptych.data.batch import Batch, Tokens
from diptych.errors import InputError
from diptych.methods.pretrain.clip import CLIP
from diptych.objectives import info_nce
from diptych.testing import check as suite


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_loss_of_several_texts_is_the_mean_of_their_losses(name):
    one, three = make_method(name), make_method(name, role="caption;caption;caption")
    generator = torch.Generator().manual_seed(0)
    image, *texts = (normalize(torch.randn(12, 32, generator=generator), dim=1) for _ in range(4))
    alone = [one.loss({"image": image, "text": text}, None, AT).total for text in texts]
    together = three.loss(
        {"image": image, "text": texts[0], "text2": texts[1], "text3": texts[2]}, None, AT
    )
    assert set(together.terms) == {"contrastive"}
    torch.testing.assert_close(together.total, torch.stack(alone).mean())


def test_several_texts_are_read_encoded_and_cut_alike(tmp_path):
    """Gradient caching takes the same steps; a text given three times is that text."""
    logs = []
    for roles, chunk in (("caption;*;caption", None), ("caption;*;caption", 60), ("caption", None)):
        out = tmp_path / f"{roles.count(';')} {chunk}"
        make_engine(out, method=make_method(role=roles), recipe={"steps": 3, "chunk": chunk}).run()
        logs.append([line["loss"] for line in read_log(out) if "loss" in line])
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)
    assert logs[0] == pytest.approx(logs[2], abs=1e-5)


def equal_texts(*words):
    """Texts (B, 1, L), padded by zeros."""
    longest = max(map(len, words))
    ids = torch.tensor([[*word, *[0] * (longest - len(word))] for word in words])[:, None]
    return Batch(
        texts={"main": Tokens(ids, torch.tensor([[len(word)] for word in words]))},
        keys=("k",) * len(words),
    )


@pytest.mark.parametrize("name", ["clip", "align", "siglip"])
def test_equal_texts_are_right_as_well_or_neither(name):
    """By hand: rows 0 and 2 have one text. Apart they are each other's negatives."""
    generator = torch.Generator().manual_seed(0)
    image, text = (normalize(torch.randn(3, 32, generator=generator), dim=1) for _ in range(2))
    text = text[[0, 1, 0]]
    batch = equal_texts((5, 6), (5, 6, 7), (5, 6))
    found = {}
    for how in ("apart", "positives", "masked"):
        options = {"smoothing": 0.0} if name == "align" else {}
        method = make_method(name, duplicates=how, **options)
        found[how] = method.loss({"image": image, "text": text}, batch, AT).total
    scale = method.model.logit_scale()
    logits = scale * image @ text.T
    same = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    own = torch.eye(3)
    if name == "siglip":
        logits = logits + method.model.logit_bias
        expected = {
            "apart": -((2 * own - 1) * logits).sigmoid().log().sum() / 3,
            "positives": -((2 * same - 1) * logits).sigmoid().log().sum() / 3,
            "masked": -(((2 * own - 1) * logits).sigmoid().log() * (own + 1 - same)).sum() / 3,
        }
    else:
        even = same / same.sum(1, keepdim=True)
        left = logits.masked_fill((same - own).bool(), -torch.inf)
        both = 0.5 if name == "clip" else 1.0
        expected = {
            how: both
            * sum(
                (m.logsumexp(1) - (t * z).sum(1)).mean()
                for m, z in ((kept, logits), (kept.T, logits.T))
            )
            for how, t, kept in (
                ("apart", own, logits),
                ("positives", even, logits),
                ("masked", own, left),
            )
        }
    for how, value in expected.items():
        torch.testing.assert_close(found[how], value, msg=how)


def test_duplicates_of_a_long_captions_sentences_are_told_column_by_column():
    batch = Batch(
        texts={
            "main": equal_texts((5,), (6,), (7,)).texts["main"],
            "sentences": Tokens(
                torch.tensor([[[5], [6]], [[5], [7]], [[5], [8]]]),
                torch.ones(3, 2, dtype=torch.long),
            ),
        },
        keys=("a", "b", "c"),
    )
    generator = torch.Generator().manual_seed(0)
    image, *texts = (normalize(torch.randn(3, 32, generator=generator), dim=1) for _ in range(4))
    features = {"image": image, "texts": torch.stack(texts, 1)}
    method = make_method("dreamlip", duplicates="masked", subcaption=0.0)
    scale = method.model.logit_scale()
    expected = (
        info_nce(image, texts[0], scale),
        0.0,
        info_nce(image, texts[2], scale),
    )  # of column 1 nothing competes
    torch.testing.assert_close(method.loss(features, batch, AT).total, sum(expected) / 3)


@pytest.mark.parametrize("how", ["positives", "masked"])
def test_duplicates_in_pieces(how):
    """Texts are compared over the whole batch, however it is encoded."""

    class Equal(CLIP):
        pass

    small = CLIP.presets["small"]
    Equal.presets = {"small": replace(small, config={**small.config, "duplicates": how})}
    suite.cached_gradients_are_the_whole_batchs(suite.Subject(Equal))


def test_an_unknown_way_with_duplicates_is_refused():
    with pytest.raises(InputError, match="did you mean 'masked'"):
        make_method(duplicates="maskt")
