"""Does a language model that reads media embed and write at once, and does it learn from documents to use a
word that was defined for another image?

`tiny`, frozen, reads images, and `tiny-lm`, frozen, writes. Pairs are drawn scenes of two things with captions
of all of both. Documents have four images of one thing each: three define a new word for theirs ("a dabo
is a striped red cat."), and the fourth shows one of the three things again, in another scene ("next comes a
dabo in the top left, on grass."). Arms take as many steps, half of them of documents:

    lm           captions and documents, without the contrastive loss (weight 0)
    both         with the contrastive loss of pairs: the method
    pairs_only   both losses, and all steps of pairs
    blind        both, where the language model reads no media
    permuted     both, where each image is contrasted with the caption of another one

`lm`, `both` and `pairs_only` have each a rate of their own, the others that of `both`. Held-out scenes:

    word           of a fourth image after three definitions, the share for which its own word, with the rest of
                   the sentence behind it, is the most probable of the three (chance 1/3)
    caption_loss   nats a token of true captions behind their images
    r1             the mean of recall at 1 both ways among 300 scenes, by the cosine

That recall is far above chance is the claim's floor: without the contrastive loss nothing trains the vectors.
Not asked: the widths of gated layers, clips, and published weights. The rates, sizes and delta are drafts:
they were not tuned yet.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from diptych.data.sample import Field, Sample, Schema, Source
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Only, Wrapped
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better, not_worse
from diptych.methods.base import At, Batches, Features, Losses
from diptych.methods.store import load
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

PAIRS = "scenes:number=2:same=0:size=64:texts=caption:drop=0"
PAGES = "scenes:number=1:pages=2:size=64:texts=caption"
FIELDS = ("images.main", "texts.caption")
WORDS = 3  # that a document defines
ROLES = ("main", "page2", "page3", "page4")
LEARNT = {"pairs": 4000, "documents": 2000}
MEASURED = {"pairs": 300, "documents": 100}
STEPS = 200
BATCH = 32
RATES = {"lm": 4e-3, "both": 4e-3, "pairs_only": 4e-3}

Change = Callable[[Any], None]


class Defined(Wrapped):
    """Documents of several: the first page of each of WORDS documents with the sentence that defines its
    word, and the second page of one of them with the first sentence that uses it. Their words differ."""

    def __init__(self, source: Source, seed: int):
        super().__init__(source)
        self.seed = seed

    def __getitem__(self, index: int) -> Sample:
        own = super().__getitem__(index)
        rng = generator(self.seed, "cosmo", "defined", index)
        shown = [own]
        known = {_sentences(own)[0].attrs["defines"]}
        for at in rng.permutation(len(self)).tolist():
            if len(shown) == WORDS:
                break
            other = super().__getitem__(at)
            word = _sentences(other)[0].attrs["defines"]
            if word not in known:
                known.add(word)
                shown.append(other)
        shown = [shown[at] for at in rng.permutation(len(shown)).tolist()]
        images = [*(each.images["main"] for each in shown), own.images["page2"]]
        _, *others = _sentences(own)
        used = next(text for text in others if text.attrs["image"] == "page2")
        texts = [*(_sentences(each)[0] for each in shown), used]
        told = [
            replace(text, attrs={"image": role, "order": at})
            for at, (text, role) in enumerate(zip(texts, ROLES, strict=True))
        ]
        return replace(own, images=dict(zip(ROLES, images, strict=True)), texts=told)

    def schema(self) -> Schema:
        return {
            **{f"images.{role}": Field(kind="image") for role in ROLES},
            "texts.document": super().schema()["texts.document"],
        }


def _sentences(document: Sample) -> list[Any]:
    return [text for text in document.texts if text.role == "document"]


def draw(trial: Trial) -> dict[str, str]:
    """Write the pairs and the documents of the seed as shards; sources by name."""
    count = {name: each // 20 if trial.quick else each for name, each in LEARNT.items()}
    pages = open_source(f"{PAGES}:seed={trial.seed}:count={count['documents']}")
    pairs = open_source(f"{PAIRS}:seed={trial.seed}:count={count['pairs']}")
    found = {}
    sources = {"pairs": Only(pairs, FIELDS), "documents": Defined(pages, trial.seed)}
    for name, source in sources.items():
        write_shards(source, trial.folder / name)
        found[name] = f"{trial.folder / name}/*.tar"
    return found


def held_out(trial: Trial, name: str) -> str:
    """The scenes of one kind that are measured."""
    count = MEASURED[name] // 10 if trial.quick else MEASURED[name]
    spec = PAIRS if name == "pairs" else PAGES
    return f"{spec}:seed={trial.seed}:split=val:count={count}"


def trained(
    like: str = "both",
    rate: float | None = None,
    documents: bool = True,
    change: Change | None = None,
    **config: Any,
) -> Callable[[Trial], Mapping[str, float]]:
    """An arm: the method with some options, on pairs and perhaps documents, at a rate, else that of
    `like`, measured."""

    def arm(trial: Trial) -> Mapping[str, float]:
        data = {"train": trial.prelude["pairs"]}
        if documents:
            data["documents"] = trial.prelude["documents"]
        settings = resolve(
            "cosmo",
            data,
            init="tiny",
            preset="small",
            config={"lm": "tiny-lm", "media": WORDS + 1, **config},
            recipe={
                "steps": trial.steps(STEPS, quick=6),
                "batch_size": BATCH,
                "lr": rate or RATES[like],
            },
            options={"seed": trial.seed, "quiet": True},
        )

        run(settings, trial.folder / "run", change=change)
        return measure(load(trial.folder / "run"), trial)

    return arm


def permuted(method: Any) -> None:
    """Contrast each image of a batch with the text of the one before."""
    own = method.loss

    def loss(features: Features, batches: Batches, at: At) -> Losses:
        moved = {
            name: value.roll(1, 0) if name.startswith("text_") else value
            for name, value in features.items()
        }
        return own(moved, batches, at)

    method.loss = loss


def measure(model: Any, trial: Trial) -> Mapping[str, float]:
    """Return how often a word is used that was defined, the loss of captions, and recall."""
    pages = open_source(held_out(trial, "documents"))
    words = evaluate(model, pages, ["in_context"], shots=WORDS)["in_context"]
    pairs = open_source(held_out(trial, "pairs"))
    recall = evaluate(model, pairs, ["retrieval"])["retrieval"]
    return {
        "word": words["chosen"],
        "caption_loss": caption_loss(model, pairs),
        "r1": float(np.mean([recall["i2t_r1"], recall["t2i_r1"]])),
    }


def caption_loss(model: Any, source: Source) -> float:
    """The mean over all tokens of captions, and their ends, of -log p behind their images."""
    samples = [source[at] for at in range(len(source))]
    texts = [sample.captions()[0] for sample in samples]
    found = model.log_prob([sample.images["main"] for sample in samples], texts)
    return float(-found.sum() / sum(len(model.tokenizer.ids(text)) + 1 for text in texts))


claim = Claim(
    question=(
        "A language model that reads media learns from documents to use a word that was defined for another image, "
        "and with a contrastive loss of pairs its captions are not worse than without."
    ),
    prelude=draw,
    arms={
        "lm": trained("lm", contrastive=0.0),
        "both": trained(),
        "pairs_only": trained("pairs_only", documents=False),
        "blind": trained(reach="none"),
        "permuted": trained(change=permuted),
    },
    headline=(
        better("word", "both", over="pairs_only"),
        not_worse("caption_loss", "both", than="lm", margin=0.05, higher=False),
    ),
    mechanism=("blind",),
    checks=(
        better("r1", "both", over="lm"),
        better("r1", "both", over="permuted"),
        not_worse("word", "both", than="lm", margin=0.03),
        better("caption_loss", "both", over="blind", higher=False),
    ),
    delta={"word": 0.03, "caption_loss": 0.05},
    floor=Floor("r1", chance=1 / MEASURED["pairs"], arms=("both", "pairs_only"), least=0.1),
    table=("word", "caption_loss", "r1"),
)
