"""Prompts by entropy and effective rank: what the two are, their order, and which samples are read."""

import math

import pytest
import torch
from tests.methods.fuse.vladva_helpers import base, captions

from diptych.errors import InputError
from diptych.inference.prompts import SIDES, candidates, choose, read_candidates, scored
from diptych.models.vlm import Summaries


def test_there_are_50_prompts_of_each_side():
    for side in SIDES:
        found = candidates(side)
        assert len(set(found)) == 50
        assert all(side in prompt and prompt.endswith(":") for prompt in found)


def test_prompts_are_ordered_by_the_mean_of_their_places():
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(6, 5, generator=generator)
    line = torch.randn(6, 1, generator=generator) * torch.ones(5)
    thin = torch.cat([torch.randn(6, 2, generator=generator), torch.zeros(6, 3)], 1)
    entropy = torch.tensor([1.0, 3.0, 2.0])[:, None].expand(3, 6)
    found = scored(["line", "wide", "thin"], Summaries(torch.stack([line, wide, thin]), entropy))
    assert [row.prompt for row in found] == ["wide", "thin", "line"]
    assert [row.place for row in found] == [1, 2, 3]
    assert [row.entropy for row in found] == [3, 2, 1]
    units = wide.double() / wide.double().norm(dim=1, keepdim=True)
    values = torch.linalg.svdvals(units - units.mean(0))
    share = (values / values.sum()).tolist()
    rank = math.exp(-sum(q * math.log(q) for q in share))
    assert found[0].rank == pytest.approx(rank, abs=1e-9)
    same = scored(["a", "b"], Summaries(torch.stack([wide, wide]), entropy[:1].expand(2, 6)))
    assert [(row.prompt, row.place) for row in same] == [("a", 1), ("b", 1)]


def test_prompts_of_a_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("this {} is:\n\n the {}:\nthis {} is:\n")
    assert read_candidates(str(path), "image") == ["this image is:", "the image:"]
    path.write_text("one\n")
    with pytest.raises(InputError, match="1 prompts for texts; write two or more"):
        read_candidates(str(path), "text")
    with pytest.raises(InputError, match="no text file"):
        read_candidates(str(tmp_path / "none"), "text")


def test_the_first_images_and_short_texts_are_read(tmp_path):
    model = base(tmp_path / "run")
    long = "a red circle on the left " * 6
    source = captions(["a bar"], [long, "a red bar"], [long], ["a circle"], ["a square"])
    prompts = {"image": ["the circle", "a bar"], "text": ["a circle", "on the left"]}
    done = []
    found, bad = choose(
        model, source, prompts, count=4, batch_size=3, progress=lambda at, of: done.append((at, of))
    )
    assert dict(bad) == {"no-short-text": 1}
    assert done[-1] == (7, 8)
    for side, given in (
        ("image", {"images": [source[at].images["main"] for at in range(4)]}),
        ("text", {"texts": ["a bar", "a red bar", "a circle"]}),
    ):
        expected = scored(prompts[side], model.summaries(prompts[side], **given))
        for row, other in zip(found[side], expected, strict=True):
            assert row.prompt == other.prompt
            assert row.entropy == pytest.approx(other.entropy, abs=1e-4)
            assert row.rank == pytest.approx(other.rank, abs=1e-4)
    with pytest.raises(InputError, match="compared by two or more"):
        choose(model, source, prompts, count=1)
