"""Methods on pairs are trained on clips: clip on the mean of the frames, coca on all of them in their
order."""

from dataclasses import replace

import pytest
import torch
from tests.factories import AT, make_batch, make_method, random_images
from torch.nn.functional import normalize

from diptych.data.batch import Images
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.store import describe, load, save_model
from diptych.towers.encoded import Encoded
from diptych.towers.nn.pooling import Poolers

V = 4
CONFIG = {"pooler": f"cascade:queries=3:heads=2:frames={V}", "clips": True}
COCA = {"text": "text:width=32:depth=2:heads=2:pooling=cls", **CONFIG}


def clips(count=3, seed=0):
    """A batch of texts, and clips (count, V, 3, 32, 32)."""
    torch.manual_seed(seed)
    return make_batch(count, images={}, texts={"main": 1}), random_images(count * V).unflatten(
        0, (count, V)
    )


def with_clips(pixels, given):
    return replace(given, images={"main": Images(pixels)})


def test_the_view_of_a_method_on_clips_gives_their_frames():
    made = make_method("clip", clips=True, augment=None)
    source = open_source(f"scenes:film={V}:count=2:size=32")
    view = made.views(made.stages()[0])[0]
    assert view.reads == ("images.frames",)
    found = view(source[0], None, None)["images.main"]
    assert found.shape == (V, 3, 32, 32)
    frames = source[0].images["frames"].frames()
    assert torch.equal(found[1], view.preprocess(frames[1]))
    assert make_method("clip").views(made.stages()[0])[0].reads == ("images.main",)


def test_clip_is_trained_on_the_mean_of_the_frames():
    made = make_method("clip", clips=True).eval()
    given, pixels = clips()
    batch = with_clips(pixels, given)
    found = made.encode(batch, AT)["image"]
    each = made.model.embed_images(pixels.flatten(0, 1)).unflatten(0, (-1, V))
    torch.testing.assert_close(found, normalize(each.mean(1), dim=1))
    made.loss(made.encode(batch, AT), batch, AT).terms["contrastive"].backward()
    assert made.model.image_projection.weight.grad.abs().sum() > 0
    back = made.encode(with_clips(pixels.flip(1), given), AT)["image"]
    torch.testing.assert_close(found, back)  # it does not know the order


def test_coca_is_trained_on_all_frames_in_their_order():
    made = make_method("coca", **COCA).eval()
    given, pixels = clips()
    encoder = made.model.encoder
    forth = made.encode(with_clips(pixels, given), AT)
    back = made.encode(with_clips(pixels.flip(1), given), AT)
    torch.testing.assert_close(forth["image"], back["image"])  # positions are 0 at the start
    with torch.no_grad():
        encoder.image_pooler.frames.normal_()
    forth = made.encode(with_clips(pixels, given), AT)
    back = made.encode(with_clips(pixels.flip(1), given), AT)
    assert (forth["image"] - back["image"]).abs().max() > 1e-3
    assert (forth["log_prob"] - back["log_prob"]).abs().max() > 1e-4
    # by hand: tokens of each frame with its position, side by side, pooled as those of one image
    tokens = torch.stack(
        [encoder.image(pixels[:, at]).patches + encoder.image_pooler.frames[at] for at in range(V)],
        1,
    ).flatten(1, 2)
    pooled = encoder.image_pooler(Encoded(tokens, tokens[:, 0])).pooled
    by_hand = normalize(encoder.image_projection(pooled), dim=1)
    torch.testing.assert_close(forth["image"], by_hand)
    torch.testing.assert_close(encoder.embed_images(pixels), by_hand)  # in evaluation too


def test_what_is_saved_embeds_and_writes_about_clips_in_their_order(tmp_path):
    made = make_method("coca", **COCA).eval()
    with torch.no_grad():
        made.model.encoder.image_pooler.frames.normal_()
    image = made.model.image
    description = describe("coca", CONFIG, made.model, made.make.tokenizer, image.preprocess)
    save_model(tmp_path, description, made.model.state_dict())
    model = load(tmp_path)
    _, pixels = clips()
    known = made.model.encoder.embed_images(pixels).detach()
    torch.testing.assert_close(model.embed_images(pixels), known)
    assert len(model.generate(pixels, max_tokens=2)) == len(pixels)


def test_positions_are_trained_on_clips_alone():
    assert make_method("coca", **COCA).model.encoder.image_pooler.frames.requires_grad
    images = make_method("coca", **{**COCA, "clips": False})
    assert not images.model.encoder.image_pooler.frames.requires_grad


def test_methods_that_read_images_in_their_own_way_refuse_clips():
    with pytest.raises(InputError, match="reads single images"):
        make_method("mod_x", clips=True)
    with pytest.raises(InputError, match="frames=8"):
        make_method("coca", **{**COCA, "pooler": "cascade:queries=3:heads=2"})
    made = make_method("coca", **COCA)
    given, pixels = clips()
    with pytest.raises(InputError, match=f"{V} have positions"):
        made.encode(with_clips(pixels.repeat(1, 2, 1, 1, 1), given), AT)


def test_a_pooler_with_positions_in_time_tells_the_direction_of_motion():
    """A thing is in one of P places, one further in each frame, forth or back."""
    torch.manual_seed(0)
    P, width = 6, 8
    places = torch.randn(P + 1, width)  # the last one is an empty cell

    def films(count):
        start = torch.randint(0, P - V + 1, (count,))
        at = start[:, None] + torch.arange(V)
        which = torch.full((count, V, P), P)
        which.scatter_(2, at[..., None], at[..., None])
        cells = torch.eye(P).repeat(count, V, 1, 1) @ torch.randn(P, width)
        forth = places[which] + cells
        return torch.cat([forth, forth.flip(1)]), torch.arange(2).repeat_interleave(count)

    tokens, label = films(32)
    accuracy = {}
    for frames in (0, V):
        poolers = Poolers(f"parallel:queries=0:heads=4:frames={frames}", width)
        head = torch.nn.Linear(width, 2)
        parameters = [*poolers.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=0.03)
        for _ in range(60):
            joined = poolers.in_time(tokens).flatten(1, 2)
            logits = head(poolers(Encoded(joined, joined[:, 0])).pooled)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, label).backward()
            optimizer.step()
        accuracy[frames] = float((logits.argmax(1) == label).float().mean())
    assert accuracy[V] > 0.95
    assert accuracy[0] < 0.65  # a film and its reverse have the same vector
