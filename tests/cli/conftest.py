"""Ways to call the command line in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.helpers import TINY, Called

from diptych.cli import main


@pytest.fixture
def diptych(capsys) -> Callable[..., Called]:
    """`diptych("train", "clip", …)` in this process."""

    def call(*words: object) -> Called:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Called(code, captured.out, captured.err)

    return call


@pytest.fixture
def train(diptych) -> Callable[..., Called]:
    """`train(data, out, …)`: clip with tiny towers for 3 steps of 8."""

    def call(data: object, out: object, *words: object) -> Called:
        return diptych("train", "clip", "--data", data, *TINY, "--out", out, *words)

    return call


@pytest.fixture
def refused(diptych, monkeypatch) -> Callable[..., str]:
    """The one line that a refused command leaves on stderr."""
    monkeypatch.setattr("diptych.cli._screen.PATIENCE", 3600.0)  # however slow the machine is

    def call(*words: object) -> str:
        called = diptych(*words)
        assert called.code == 2, called
        assert called.out == "", called
        assert called.err.startswith("diptych: "), called
        assert called.err.count("\n") == 1, called
        return called.err.removeprefix("diptych: ").rstrip("\n")

    return call


@pytest.fixture
def refused_training(refused) -> Callable[..., str]:
    """The same for training tiny towers."""

    def call(data: object, out: object, *words: object) -> str:
        message = refused("train", "clip", "--data", data, *TINY, "--out", out, *words)
        assert not (Path(out) / "model.json").exists()
        return message

    return call
