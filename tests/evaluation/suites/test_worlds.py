"""Suites on the worlds: an oracle that knows what each image shows gets full marks, and a point
gets none."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.sample import Sample, Source
from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.evaluation.suites._patches import laid_under
from diptych.evaluation.suites.captions import words
from diptych.towers.encoded import Encoded

WIDTH = 512


class Oracle:
    """Knows each image of a source, and of its edits, by its pixels; its vectors count words and
    pairs of words."""

    identity = "oracle"
    preprocess = Preprocess(size=64)

    def __init__(self, *sources: Source, role: str = "synthetic"):
        self.role, self.number, self.samples = role, {}, {}
        for source in sources:
            for index in range(len(source)):
                for sample in (source[index], *source[index].edits):
                    self.samples[self.preprocess.read(sample.images["main"]).numpy().tobytes()] = (
                        sample
                    )

    def know(self, images: Tensor) -> list[Sample]:
        return [self.samples[pixels.numpy().tobytes()] for pixels in images]

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        table = torch.zeros(len(texts), WIDTH)
        for at, text in enumerate(texts):
            said = words(text)
            for gram in [*said, *pairwise(said)]:
                draw = torch.Generator().manual_seed(self.number.setdefault(gram, len(self.number)))
                table[at] += torch.randn(WIDTH, generator=draw)
        return torch.nn.functional.normalize(table, dim=1)

    def embed_images(self, images: Tensor, *, batch_size: int) -> Tensor:
        return self.embed_texts([sample.captions(self.role)[0] for sample in self.know(images)])

    def match(self, images: Tensor, texts: Sequence[str], *, batch_size: int) -> Tensor:
        return (self.embed_images(images, batch_size=batch_size) * self.embed_texts(texts)).sum(1)

    def generate(
        self, images: Tensor, prompts: Sequence[str] | None = None, *, batch_size: int
    ) -> list[str]:
        samples = self.know(images)
        if prompts is None:
            return [sample.captions()[0] for sample in samples]
        found = []
        for sample, prompt in zip(samples, prompts, strict=True):
            texts = list(sample.texts)
            at = next(
                i for i, text in enumerate(texts) if text.role == "question" and text.text == prompt
            )
            found.append(texts[at + 1].text)
        return found

    def represent(self, images: Tensor, *, batch_size: int) -> Encoded:
        """Class and depth at the middle of each cell of an 8 x 8 grid, and the labels pooled."""
        tokens, pooled = [], []
        for sample in self.know(images):
            planes = [
                np.asarray(sample.masks["class"].decode(), int),
                np.asarray(sample.arrays["depth"], float),
            ]
            classes, depth = (
                laid_under(plane, self.preprocess, 0)[4::8, 4::8].ravel() for plane in planes
            )
            tokens.append(np.concatenate([np.eye(256)[classes], depth[:, None]], 1))
            pooled.append(
                [float(value == k) for value in sample.labels.values() for k in range(20)]
            )
        return Encoded(
            tokens=torch.tensor(np.array(tokens)), pooled=torch.tensor(pooled), grid=(8, 8)
        )


class Point(Oracle):
    """Maps all images and all texts to one point."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return super().embed_texts(["all"] * len(texts))


@pytest.fixture(scope="module")
def scenes() -> Source:
    return open_source("scenes:count=40:drop=0:edits=swap+recolour+replace:number=1-3:seed=5")


@pytest.fixture(scope="module")
def oracle(scenes) -> Oracle:
    return Oracle(scenes, role="caption")


def test_an_oracle_gets_full_marks(scenes, oracle):
    found = evaluate(oracle, scenes, ["retrieval", "composition", "captions", "answers"], rerank=5)
    assert found["retrieval"]["i2t_r1"] == found["retrieval"]["t2i_mrr"] == 1.0
    assert found["retrieval"]["reranked_t2i_r1"] == 1.0
    assert found["composition"]["i2t_2way"] == found["composition"]["group"] == 1.0
    assert (
        {"recolour", "replace"}
        <= set(found["composition"]["by_kind"])
        <= {"swap", "recolour", "replace"}
    )
    assert found["captions"]["accuracy"] == 1.0
    assert found["captions"]["cider"] == pytest.approx(10)
    assert found["answers"]["exact"] == 1.0
    assert 0 < found["answers"]["chance_exact"] < 0.6


def test_objects_are_those_that_boxes_name(scenes, oracle):
    """The caption names every object of the image; boxes say which class each is of."""

    class Named(type(scenes)):
        def schema(self):
            fields = super().schema()
            return {
                **fields,
                "boxes": replace(fields["boxes"], classes=fields["labels.object"].classes),
            }

    found = evaluate(oracle, Named(scenes.world, len(scenes), scenes.seed), ["captions"])[
        "captions"
    ]
    assert found["object_recall"] == found["object_precision"] == 1.0
    assert found["chance_object_recall"] < 0.5


def test_a_point_gets_none(scenes, oracle):
    point = Point(role="caption")
    point.samples = oracle.samples
    found = evaluate(point, scenes, ["retrieval", "zeroshot", "composition", "gap"], label="object")
    assert found["retrieval"]["i2t_r10"] == found["retrieval"]["t2i_r10"] == 0.0
    assert found["zeroshot"]["top1"] == 0.0
    assert found["composition"]["i2t_2way"] == found["composition"]["group"] == 0.0
    assert found["gap"]["collapse_image"] == pytest.approx(1)


def test_dense_probes_and_factors_read_the_worlds_annotation(scenes, oracle):
    suites, labels = ["dense", "depth", "factors"], ["coarse", "ground", "count"]
    found = evaluate(oracle, scenes, suites, features="pooled", labels=labels)
    assert found["dense"]["accuracy"] > 0.9 > found["dense"]["chance_accuracy"]
    assert found["depth"]["r2"] > 0.7
    rows = found["factors"]["by_factor"]
    assert all(row["top1"] > row["chance_top1"] for row in rows.values()), rows


def test_noise_is_told_by_how_badly_captions_fit():
    source = open_source("scenes:count=40:noise=swap=0.3+junk=0.2:seed=2")
    found = evaluate(Oracle(source), source, ["noisy_pairs"])["noisy_pairs"]
    assert found["auroc"] > 0.85
    assert set(found["by_kind"]) == {"swap", "junk"}
    assert 5 < found["flagged"] < 35


def test_siblings_are_units():
    source = open_source("scenes:count=40:siblings=4:drop=0:seed=1")
    found = evaluate(Oracle(source, role="caption"), source, ["composition"], siblings="scene")[
        "composition"
    ]
    assert found["n"] <= 10
    assert 3 < found["ways"] <= 4
    assert found["group_1"] > 0.9 > found["chance_group_1"]


def test_sentences_are_measured_without_a_image():
    source = open_source("sentences:count=150:roles=negated+swapped:paraphrases=2:pair=graded")
    found = evaluate(Oracle(), source, ["sts", "text_retrieval", "hard_negatives"])
    assert found["sts"]["spearman_low"] > 0.2
    assert found["text_retrieval"]["t2t_r1"] > 10 * found["text_retrieval"]["chance_t2t_r1"]
    assert set(found["hard_negatives"]["by_kind"]) == {"negated", "swapped"}
    assert 0 < found["hard_negatives"]["two_way"] < 1
