"""What the loss sees of a batch on several ranks: the whole world's, as one process would have made it."""

import torch

from diptych import collectives
from diptych.data.batch import Batch, Ragged
from diptych.training.step import gather_batch

COUNTS = {0: (2, 0, 3), 1: (1, 2)}  # rows of each sample, on each rank


def ragged_of_this_rank():
    counts = COUNTS[collectives.rank()]
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    values = 100 * collectives.rank() + torch.arange(sum(counts))[:, None].double()
    keys = tuple(f"{collectives.rank()}.{number}" for number in range(len(counts)))
    found = gather_batch(Batch(fields={"boxes": Ragged(values, owner)}, keys=keys))
    return found.keys, found.fields["boxes"].values, found.fields["boxes"].owner


def test_rows_of_varying_number_keep_their_samples_when_gathered(two):
    for keys, values, owner in two.run(ragged_of_this_rank):
        assert keys == ("0.0", "0.1", "0.2", "1.0", "1.1")
        assert values[:, 0].tolist() == [0, 1, 2, 3, 4, 100, 101, 102]
        assert owner.tolist() == [0, 0, 2, 2, 2, 3, 4, 4]
