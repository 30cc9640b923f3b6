"""Snapshots at the ends of cycles, and their ensemble."""

import pytest
import torch
from tests.factories import make_method
from torch.nn.functional import normalize

from diptych.methods.base import At
from diptych.methods.text.grounded_sentences import GroundedSentences
from diptych.methods.text.grounded_sentences.snapshots import TRAINED
from diptych.towers.nn.parts import Momentum
from diptych.training.schedule import factor

TEXT = "grounded_sentences.gru:hidden=8:attention=4:heads=2"
IDS = torch.randint(1, 50, (3, 7))
LENGTHS = torch.tensor([7, 2, 5])


def made(cycles=3):
    return make_method(GroundedSentences, text=TEXT, cycles=cycles, crops=1).eval()


def move(method, seed):
    """Other weights, as a step would give."""
    torch.manual_seed(seed)
    for name in TRAINED:
        for parameter in getattr(method.model, name).parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)


def filled(cycles=3):
    """A method after its cycles, and the encoder's vectors at the end of each."""
    method = made(cycles)
    texts = []
    images = []
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    for seed in range(cycles):
        move(method, seed)
        texts.append(method.model.embed_texts(IDS, LENGTHS).detach())
        images.append(method.model.embed_images(pixels).detach())
        method.delivered.take()
    move(method, 99)
    return method, texts, images, pixels


def test_the_rate_follows_the_published_cycle():
    rates = [
        1e-3 * factor(step, 200, schedule="cyclic:cycles=2", min_lr=1e-3)
        for step in (0, 25, 50, 75, 100)
    ]
    assert rates == pytest.approx([1e-6, 5.005e-4, 1e-3, 5.005e-4, 1e-6])


@pytest.mark.parametrize(("steps", "cycles"), [(12, 3), (10, 4), (8, 8), (100, 1), (3, 5)])
def test_one_is_taken_where_each_cycle_ends(steps, cycles):
    method = made(cycles)
    seen = []
    for step in range(steps):
        before = int(method.delivered.taken)
        method.after_step({}, At(step, steps, 0, 0))
        seen += [step + 1] * (int(method.delivered.taken) - before)
    assert seen[-1] == steps
    if steps >= cycles:
        assert seen == [-(-steps * number // cycles) for number in range(1, cycles + 1)]


def test_a_skipped_step_delays_a_snapshot_and_loses_none():
    method = made(2)
    for step in (0, 1, 2, 4, 5, 6, 7):
        method.after_step({}, At(step, 8, 0, 0))
        assert int(method.delivered.taken) == (0 if step < 4 else 1 if step < 7 else 2)


def test_the_ensemble_is_the_direction_of_the_sum_of_unit_vectors():
    method, texts, images, pixels = filled()
    encoder = method.delivered.ensemble()
    with torch.no_grad():
        torch.testing.assert_close(encoder.embed_texts(IDS, LENGTHS), normalize(sum(texts), dim=1))
        torch.testing.assert_close(encoder.embed_images(pixels), normalize(sum(images), dim=1))


def test_the_ensemble_of_one_is_the_snapshot_and_that_of_none_the_encoder():
    method, texts, _, _ = filled(1)
    with torch.no_grad():
        torch.testing.assert_close(method.delivered.ensemble().embed_texts(IDS, LENGTHS), texts[0])
        other = made()
        found = other.delivered.ensemble().embed_texts(IDS, LENGTHS)
        torch.testing.assert_close(found, other.model.embed_texts(IDS, LENGTHS))
    assert other.delivered.spaces == ()


def test_each_snapshot_is_a_space():
    method, texts, images, pixels = filled()
    delivered = method.delivered
    assert delivered.spaces == ("ensemble", "snapshot1", "snapshot2", "snapshot3")
    other = made()
    for number in range(3):
        move(other, number)  # as the snapshots were made
        encoder = delivered.space(f"snapshot{number + 1}")
        for name in TRAINED:
            own = getattr(encoder, name).state_dict()
            for key, value in getattr(other.model, name).state_dict().items():
                assert torch.equal(own[key], value)
        with torch.no_grad():
            torch.testing.assert_close(encoder.embed_texts(IDS, LENGTHS), texts[number])
            torch.testing.assert_close(encoder.embed_images(pixels), images[number])


def test_it_is_described_and_saved_by_the_encoder_that_is_trained():
    method, *_ = filled()
    encoder = method.delivered.ensemble()
    assert encoder.config() == method.model.config()
    assert encoder.state_dict().keys() == method.model.state_dict().keys()


def test_an_average_of_weights_keeps_snapshots_exact():
    method = made()
    average = Momentum(method.deliver(), 0.9)
    move(method, 0)
    method.delivered.take()
    average.update()
    for one, other in zip(
        average.module.snapshots.parameters(), method.delivered.snapshots.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    assert int(average.module.taken) == 1
    assert not torch.equal(average.module.encoder.text.table.weight, method.model.text.table.weight)
