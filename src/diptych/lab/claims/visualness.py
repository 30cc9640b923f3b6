"""Does one NULL image teach a dual encoder which sentences speak of what can be seen, and is
retrieval kept?

Visual sentences show a scene of one thing ("A red cat on grass that someone has no right to see"),
others hold something of it ("Someone has no right to see a red cat on grass"), in the same words
and at the same lengths, so that only their order tells (`data.worlds.sentences.mixed`). Pages have
two images, a sentence that shows each and four others, one of which is of what every second page
shows; the shipped model labels their sentences, the upper quarter and the lower 45 %. All trained
arms start from that model and take as many steps.

    clip                the model as it is, with the NULL image: also the arm that does nothing
    words               the mean over a sentence's words of how often each is in visual sentences of both stages
    classifier          logistic regression on the model's text vectors, learnt from both stages
    tip                 the method in both stages: pages, then the labels of people, which are right
    automatic           the first stage alone
    other_null          another NULL image
    common              one image for all visual sentences: separates the kinds as well, and finds no image
    shuffled            the images of both stages are dealt out anew among the sentences

`f1` is macro F1 on held-out sentences, a third of them visual, of scenes with pairs that training
never shows, at a threshold found on others; `mrr` the mean reciprocal rank of the own image of the
visual ones among theirs, `mrr_plain` that of what they show, without what is held of it. The
margins of ranks are what the paper calls kept, a loss of .052, and twice that where nothing is
gained from the new kind of sentence.

Sizes and sentences were chosen on seed 100. With captions amid phrases against stances in other
words a mean over words separated them at .99, so the words were made the same. That both stages
beat the labels of people alone is not expected: here these are right, and enough.

The block `real` has a word list in place of the model: `lexicon` is the mean concreteness of a sentence's
words as people rated them (Brysbaert et al. 2014), `rho` Spearman's correlation of the score of
single words of these sentences with that.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.sources import open_source
from diptych.data.worlds import build
from diptych.data.worlds.scenes.captions import Ways, short
from diptych.data.worlds.scenes.facts import Scene
from diptych.data.worlds.sentences.mixed import held, padded, shown
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.probe import classifier as regression
from diptych.evaluation.suites.visualness import labelled, report
from diptych.lab.claim import Claim, Floor, Trial, Tuned, better, equal, not_worse
from diptych.methods.adapt.visualness.model import VisualnessModel
from diptych.methods.adapt.visualness.pages import label, write
from diptych.methods.store import load
from diptych.metrics import best_threshold, correlation
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = {"number": 1, "drop": 0, "texts": "caption"}
PAGES = 150
IMAGES = 2
OTHERS = 4
# Sentences, a third of them visual.
HUMAN = 150
VAL = 200
TEST = 600
LENGTHS = range(22, 27)  # words
STAGES = ("auto", "human")
RATES = {1e-4: 0.826, 3e-4: 0.882, 6e-4: 0.86, 1e-3: 0.833}
"""Rates that were tried on seeds 100 and 101, and the mean of `f1` and `mrr`."""
RATE = max(RATES, key=lambda rate: RATES[rate])

Row = dict[str, Any]


class Writer:
    """Sentences about the scenes of one split in order, none of them twice, and images in files."""

    def __init__(self, trial: Trial, split: str):
        self.world = build("scenes", {**SCENES, "split": split})
        self.rng = generator(trial.seed, "visualness", split)
        self.seed = trial.seed
        self.next = 0
        self.folder = trial.folder / split
        self.folder.mkdir()

    def scene(self) -> Scene:
        """The next scene."""
        self.next += 1
        return self.world.sample(self.seed, self.next)

    def visual(self) -> tuple[Scene, Row]:
        """A scene with its image, and a sentence that shows it: with its caption alone as
        `plain`."""
        scene = self.scene()
        path = self.folder / f"{self.next}.png"
        self.world.example(scene, path.stem).images["main"].decode().save(path)
        text = self._said(scene)
        image = f"{self.folder.name}/{path.name}"
        said = padded(shown(text, self.rng), LENGTHS, self.rng)
        return scene, {"text": said, "image": image, "label": 1, "plain": text}

    def other(self, about: Scene | None = None) -> Row:
        """A sentence that holds something of what a scene shows."""
        said = held(self._said(about or self.scene()), self.rng)
        return {"text": padded(said, LENGTHS, self.rng), "image": None, "label": 0}

    def _said(self, scene: Scene) -> str:
        """A caption that is no sentence of its own."""
        form = int(self.rng.choice((0, 3)))
        return short(scene, Ways.of(scene)[f"paraphrase{form}"], form)

    def rows(self, count: int) -> Iterator[Row]:
        """Sentences whose kind is known, a third of them visual."""
        for at in range(count):
            yield self.other() if at % 3 else self.visual()[1]

    def pages(self, count: int) -> Iterator[Row]:
        """Pages: rows of images and rows of sentences, which say nothing of their kind."""
        for page in range(count):
            with_image = [self.visual() for _ in range(IMAGES)]
            about = [
                with_image[0][0] if page % 2 == 0 and at == 0 else None for at in range(OTHERS)
            ]
            texts = [row["text"] for _, row in with_image] + [
                self.other(scene)["text"] for scene in about
            ]
            yield from ({"image": row["image"], "page_id": page} for _, row in with_image)
            yield from ({"text": text, "page_id": page} for text in texts)


def draw(trial: Trial) -> dict[str, str]:
    """The tables of the seed: both stages, the same with images dealt out anew, and what is held
    out."""
    share = 5 if trial.quick else 1
    train = Writer(trial, "train")
    test = Writer(trial, "test")
    source = open_source(table(trial.folder / "pages.jsonl", train.pages(PAGES // share)))
    found = {
        "auto": str(trial.folder / "auto.jsonl"),
        "human": table(trial.folder / "human.jsonl", train.rows(HUMAN)),
        "val": table(trial.folder / "val.jsonl", test.rows(VAL // share)),
        "test": table(trial.folder / "test.jsonl", test.rows(TEST // share)),
    }
    write(label(source, load("tiny"), positive="25%", negative="45%"), source, Path(found["auto"]))
    for stage in STAGES:
        rows = read(found[stage])
        dealt = generator(trial.seed, "shuffled", stage).permutation(len(rows)).tolist()
        mixed = [
            {"text": row["text"], "image": rows[at]["image"]}
            for row, at in zip(rows, dealt, strict=True)
        ]
        found[f"shuffled_{stage}"] = table(trial.folder / f"shuffled_{stage}.jsonl", mixed)
    return found


def table(path: Path, rows: Iterable[Row]) -> str:
    """Write rows as JSON lines, and give the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def read(path: str) -> list[Row]:
    """The rows of a table."""
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def trained(
    *stages: str, epochs: float = 5, shuffled: bool = False, rated: bool = False, **config: Any
) -> Callable[[Trial], dict[str, float]]:
    """An arm: the shipped model after these stages, measured."""

    def arm(trial: Trial) -> dict[str, float]:
        names = [f"shuffled_{stage}" if shuffled else stage for stage in stages]
        data = dict(zip(("train", "human"), (trial.prelude[name] for name in names), strict=False))
        settings = resolve(
            "visualness",
            {**data, "calibrate": trial.prelude["val"]},
            init="tiny",
            config={"augment": {}, "human_epochs": 5, **config},
            recipe={
                "lr": RATE,
                "epochs": epochs * trial.stretch,
                **({"steps": 3, "batch_size": 16} if trial.quick else {}),
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run")
        return measure(load(trial.folder / "run"), trial, rated)

    return arm


def clip(trial: Trial, *, rated: bool = False) -> dict[str, float]:
    """The shipped model itself, with the NULL image."""
    model = VisualnessModel.of(load("tiny"))
    model.calibrate(*labelled(open_source(trial.prelude["val"])))
    return measure(model, trial, rated)


def measure(model: Any, trial: Trial, rated: bool) -> dict[str, float]:
    """How well held-out sentences are told apart, and how well the visual ones find their images;
    where words are `rated`, how far the score of single words rises with their concreteness."""
    source = open_source(trial.prelude["test"])
    reported = evaluate(model, source, ["visualness", "retrieval"])
    plain = evaluate(model, source, ["retrieval"], role="plain")["retrieval"]
    found = {"f1": reported["visualness"]["macro_f1"], "auroc": reported["visualness"]["auroc"]}
    found |= {"mrr": reported["retrieval"]["t2i_mrr"], "mrr_plain": plain["t2i_mrr"]}
    if rated:
        known = ratings()
        alone = sorted(
            {word for text in labelled(source)[0] for word in words_of(text)} & known.keys()
        )
        scores = model.score(alone).numpy()
        found["rho"] = correlation(scores, np.array([known[word] for word in alone]), "spearman")[0]
    return found


def judged(trial: Trial, score: Callable[[Sequence[str]], np.ndarray]) -> dict[str, float]:
    """The numbers of a way to score texts that finds no images: it has the ranks of chance."""
    known, test = (labelled(open_source(trial.prelude[name])) for name in ("val", "test"))
    threshold = best_threshold(score(known[0]), known[1])
    found = report(score(test[0]), test[1], threshold)
    visual = int(test[1].sum())
    chance = float((1 / np.arange(1, visual + 1)).sum() / visual)
    return {"f1": found["macro_f1"], "auroc": found["auroc"], "mrr": chance, "mrr_plain": chance}


def learnt_from(trial: Trial) -> tuple[list[str], np.ndarray]:
    """The sentences of both stages with their labels."""
    rows = [row for stage in STAGES for row in read(trial.prelude[stage])]
    return [row["text"] for row in rows], np.array([row["label"] for row in rows])


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    return re.findall(r"[a-z]+(?:['-][a-z]+)*", text.lower())


def words(trial: Trial) -> dict[str, float]:
    """Words alone: each has the share of visual sentences among those that hold it."""
    held_by: list[Counter[str]] = [Counter(), Counter()]
    for text, kind in zip(*learnt_from(trial), strict=True):
        held_by[kind].update(set(words_of(text)))
    every = held_by[0] + held_by[1]
    share = {word: (held_by[1][word] + 1) / (count + 2) for word, count in every.items()}
    return judged(trial, lambda texts: mean_of_words(texts, share, 0.5))


def mean_of_words(texts: Sequence[str], value: dict[str, float], unknown: float) -> np.ndarray:
    """The mean value of the words of each text that have one."""
    means = [[value[word] for word in words_of(text) if word in value] for text in texts]
    return np.array([float(np.mean(each)) if each else unknown for each in means])


def classifier(trial: Trial) -> dict[str, float]:
    """Logistic regression on frozen vectors of texts."""
    model: Any = load("tiny")
    texts, kinds = learnt_from(trial)
    fitted, _ = regression(model.embed_texts(texts).numpy(), kinds, seed=trial.seed)
    return judged(trial, lambda texts: fitted.decision_function(model.embed_texts(texts).numpy()))


def ratings() -> dict[str, float]:
    """The concreteness of single words, 1 to 5, as people rated it. Raises InputError where the
    pack is not there."""
    path = Path(os.environ.get("DIPTYCH_DATA", ""), "concreteness", "words.jsonl")
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file; set DIPTYCH_DATA to the folder that holds concreteness/"
        )
    return {row["word"]: float(row["mean"]) for row in read(str(path)) if not row["bigram"]}


def lexicon(trial: Trial) -> dict[str, float]:
    """The mean concreteness of a sentence's words."""
    known = ratings()
    return judged(trial, lambda texts: mean_of_words(texts, known, 3.0))


claim = Claim(
    question=(
        "One NULL image for all other sentences teaches a dual encoder which sentences are visual, and keeps its "
        "retrieval, which one image for all visual sentences destroys."
    ),
    prelude=draw,
    arms={
        "clip": clip,
        "words": words,
        "classifier": classifier,
        "tip": trained(*STAGES),
        "automatic": trained("auto", epochs=6.5),
        "other_null": trained(*STAGES, null_seed=1),
        "common": trained(*STAGES, visual="common"),
        "shuffled": trained(*STAGES, shuffled=True),
    },
    headline=(
        better("f1", "tip", over="clip"),
        not_worse("mrr", "tip", than="clip", margin=0.05),
    ),
    mechanism=("shuffled",),
    checks=(
        not_worse("mrr_plain", "tip", than="clip", margin=0.1),
        better("mrr", "tip", over="common"),
        better("f1", "tip", over="automatic"),
        better("f1", "tip", over="classifier"),
        better("f1", "tip", over="words"),
        equal("f1", "other_null", to="tip", margin=0.05),
    ),
    delta={"f1": 0.04, "mrr": 0.05},
    tuned=Tuned(effect=0.491, sd=0.019, best=0.941, chance=0.5, seconds=250),
    rates={"tip": RATES},
    floor=Floor("f1", chance=0.5, arms=("tip", "automatic", "other_null", "common")),
    table=("f1", "auroc", "mrr", "mrr_plain"),
)

real = Claim(
    question=(
        "Sentences are classified better than by the mean concreteness of their words, and single words are scored "
        "more as people rated them."
    ),
    prelude=draw,
    arms={
        "lexicon": lexicon,
        "clip": partial(clip, rated=True),
        "tip": trained(*STAGES, rated=True),
    },
    headline=(better("f1", "tip", over="lexicon"),),
    checks=(better("rho", "tip", over="clip"),),
    delta=0.04,
    tuned=Tuned(effect=0.466, sd=0.02, best=0.941, chance=0.5, seconds=70),
    rates={"tip": RATES},
    floor=Floor("f1", chance=0.5, arms=("tip",)),
    table=("f1", "auroc", "mrr", "rho"),
)
