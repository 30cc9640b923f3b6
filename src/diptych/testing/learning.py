"""Whether a method learns: it must memorise its training samples, and must learn nothing from wrong
texts.

The toy has 128 drawings, every combination of colour, shape and place. The 32 training samples have
each colour with each shape once; the other 96 are new.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache, partial
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from diptych.data.batch import Batch
from diptych.data.loader import Loader
from diptych.data.sample import Sample, Source
from diptych.data.views import Augment
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.methods import store
from diptych.methods.base import At, Method
from diptych.methods.families import few_shot as classify
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.models.model import evaluating
from diptych.rng import generator
from diptych.testing.runs import BATCH, engine_of, float64
from diptych.testing.subject import Subject, narrower, shallower
from diptych.testing.toy import Toy
from diptych.towers.dual import DualEncoder
from diptych.training.engine import Engine
from diptych.training.options import Options

ENOUGH = 0.85
"""A score that shows that the samples are memorised. It must also halve the error before
training."""
STEPS = 160
SHUFFLED = 80
BEFORE = 20
LOOK = 10
"""Maximum steps of the last stage, with wrong texts and of each stage before it, and steps between
two measurements of the score."""
RATE = 3.0
"""A factor of the recipe's learning rate: a narrow model on few samples tolerates more."""
CROP = (0.5, 1.0)
_SEEN = tuple(
    colour + 8 * shape + 32 * ((colour + shape) % 4) for shape in range(4) for colour in range(8)
)
_NEW = tuple(sorted(set(range(128)) - set(_SEEN)))
_PAIRS = ("retrieval", "pair_losses")
"""Validations of images and texts in one space, of which recall tells what is memorised."""


class Picked(Wrapped):
    """Some samples of a toy of all drawings; with `shuffled` each has the texts of another, those
    of its boxes and edits included."""

    def __init__(self, toy: Toy, rows: Sequence[int], shuffled: bool = False):
        self.toy = toy.of_all()
        picked = np.array(rows)
        super().__init__(self.toy, picked)
        order = generator(0, "shuffle").permutation(picked)
        follows = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
        self._texts = [follows[row] if shuffled else row for row in rows]

    def __getitem__(self, index: int) -> Sample:
        return _with_texts(super().__getitem__(index), self.toy[self._texts[index]])


def _with_texts(sample: Sample, other: Sample) -> Sample:
    """A sample with all texts of another one."""
    return replace(
        sample,
        texts=other.texts,
        boxes=[
            replace(box, text=theirs.text)
            for box, theirs in zip(sample.boxes, other.boxes, strict=True)
        ],
        edits=[
            replace(edit, texts=theirs.texts)
            for edit, theirs in zip(sample.edits, other.edits, strict=True)
        ],
    )


@float64()
def learns_its_own_signal(subject: Subject) -> None:
    """A method with steps memorises 32 samples, by its own `score`. A method that learns only from
    its pairs then also matches new pairs better than chance."""
    if not _descends(subject):
        return
    method, scores, enough = trained(subject)
    reported = " -> ".join(f"{value:.2f}" for value in scores)
    assert scores[-1] >= enough, (
        f"on the 32 samples that it is trained on the score goes {reported}, and should reach {enough:.2f}; see "
        "whether the gradient has the right sign, reaches what is trained, and whether the fields of a "
        "sample stay together"
    )
    if knows_pairs_alone(subject):
        found = new_pairs(method)
        bound = chance(len(_NEW))
        assert found < bound, (
            f"the own text or image of {len(_NEW)} new pairs comes {found:.1f}th on average, and chance alone "
            f"reaches {bound:.1f}"
        )


@float64()
def shuffled_texts_teach_nothing(subject: Subject) -> None:
    """Trained on the texts of other images, a method that learns only from its pairs matches new
    pairs no better than chance."""
    if not knows_pairs_alone(subject):
        return
    found = new_pairs(trained(subject, shuffled=True)[0])
    bound = chance(len(_NEW))
    assert found >= bound, (
        f"trained on the texts of other images, the own text or image of {len(_NEW)} new pairs comes "
        f"{found:.1f}th on average, where chance reaches {bound:.1f}: something beside the pairs tells which "
        "belong together"
    )


def _descends(subject: Subject) -> bool:
    return any(stage.optimize for stage in subject.small().stages())


def knows_pairs_alone(subject: Subject) -> bool:
    """Whether a method trains encoders of images and texts without a given model or a teacher."""
    method = subject.small()
    encoder = getattr(method.deliver(), "encoder", method.deliver())  # of a module with more parts
    pairs = isinstance(encoder, DualEncoder) and encoder.sides == ("image", "text")
    alone = not subject.cls.adapts and "teacher" not in subject.cls.presets["small"].config
    if not (pairs and alone and _descends(subject)):
        return False
    return _model(method).validation.suite in _PAIRS


class _Learnt(Exception):
    pass


def trained(subject: Subject, shuffled: bool = False) -> tuple[Method, list[float], float]:
    """Return the method trained on 32 samples until it has memorised them and, if asked, matches new
    pairs, its scores on the way, and the sufficient score.

    A batch has all of them, or half as many until its plan gives such batches.
    """
    batch = len(_SEEN)
    while True:
        try:
            return _trained(subject, shuffled, batch)
        except InputError:
            if batch <= BATCH:
                raise
            batch //= 2


def _trained(subject: Subject, shuffled: bool, batch: int) -> tuple[Method, list[float], float]:
    method = _begun(subject)
    asked = knows_pairs_alone(subject) and not shuffled
    sources: dict[str, Source] = {
        stream: Picked(toy, _SEEN, shuffled) for stream, toy in subject.sources(method).items()
    }
    last = _shorten(method, batch, SHUFFLED if shuffled else STEPS)
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_of(subject, method, sources, Path(folder), STEPS, batch=batch)
        engine.recipe = replace(engine.recipe, lr=RATE * engine.recipe.lr)
        engine.average = None  # it would average over weights from the start
        before = 0.0
        enough = 0.5
        measure = partial(_by_loss, Path(folder))
        # toys may lack the fields that its validation reads, and some measures are no scores
        with suppress(InputError):
            before, enough = score(subject, method, sources)
            measure = partial(score, subject, method, sources)
        scores = [before]
        enough = max(enough, (1 + before) / 2)

        def look(module: nn.Module, done: int) -> dict[str, float]:
            if engine.position.stage == last and engine.position.step % LOOK == 0:
                scores.append(measure()[0])
                if scores[-1] >= enough and (not asked or new_pairs(method) < chance(len(_NEW))):
                    raise _Learnt
            return {}

        engine.validate = look
        with suppress(_Learnt):
            engine.run()
    return method, scores, enough


def _shorten(method: Method, batch: int, steps: int) -> int:
    """Give the stages this batch size, the last one with steps this many, and those before it few;
    return the index of that one."""
    stages = method.stages()
    last = max(at for at, stage in enumerate(stages) if stage.optimize)
    shorter = [
        replace(
            stage,
            recipe={
                **stage.recipe,
                "steps": steps if at == last else BEFORE,
                "batch_size": batch,
            },
        )
        for at, stage in enumerate(stages)
    ]
    method.stages = lambda: shorter  # type: ignore[method-assign]
    return last


def _begun(subject: Subject) -> Method:
    """Return the method before training, with towers of at most two blocks, and crops as its only
    augmentation.

    A method that adapts a model or has a teacher gets a model that is partly trained on the toy.
    """
    preset = subject.preset("small", 4)
    preset = replace(preset, image=shallower(preset.image), text=shallower(preset.text))
    config = _cropped(preset.config)
    if "teacher" in config:
        config["teacher"] = _start().name
    if not subject.cls.adapts:
        return subject.make(replace(preset, config=config))
    start = _start().name  # before the seed: it is made but once
    torch.manual_seed(0)
    make = Make.of(store.load(start))
    options = subject.cls.configure(config)
    make.adapter = subject.cls.adapter(options)
    return subject.cls.of(options, make)


def _cropped(config: Mapping[str, Any]) -> dict[str, Any]:
    known = {each.name for each in fields(Augment)}
    return {
        name: {"crop": CROP}
        if isinstance(value, Mapping) and value and value.keys() <= known
        else value
        for name, value in config.items()
    }


@cache
def _start() -> "tempfile.TemporaryDirectory[str]":
    """Return the folder of a small CLIP that is partly trained on the toy, with the towers of
    methods that adapt one."""
    subject = Subject(CLIP, "clip")
    preset = subject.preset("small", 4)
    image, text = (str(narrower(spec, 4)) for spec in (classify.SMALL.image, classify.SMALL.text))
    preset = replace(preset, image=image, text=text, embed_dim=32, config=_cropped(preset.config))
    method = subject.make(preset)
    folder = tempfile.TemporaryDirectory(prefix="diptych-toy-")
    recipe = replace(preset.recipe, steps=60, batch_size=32, ema=None)
    Engine(method, recipe, {"train": Toy(128)}, Path(folder.name), Options(quiet=True)).run()
    module: Any = method.deliver()
    description = store.describe(
        "clip", preset.config, module, method.make.words, module.image.preprocess
    )
    store.save_model(Path(folder.name), description, module.state_dict())
    return folder


@torch.no_grad()
def score(subject: Subject, method: Method, sources: Mapping[str, Source]) -> tuple[float, float]:
    """Return how well a method has memorised samples, from 0 to 1, and the sufficient score,
    depending on what it delivers and logs:

    - a model of images alone: `agreement`; one of heat maps or of pages: what the method logs of this
      name
    - a method that logs a perplexity: the probability of a token, of which a half is sufficient
    - a predictor of noise: the share of the noise that it explains, a half is sufficient
    - a model that segments: mIoU, of which a half is sufficient, since the toy's masks are squares around
      its drawings
    - regions, of a method whose card says so: `tiles_found`, a half is sufficient
    - otherwise: accuracy by names if the data name classes, or recall, or the first measure of its
      validation
    """
    source = sources.get("train") or next(iter(sources.values()))
    with evaluating(method):
        model = _model(method)
        if subject.delivers("embed_regions"):
            # a narrow model finds things of the size that it has learnt from
            size = getattr(method.config, "size", None) or 3 * model.preprocess.side
            told = (each for each in sources.values() if "texts.caption" in each.schema())
            return tiles_found(model, next(told, source), size), 0.5
        suite = model.validation.suite
        names = model.validation.names
        settings = model.validation.settings
        if suite in ("retrieval", "probe") and not model.reads_texts:
            return agreement(model.encoder, _batch(method, source)), ENOUGH
        if suite in ("perplexity", "captions", "agreement"):
            return 1 / logged(method, source, "perplexity"), 0.5
        if suite in ("affordance", "words"):
            return logged(method, source, "agreement"), ENOUGH
        if suite == "retrieval" and any(field.classes for field in source.schema().values()):
            suite = "zeroshot"
            names = ("top1",)
        elif suite == "pair_losses":
            suite = "retrieval"
            names = ("i2t_r1",)
        found = evaluate(model, source, [suite], **settings)[suite]
    reached = next(value for name, value in found.items() if name.startswith(tuple(names)))
    if reached > 1:
        raise InputError(f"{suite} gives {reached}, which is no score that is 1 at best")
    return reached, 0.5 if suite in ("denoising", "segment") else ENOUGH


def logged(method: Method, source: Source, name: str) -> float:
    """Return what the method's loss logs under a name, of all samples."""
    batch = _batch(method, source)
    at = At(0, 1, 0, 0, _last(method).name)
    return float(method.loss(method.encode(batch, at), batch, at).logged[name])


def agreement(module: DualEncoder, batch: Batch) -> float:
    """Return the share of image views whose nearest view is of the same image, or of the same label
    if the label is read."""
    vectors = module.embed_images(batch.image.flat)
    cosines = (vectors @ vectors.T).fill_diagonal_(-2)
    labels: Any = batch.fields.get("label", torch.arange(len(batch)))
    labels = labels.repeat_interleave(len(vectors) // len(batch))
    return float((labels[cosines.argmax(1)] == labels).double().mean())


def tiles_found(model: Any, source: Source, size: int) -> float:
    """Return the share of images that find their own text among all, each as a tile of an image of
    3 x 3 tiles, which is read at `size` pixels a side."""
    samples = [source[index] for index in range(len(source))]
    tiles = [np.asarray(sample.images["main"].decode()) for sample in samples]
    tiles += tiles[: -len(tiles) % 9]
    rows = [np.concatenate(tiles[start : start + 3], axis=1) for start in range(0, len(tiles), 3)]
    pages = [
        Image.fromarray(np.concatenate(rows[start : start + 3])) for start in range(0, len(rows), 3)
    ]
    thirds = [[x, y, x + 1, y + 1] for y in range(3) for x in range(3)]
    boxes = [np.array(thirds) / 3] * len(pages)
    found = model.embed_regions(pages, boxes, size=size).vectors.flatten(0, 1)[: len(samples)]
    texts = torch.as_tensor(model.embed_texts([sample.captions()[0] for sample in samples]))
    nearest = (found @ texts.float().T).argmax(1)
    return float((nearest == torch.arange(len(samples))).double().mean())


def _model(method: Method) -> Any:
    """Return the model that a method delivers."""
    module = method.deliver()
    preprocess = store.preprocess_of(module)
    return store.to_model(
        module, method.make.words, preprocess and preprocess.to_dict(), name="the toy's model"
    )


def _last(method: Method) -> Any:
    return [stage for stage in method.stages() if stage.optimize][-1]


def _batch(method: Method, source: Source) -> Batch:
    """Return all samples as the last step reads them."""
    stage = _last(method)
    return next(
        Loader(source, method.views(stage), stage.plan, len(source), steps=1).epoch(0, step=1)
    )


def _by_loss(out: Path) -> tuple[float, float]:
    """Return the share by which the last steps reduce the first loss, and the sufficient share."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    return 1 - float(np.mean(losses[-LOOK:])) / losses[0], 0.5


def new_pairs(method: Method) -> float:
    """Return the mean rank of the own texts and the own images of 96 new pairs, 1 at best."""
    source = Picked(Toy(), _NEW)
    places = range(1, len(source) + 1)
    with evaluating(method):
        found = evaluate(_model(method), source, ["retrieval"], ks=places)["retrieval"]
    # the ranks above k are those that recall at k lacks
    missed = [1 - found[f"{way}_r{k}"] for way in ("i2t", "t2i") for k in places]
    return 1 + sum(missed) / 2


def chance(count: int, odds: float = 1e-3) -> float:
    """Return the least mean rank of `count` queries among as many items, except with probability
    `odds`, if each rank is as likely as any other. That of two directions varies no more.

    >>> round(chance(96), 1)
    39.8
    """
    deviation = sqrt((count**2 - 1) / 12 / count)
    return (count + 1) / 2 + NormalDist().inv_cdf(odds) * deviation
