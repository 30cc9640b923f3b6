"""What the loss sees of a batch on several ranks: the whole world's, as one process would have made
it."""

import torch

from diptych import collectives
from diptych.data.batch import Batch, Tokens
from diptych.training.step import gather_batch

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
