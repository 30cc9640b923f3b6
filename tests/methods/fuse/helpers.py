"""What the tests of methods that write share."""

import torch
from tests.factories import make_batch

from diptych.data.batch import Batch, Tokens


def batch(count=3):
    """Texts of 7, 4, 5, … ids, padded by zeros."""
    given = make_batch(count, {"main": 1})
    lengths = torch.tensor([7, 4, 5, 6, 3, 7])[:count]
    ids = torch.randint(4, 60, (count, 7), generator=torch.Generator().manual_seed(2))
    ids[torch.arange(7) >= lengths[:, None]] = 0
    texts = {"main": Tokens(ids[:, None], lengths[:, None])}
    return Batch(images=given.images, texts=texts, keys=given.keys)
