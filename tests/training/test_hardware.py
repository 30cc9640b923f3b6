"""Hardware by its name and by its figures."""

import pytest

from diptych.errors import InputError
from diptych.training.hardware import DEVICES, hardware


@pytest.mark.parametrize("name", DEVICES)
def test_names_are_read_in_any_case_and_number(name):
    count, device = hardware(f"12x{name.lower()}")
    assert count == 12
    assert device is DEVICES[name]
    assert hardware(name)[0] == 1


def test_own_figures_hold_for_any_precision():
    count, device = hardware("8x989.4TFLOPS:80GB")
    assert (count, device.memory) == (8, 80e9)
    assert device.rate("bfloat16") == device.rate("float32") == 989.4e12


@pytest.mark.parametrize("spec", ["", "8x", "H1000", "0xH100", "9999999xH100", "8x0TFLOPS:8GB"])
def test_anything_else_is_refused_with_what_there_is(spec):
    with pytest.raises(InputError, match="such as|H100"):
        hardware(spec)


def test_a_device_without_bfloat16_says_so():
    with pytest.raises(InputError, match="--precision float32"):
        hardware("V100")[1].rate("bfloat16")
