"""Suites on clips: which numbers the mean of frames can reach, and that a clip is read where one is."""

from dataclasses import replace

import pytest
import torch

import diptych
from diptych.data.clips import FrameStack
from diptych.data.images import Preprocess
from diptych.data.sources import Concat, open_source
from diptych.data.wrap import Wrapped
from diptych.evaluation.embed import Steps, clip_or_image, embed_images
from diptych.evaluation.suites.captions import captions
from diptych.evaluation.suites.retrieval import retrieval
from diptych.evaluation.suites.zeroshot import zeroshot
from diptych.inference.caption import write_about

FILMS = "scenes:film=4:number=1:count=40:texts=caption"
TURNED = {0: 1, 1: 0, 2: 3, 3: 2}  # left and right, up and down


class Moving(Wrapped):
    """The clips in which something moves, once as they are and once backwards."""

    def __init__(self, backwards: bool):
        source = open_source(FILMS)
        rows = [at for at, sample in enumerate(source) if sample.labels["action"] in TURNED]
        super().__init__(source, torch.tensor(rows).numpy())
        self.backwards = backwards

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        if not self.backwards:
            return sample
        clip = sample.images["frames"]
        turned = FrameStack(clip.images[::-1], clip.count)
        labels = {**sample.labels, "action": TURNED[sample.labels["action"]]}
        return replace(sample, images={**sample.images, "frames": turned}, labels=labels)


@pytest.fixture(scope="module")
def tiny():
    return diptych.load("tiny")


def vectors(model, source):
    how = {"exact": False, "batch_size": 16, "steps": Steps(None, len(source))}
    return embed_images(model, source, lambda sample: sample.key, **how).vectors


def test_the_direction_of_motion_is_invisible_to_the_mean_of_frames(tiny):
    """A clip and its reverse have the same vector, so that of the two at most one is named right."""
    forth, back = Moving(backwards=False), Moving(backwards=True)
    assert torch.allclose(vectors(tiny, forth), vectors(tiny, back), atol=1e-6)
    both = zeroshot(tiny, Concat([forth, back]), label="action")
    assert both["top1"] <= 0.5
    assert both["n"] == 2 * len(forth) > 20


def test_a_clip_is_embedded_as_the_unit_mean_of_its_frames_and_told_in_the_protocol(tiny):
    source = open_source(FILMS + ":start=3")
    found = vectors(tiny, source)
    for at in (0, 7):
        [clip] = clip_or_image(source[at])
        mean = tiny.embed_images(clip.frames()).mean(0)
        assert torch.allclose(found[at], mean / mean.norm(), atol=1e-5)
    results = retrieval(tiny, source)
    assert "clips" in results["options"]
    assert results["t2i_r5"] > 3 * results["chance_t2i_r5"]
    assert "clips" in zeroshot(tiny, source, label="object")["options"]
    stills = zeroshot(tiny, open_source("scenes:number=1:count=8"), label="object")
    assert "clips" not in stills["options"]


class Reads:
    """A model that generates, with what it is given of each sample."""

    name = "reads"
    preprocess = Preprocess(size=32)

    def generate(self, pixels, prompts=None, **options):
        return [" x ".join(map(str, each.shape)) for each in pixels]


def test_captions_are_written_of_all_frames():
    source = open_source(FILMS.replace("40", "3"))
    results = captions(Reads(), source)
    assert set(results["written"].values()) == {"4 x 3 x 32 x 32"}
    assert results["options"] == ["clips"]
    rows, _ = write_about(Reads(), source)
    assert rows[0].text == "4 x 3 x 32 x 32"
