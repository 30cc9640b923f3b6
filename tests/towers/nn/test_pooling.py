"""The Perceiver resampler: the order of what it reads, masks, positions."""

import pytest
import torch

from diptych.errors import InputError
from diptych.towers.encoded import Encoded
from diptych.towers.nn.pooling import Poolers, Resampler

SHAPE = {"queries": 3, "depth": 2, "heads": 2, "head_width": 4}


@torch.no_grad()
def test_the_order_of_frames_counts_where_they_have_positions():
    torch.manual_seed(0)
    media = torch.randn(2, 2, 4, 5, 8)  # two media of four frames
    plain = Resampler(8, **SHAPE)
    assert plain.read(media).shape == (2, 2, 3, 8)
    torch.testing.assert_close(plain.read(media), plain.read(media.flip(2)))
    placed = Resampler(8, **SHAPE, frames=4, media=2)
    assert (placed.read(media) - placed.read(media.flip(2))).abs().max() > 1e-3
    same = media[:, :1].expand(-1, 2, -1, -1, -1)
    assert (placed.read(same)[:, 0] - placed.read(same)[:, 1]).abs().max() > 1e-3
    with pytest.raises(InputError, match="5 frames were given, and 4 have positions"):
        placed.read(torch.zeros(1, 1, 5, 5, 8))


@torch.no_grad()
def test_what_is_masked_is_not_read():
    torch.manual_seed(0)
    resampler = Resampler(8, **SHAPE)
    x = torch.randn(2, 6, 8)
    real = torch.arange(6).expand(2, -1) < torch.tensor([[4], [6]])
    found = resampler(x, real)
    torch.testing.assert_close(found[0], resampler(x[:1, :4])[0])
    torch.testing.assert_close(found[1], resampler(x[1:])[0])


@torch.no_grad()
def test_of_one_pooler_the_first_query_is_the_image():
    torch.manual_seed(0)
    tokens = torch.randn(2, 5, 8)
    pooler = Poolers("one:queries=4:heads=2", 8)
    found = pooler(Encoded(tokens, tokens[:, 0]))
    whole = pooler.generative(tokens)
    torch.testing.assert_close(found.pooled, whole[:, 0])
    torch.testing.assert_close(found.memory, whole[:, 1:])
    again = pooler.for_decoder(Encoded(tokens, tokens[:, 0]))
    torch.testing.assert_close(again.queries, found.queries)
    torch.testing.assert_close(again.pooled, tokens[:, 0])
    alone = pooler(Encoded(tokens[:, 1:2], tokens[:, 0])).pooled
    torch.testing.assert_close(pooler.alone(tokens)[:, 1], alone)
    with pytest.raises(InputError, match="give two at least"):
        Poolers("one:queries=1", 8)
