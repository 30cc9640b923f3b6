"""Random numbers as pure functions of a seed and a key.

A choice made from `generator(seed, "crop", epoch, position)` depends on nothing else: not on
workers, ranks, the order of calls, the platform or the Python run.
"""

import hashlib

import numpy as np


def _digest(seed: int, key: tuple[int | str, ...]) -> int:
    """128 bits that tell every (seed, key) apart, numbers from words included."""
    words = (word if isinstance(word, str) else int(word) for word in (seed, *key))
    return int.from_bytes(
        hashlib.blake2b(repr(tuple(words)).encode(), digest_size=16).digest(), "little"
    )


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """A numpy generator that depends on `seed` and `key` alone.

    >>> generator(0, "crop", 3).random() == generator(0, "crop", 3).random()
    True
    >>> generator(0, "crop", 3).random() == generator(0, "crop", 4).random()
    False
    """
    return np.random.Generator(np.random.PCG64(_digest(seed, key)))


def torch_seed(seed: int, *key: int | str) -> int:
    """A seed for `torch.manual_seed`, in [0, 2**63).

    >>> torch_seed(0, "dropout") == torch_seed(0, "dropout") != torch_seed(1, "dropout")
    True
    """
    return _digest(seed, ("torch", *key)) >> 65
