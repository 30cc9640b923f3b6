"""Devices by name."""

import pytest
import torch

import diptych
from diptych.errors import InputError
from diptych.models.device import find_device


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_is_a_gpu_then_mps_then_the_cpu(none, monkeypatch):
    assert find_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto").type == "mps"
    assert find_device("auto", "int8").type == "cpu"


def test_several_gpus_have_numbers(two_gpus):
    assert find_device("auto").type == "cuda"
    assert find_device("cuda:1").index == 1
    with pytest.raises(InputError, match="no device 'cuda:2' here"):
        find_device("cuda:2")


def test_a_rank_takes_the_gpu_of_its_number(two_gpus, monkeypatch):
    for local, number in {"0": 0, "1": 1, "2": 0}.items():
        monkeypatch.setenv("LOCAL_RANK", local)
        assert find_device("auto") == torch.device("cuda", number)
    assert find_device("cuda") == torch.device("cuda")
    assert find_device("auto", "int8").type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_there_is_refused(none, name):
    with pytest.raises(InputError, match=f"no device '{name}' here: torch .* finds cpu; choose"):
        diptych.load("tiny", device=name)


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:x", "", "meta"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(InputError, match="unknown device"):
        diptych.load("tiny", device=name)
