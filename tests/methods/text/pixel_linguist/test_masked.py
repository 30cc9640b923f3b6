"""The stage of masked pixels against loops."""

import math

import pytest
import torch
from tests.factories import make_method

from diptych.data.batch import Batch, Images
from diptych.methods.base import At
from diptych.methods.make import NO_TOWER
from diptych.methods.text.pixel_linguist.masked import Decoder, sinusoids

STRIP = "vit:image_size=(16,128):patch=16:width=32:depth=1:heads=2:cls_position=true:pooling=mean"
SMALL = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "head_dropout": 0.0}
MASKED = At(0, 10, 0, 0, "masked")


def method_of():
    return make_method("pixel_linguist", image=STRIP, text=NO_TOWER, **SMALL).double().eval()


def batch_of(method, texts, hidden):
    found = [method.reader.read([text]) for text in texts]
    return Batch(
        images={"main": Images(torch.stack([each["images.main"] for each in found]))},
        fields={
            "real": torch.stack([each["fields.real"] for each in found]),
            "hidden": torch.tensor(hidden).bool(),
        },
        keys=[str(at) for at in range(len(texts))],
    )


def test_the_loss_is_the_mean_over_hidden_patches_with_text():
    method = method_of()
    hidden = [[0, 1, 0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1]]
    batch = batch_of(method, ["two cats", "a"], hidden)
    features = method.encode(batch, MASKED)
    assert features["count"].tolist() == [2.0, 1.0]  # the last patch of "a" is white
    loss = method.loss(features, batch, MASKED).terms["pixels"]
    torch.testing.assert_close(loss, features["error"].sum() / 3)


def test_hidden_and_white_pixels_are_not_seen():
    """Only the targets change with the pixels of hidden patches; white ones change nothing."""
    method = method_of()
    hidden = [[0, 1, 0, 1, 0, 0, 0, 0]]
    batch = batch_of(method, ["two cat"], hidden)
    tower = method.model.encoder.image
    real = batch.fields["real"][:, 0]

    def drawn(strips):
        encoded = tower(strips, hidden=batch.fields["hidden"], real=real)
        return method.decoder(encoded.tokens, batch.fields["hidden"], real, encoded.prefix)

    strips = batch.image.flat
    other = strips.clone()
    other[..., 16:32] = 9  # hidden
    other[..., 112:] = 9  # behind the separator
    count = int(real.sum())
    torch.testing.assert_close(drawn(other)[:, :count], drawn(strips)[:, :count])
    other[..., 0:16] = 9  # seen
    assert (drawn(other)[:, :count] - drawn(strips)[:, :count]).abs().max() > 1e-4


def test_states_go_to_the_places_that_they_are_of():
    """A decoder without layers: the state of the k-th patch that is seen stands at its place, the
    token at the others."""
    decoder = Decoder(4, 4, 1, 1, 6, 2).double()
    decoder.transformer = torch.nn.Identity()
    decoder.transformer.forward = lambda x, mask: x
    hidden = torch.tensor([[False, True, False, True, False, False]])
    states = torch.randn(1, 1 + 3, 4, dtype=torch.float64)
    real = torch.arange(6)[None] < 5
    found = decoder(states, hidden, real, 1)
    for place, row in ((0, 1), (2, 2), (4, 3)):
        x = decoder.enter(states[0, row]) + decoder.places[place]
        torch.testing.assert_close(found[0, place], decoder.leave(decoder.norm(x)))
    for place in (1, 3):
        x = decoder.token + decoder.places[place]
        torch.testing.assert_close(found[0, place], decoder.leave(decoder.norm(x)))


def test_positions_are_sines_and_cosines():
    found = sinusoids(5, 6)
    for place in range(5):
        for i in range(3):
            angle = place / 10_000 ** (i / 3)
            assert float(found[place, i]) == pytest.approx(math.sin(angle), abs=1e-5)
            assert float(found[place, 3 + i]) == pytest.approx(math.cos(angle), abs=1e-5)


def test_the_stage_trains_the_tower_and_the_decoder_alone():
    method = method_of().train()
    batch = batch_of(
        method, ["two cats", "a"], [[0, 1, 0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1]]
    )
    method.loss(method.encode(batch, MASKED), batch, MASKED).total.backward()
    with_gradient = {
        name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None
    }
    assert with_gradient == {"model", "decoder"}
    assert method.model.head[0].weight.grad is None
