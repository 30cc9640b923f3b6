"""Random numbers as pure functions of a seed and a key.

A choice made with `generator(seed, "crop", epoch, position)` depends on these arguments only, not
on workers, ranks, the order of calls, the platform or the Python process.
"""

import hashlib

import numpy as np


def _digest(seed: int, key: tuple[int | str, ...]) -> int:
    """A 128-bit hash of (seed, key), in which the number 1 and the word "1" differ."""
    words = (word if isinstance(word, str) else int(word) for word in (seed, *key))
    return int.from_bytes(
        hashlib.blake2b(repr(tuple(words)).encode(), digest_size=16).digest(), "little"
    )


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """A NumPy generator that depends only on `seed` and `key`.

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
