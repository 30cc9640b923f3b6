"""The device of a model: a GPU, Apple's MPS, or the CPU."""

import os

import torch

from diptych.errors import InputError

DEVICES = ("auto", "cpu", "cuda", "mps")


def find_device(name: str, precision: str = "float32") -> torch.device:
    """The device of a name: one of `DEVICES`, or one of several GPUs as "cuda:1".

    "auto" is a CUDA GPU, else MPS, else the CPU; int8 is always on the CPU. Of several GPUs a rank
    that torchrun started takes that of its number on the machine. Raises InputError for
    an unknown name and a device that this machine, or this build of torch, does not have.

    >>> find_device("cpu")
    device(type='cpu')
    """
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (number and (kind != "cuda" or not number.isdecimal())):
        raise InputError(f"unknown device {name!r}; choose {', '.join(DEVICES)}, or cuda:N")
    have = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if kind == "auto":
        kind = next(each for each in ("cuda", "mps", "cpu") if have[each])
        if precision == "int8":
            return torch.device("cpu")
        local = os.environ.get("LOCAL_RANK", "")
        if kind == "cuda" and local.isdecimal():
            return torch.device("cuda", int(local) % have["cuda"])
        return torch.device(kind)
    if int(number or 0) >= have[kind]:
        there = ", ".join(each for each in have if have[each])
        raise InputError(
            f"there is no device {name!r} here: torch {torch.__version__} finds {there}; choose one of these, or auto"
        )
    return torch.device(name)
