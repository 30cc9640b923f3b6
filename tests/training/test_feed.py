from contextlib import contextmanager
from typing import Any

import pytest
import torch

from diptych.data.batch import Batch, Images
from diptych.training.feed import Copies


class Stream:
    """A stream that notes what is asked of it."""

    def __init__(self, name: str, asked: list[Any]):
        self.name = name
        self.asked = asked

    def record_event(self) -> str:
        return f"copy {self.asked[-1][1]}"

    def wait_event(self, event: str) -> None:
        self.asked.append((self.name, "waits for", event))


@pytest.fixture
def asked(monkeypatch):
    """What is asked of a GPU that is none: copies stay where they are."""
    asked: list[Any] = []
    current = [Stream("compute", asked)]

    @contextmanager
    def on(stream: Stream):
        current.append(stream)
        yield
        current.pop()

    def to(self: Batch, device: torch.device) -> Batch:
        asked.append((current[-1].name, self.keys[0]))
        return self

    def record_stream(self: torch.Tensor, stream: Stream) -> None:
        asked.append((stream.name, "keeps", self.flatten()[0].item()))

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies", asked))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(Batch, "to", to)
    monkeypatch.setattr(torch.Tensor, "record_stream", record_stream)
    return asked


def batch(key: str) -> Batch:
    pixels = torch.full((1, 1, 3, 8, 8), float(ord(key)))
    return Batch(images={"main": Images(pixels)}, keys=(key,))


def test_on_a_gpu_the_next_copy_begins_before_a_step(asked):
    for each in Copies(torch.device("cuda", 0)).of(batch(key) for key in "abc"):
        asked.append(f"step on {each.keys[0]}")
    assert asked == [
        ("copies", "a"),
        ("copies", "b"),
        ("compute", "waits for", "copy a"),
        ("compute", "keeps", ord("a")),
        "step on a",
        ("copies", "c"),
        ("compute", "waits for", "copy b"),
        ("compute", "keeps", ord("b")),
        "step on b",
        ("compute", "waits for", "copy c"),
        ("compute", "keeps", ord("c")),
        "step on c",
    ]


def test_elsewhere_a_batch_is_read_when_its_step_comes(asked):
    for each in Copies(torch.device("cpu")).of(batch(key) for key in "ab"):
        asked.append(f"step on {each.keys[0]}")
    assert asked == [("compute", "a"), "step on a", ("compute", "b"), "step on b"]


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_batches_of_several_streams_are_copied_whole(asked, device):
    given = [{"pairs": batch("a"), "texts": batch("b")}, {"pairs": batch("c"), "texts": batch("d")}]
    copied = list(Copies(torch.device(device)).of(given))
    assert copied == given
    assert [each[1] for each in asked if len(each) == 2] == ["a", "b", "c", "d"]
