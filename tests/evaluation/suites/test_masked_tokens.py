"""Masked tokens: models that know them all, and one that knows the most common."""

import pytest
import torch

from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.testing import Toy

TOY = Toy(40, ["texts.caption"])
TEXTS = [TOY[index].captions()[0] for index in range(len(TOY))]
WORDS = build("bpe:vocab_size=320:context=24:special=mask", TEXTS)


class Model:
    """Gives the words of the rows that `known` lists, and one word for all others."""

    name = "model"
    tokenizer = WORDS

    def __init__(self, known=()):
        self.known = [torch.tensor(row) for row in WORDS.encode(known)]

    def fill(self, texts, images=None, *, k=5):
        raise NotImplementedError

    def masked_logits(self, ids, lengths):
        found = torch.zeros(*ids.shape, WORDS.vocab_size)
        found[..., WORDS.ids("a")[0]] = 1
        for row, shown in enumerate(ids):
            for known in self.known:
                own = shown[: len(known)]
                if len(known) == lengths[row] and bool(
                    ((own == known) | (own == WORDS.special_id("mask"))).all()
                ):
                    found[row, torch.arange(len(known)), known] = 2
        return found


def test_what_is_known_is_restored():
    found = evaluate(Model(TEXTS), TOY, ["masked_tokens"])["masked_tokens"]
    assert found["accuracy"] > 0.6  # several captions may look alike under their masks
    assert found["texts"] == 40
    assert found["tokens_per_text"] == sum(map(len, map(WORDS.ids, TEXTS))) / 40
    common = evaluate(Model(), TOY, ["masked_tokens"], rate=1.0)["masked_tokens"]
    assert common["n"] == sum(map(len, map(WORDS.ids, TEXTS)))
    assert common["accuracy"] <= common["chance_accuracy"]


def test_the_masked_ones_are_chosen_by_the_seed():
    once, again, other = (
        evaluate(Model(), TOY, ["masked_tokens"], seed=seed)["masked_tokens"] for seed in (0, 0, 1)
    )
    assert once == again
    assert other["protocol"] != once["protocol"]
    with pytest.raises(InputError, match="a share of the tokens"):
        evaluate(Model(), TOY, ["masked_tokens"], rate=0.0)
