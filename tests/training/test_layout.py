"""Layouts: the simplest that fits, and what is said where none does."""

import pytest

from diptych.errors import InputError
from diptych.training.costs import Costs, Line, Part
from diptych.training.hardware import hardware
from diptych.training.layout import LIBRARIES, layout, plan

GB = 10**9


def costs(**changed) -> Costs:
    """A tower of 1 GB of weights that keeps 10 MB a sample of 100 tokens."""
    values = {
        "batch_size": 1024,
        "precision": "bfloat16",
        "parameters": GB // 4,
        "trained": GB // 4,
        "weight_bytes": GB,
        "buffer_bytes": 0,
        "gradient_bytes": GB,
        "optimizer_bytes": 2 * GB,
        "average_bytes": 0,
        "outer_bytes": 0,
        "block_bytes": GB // 10,
        "parts": {
            "all": Part(
                forward=Line(fixed=0, per_sample=1e9),
                backward=Line(fixed=0, per_sample=2e9),
                kept=Line(fixed=0, per_sample=1e7),
                tokens=100,
            )
        },
        "input_bytes": 0,
        "feature_bytes": 0,
        "loss_flops": 0,
        "loss_bytes": 0,
        "unchunkable": "",
        "unshardable": "",
    }
    return Costs(**{**values, **changed})


@pytest.mark.parametrize(
    ("spec", "devices", "chunked", "shard"),
    [
        ("100TFLOPS:80GB", 1, False, False),
        ("100TFLOPS:10GB", 1, True, False),
        ("8x100TFLOPS:10GB", 8, False, False),
        ("8x100TFLOPS:4GB", 8, False, True),
        ("2x100TFLOPS:5GB", 2, True, True),
    ],
)
def test_the_simplest_that_fits_is_taken(spec, devices, chunked, shard):
    count, device = hardware(spec)
    found = plan(costs(), count, device)
    assert (found.devices, found.chunk is not None, found.shard) == (devices, chunked, shard)
    assert found.bytes <= device.memory
    assert ("--chunk" in found.flags, "--shard" in found.flags) == (chunked, shard)


def test_the_largest_piece_that_fits_is_taken():
    found = plan(costs(), *hardware("100TFLOPS:10GB"))
    assert found.chunk
    assert layout(costs(), 1, chunk=2 * found.chunk).bytes > 10 * GB


def test_memory_is_the_sum_of_its_kinds():
    found = layout(costs(), 2)
    assert found.memory["state"] == 5 * GB  # weights, gradients twice, two moments
    assert found.memory["activations"] == 512 * 1e7
    assert found.memory["allowance"] == LIBRARIES + 0.1 * (5 * GB + 512 * 1e7)
    assert layout(costs(), 2, shard=True).memory["state"] == 4 * GB / 2 + GB / 5


def test_pieces_cost_another_forward_pass():
    whole, pieces = layout(costs(), 1), layout(costs(), 1, chunk=1000)
    assert pieces.memory["activations"] == pytest.approx(1e8, rel=0.1)
    assert pieces.step_flops == pytest.approx(4 / 3 * whole.step_flops)


def test_time_follows_from_the_peak_and_its_share():
    device = hardware("4x100TFLOPS:80GB")[1]
    assert layout(costs(), 4).seconds(device, "bfloat16", 0.5) == pytest.approx(
        1024 * 3e9 / (4 * 100e12 * 0.5)
    )


def test_a_batch_uses_no_more_devices_than_it_has_samples():
    assert plan(costs(batch_size=4), *hardware("8xH100")).devices == 4


def test_what_does_not_fit_says_how_many_devices_would():
    with pytest.raises(InputError, match=r"are state.* 4 GB; 2 of them would do"):
        plan(costs(), *hardware("100TFLOPS:4GB"))


def test_what_no_number_of_devices_holds_says_so():
    whole = costs(unchunkable="x", unshardable="x")
    with pytest.raises(InputError, match="more of them do not help"):
        plan(whole, *hardware("100TFLOPS:2GB"))
