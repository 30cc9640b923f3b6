"""What the loss sees of a batch on several ranks: the whole world's, as one process would have made
it."""

import numpy as np
import pytest
import torch

from diptych import collectives
from diptych.data.batch import Batch, Tokens
from diptych.errors import InputError
from diptych.methods.base import Losses
from diptych.training.log import RESERVED
from diptych.training.step import checked, gather_batch

TEXTS = {0: [[5, 6, 7], [8, 0, 0]], 1: [[9, 4]]}  # ids of each sample, on each rank: 0 is padding


def gathered_on_this_rank():
    rank = collectives.rank()
    ids = torch.tensor(TEXTS[rank])[:, None]
    tokens = Tokens(ids, (ids != 0).sum(-1))
    keys = tuple(f"{rank}.{number}" for number in range(len(ids)))
    found = gather_batch(
        Batch(texts={"main": tokens}, fields={"class": torch.full((len(ids),), rank)}, keys=keys)
    )
    return found.keys, found.text.ids[:, 0], found.text.lengths[:, 0], found.fields["class"]


def test_texts_of_several_lengths_and_fields_are_gathered_in_rank_order(two):
    for keys, ids, lengths, classes in two.run(gathered_on_this_rank):
        assert keys == ("0.0", "0.1", "1.0")
        assert ids.tolist() == [[5, 6, 7], [8, 0, 0], [9, 4, 0]]
        assert lengths.tolist() == [3, 1, 2]
        assert classes.tolist() == [0, 0, 1]


ONE = torch.ones(())


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"a": ONE}, "loss of Mine returns a dict; return Losses"),
        (ONE, "loss of Mine returns a Tensor; return Losses"),
        (Losses({}), "loss of Mine has no term"),
        (Losses(ONE), "loss of Mine has no term"),
        (Losses({"a": 1.0}), "loss of Mine has no term"),
        (Losses({"a": torch.ones(3)}), "has the term 'a' of shape .3,.; give one number"),
        (Losses({"a": ONE}, ONE), "logs a Tensor; give a mapping"),
        (Losses({"a": ONE}, {"b": torch.ones(2)}), "logs 'b' of shape .2,.; log a number"),
        (Losses({"a": ONE}, {"b": np.float32(1)}), "logs 'b', a float32; log a number"),
        *(
            (Losses({"a": ONE}, {name: ONE}), f"logs '{name}', a name of")
            for name in sorted(RESERVED)
        ),
    ],
)
def test_a_loss_that_is_none_is_told(losses, message):
    with pytest.raises(InputError, match=message):
        checked(losses, "loss of Mine")


def test_a_loss_may_log_numbers_and_tensors_of_one():
    losses = Losses({"a": ONE, "b": torch.ones(1)}, {"scale": ONE, "mine/loss": 1.5, "count": 3})
    assert checked(losses, "loss of Mine") is losses
