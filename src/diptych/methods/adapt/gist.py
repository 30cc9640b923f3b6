"""GIST: Generating Image-Specific Text for Fine-grained Object Classification (Lewis et al., 2023).

Labelled images get image-specific captions: a bank holds many descriptions of each class, a frozen
model selects those of the image's class that fit it best, and CLIP is trained on the pairs, both
towers and the scale.

    match    s_ik = softmax_k(100 <u_i, w_ck>), c = y_i;   the T largest, in order
    train    L = ½ [ CE(exp(t) X Y^T, diagonal) + CE(exp(t) Y X^T, diagonal) ],   text "<class>: <caption>"

u_i and w_ck are the matcher's unit vectors of image i and of caption k of class c; captions of
other classes are not considered. Each of the first `use` captions makes a pair with the image, and
the pairs are shuffled independently. The matcher is the model that training starts from, as it is
before the first step, or another model; matching happens once. Long captions may be matched and
replaced by short ones for training (`summaries`). The scale has no bounds, as published.

[choice] The class name precedes a caption once, where published summaries that begin with it got it
twice. [choice] The pairs of an image are false negatives of each other, as published;
`group_positives` makes all of them positives. Inference: a linear probe of the images' embeddings
(`evaluation.suites.probe`), or class embeddings from the text of the class names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data import descriptions
from diptych.data.batch import Batch
from diptych.data.columns import WithColumns
from diptych.data.loader import require
from diptych.data.pairs import ORIGIN, Paired
from diptych.data.sample import Source, labels_of
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import ImageView, LabelView, View
from diptych.errors import InputError
from diptych.methods.base import Preset, Recipe, Stage
from diptych.methods.families.few_shot import SMALL, LabelConfig, class_names
from diptych.methods.families.pairs import Pairs
from diptych.methods.make import Make
from diptych.methods.teacher import Teacher
from diptych.models.model import Model
from diptych.objectives import info_nce
from diptych.objectives.core import group_targets
from diptych.spec import Count, ModelSpec
from diptych.towers.nn.parts import Temperature

card = {
    "title": "GIST: Generating Image-Specific Text for Fine-grained Object Classification",
    "year": 2023,
    "kind": "method",
    "entry": "GIST",
    "provenance": "code",
}

FACTOR = 100.0
"""The multiplier of cosines in the softmax over a class's captions; it only affects how confident
the matcher is."""
_MATCH = "match"
_ROLE = "matched"


@dataclass(frozen=True, kw_only=True)
class Config(LabelConfig):
    """Options of the captions and the matching.

    - `bank` holds descriptions of the classes: a JSON file {class: [text, …]}, or templates
      (`data.descriptions`).
    - `summaries` is a JSON file {description: short text}, for descriptions that are too long to
      train on.
    - `matcher` is a model as `--init` accepts it, or "" for the one that training starts from.
      Captions that it cannot read whole raise an error, or with `cut` are truncated.
    - `top` captions are kept for each image, and the first `use` of them are trained on.
    - `captions` is a JSON file {image: [text, …]}; with it there is no matching.
    - `prefix` puts the class's name before each caption.
    - `group_positives` makes all pairs of one image positives of each other.
    """

    bank: str = ""
    summaries: str = ""
    matcher: ModelSpec = ""
    cut: bool = False
    top: Count = 5
    use: Count = 4
    captions: str = ""
    prefix: bool = True
    group_positives: bool = False

    role: ClassVar[str] = _ROLE

    def __post_init__(self) -> None:
        if self.use > self.top:
            raise InputError(
                f"use is {self.use}, and only {self.top} captions are kept (top); raise top or lower use"
            )


class GIST(Pairs):
    """Pairs of an image and the descriptions of its class that fit it best."""

    Config = Config
    test_options: ClassVar = {"bank": str(Path(__file__).parents[2] / "testing" / "toy.json")}
    adapts: ClassVar[bool] = True

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data {data} --suite probe,zeroshot",
            "classify {run} IMAGES --names 'A,B,C'",
        )

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.model = make.dual(logit_scale=Temperature(FACTOR))
        if self.model.text is None or make.words is None:
            raise InputError(
                "gist trains on texts, and this model has no text tower or came without its tokenizer; "
                "start from one of images and texts"
            )
        self.model.logit_scale.clamp = None
        self.teacher = Teacher(config.matcher) if config.matcher else None
        self.names: tuple[str, ...] = ()
        self.bank: tuple[tuple[str, ...], ...] = ()  # the captions of each class
        self.summaries: Mapping[str, str] = {}
        self.ready: Mapping[
            str, Sequence[str]
        ] = {}  # the captions of each image, if they are matched already

    @property
    def matcher(self) -> Model:
        """The frozen model that matches; the trained model qualifies because matching precedes its
        first step."""
        if self.teacher is not None:
            return self.teacher.model
        return Model(
            self.model,
            self.make.tokenizer,
            self.model.image.preprocess,
            name="the model that is trained",
        )

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Read the class names of the training data and the files that describe them.

        Raises InputError for a class or an image without captions, and for texts that are longer
        than the tower's context.
        """
        source = sources["train"]
        config = self.config
        if not config.bank and not config.captions:
            raise InputError(
                "gist has no bank; name a JSON file of descriptions, {class: [text, …]}, or templates, "
                "with --method.bank"
            )
        if not config.captions or config.prefix:
            require(source, (f"labels.{config.label}",), self.name)
            self.names = class_names(source, config.label)
        if config.summaries:
            self.summaries = descriptions.read_summaries(config.summaries)
        if config.captions:
            self.ready = descriptions.read_lists(config.captions, "image")
            without = [key for key in source.keys() if key not in self.ready]  # noqa: SIM118  (a source is no dict)
            if without:
                raise InputError(
                    f"{config.captions} has no captions of {len(without)} of the {len(source)} images, "
                    f"such as {without[0]!r}; its keys are those of {source.name!r}"
                )
            return
        self.bank = descriptions.bank(config.bank, self.names)
        self._check(
            self.table(),
            self.make.tokenizer,
            "the text tower reads; shorten them, or give short forms with --method.summaries",
        )

    def said(self, name: str, caption: str) -> str:
        """Return the training text of a class's caption: its summary if there is one, preceded once
        by the name."""
        text = self.summaries.get(caption, caption)
        if not self.config.prefix:
            return text
        start, colon, rest = text.partition(":")
        same = colon and descriptions.normal(start) == descriptions.normal(name)
        return f"{name}: {rest.strip() if same else text}"

    def table(self) -> list[str]:
        """Return the training texts of all captions of the bank, class by class."""
        return [
            self.said(name, text)
            for name, texts in zip(self.names, self.bank, strict=True)
            for text in texts
        ]

    def stages(self) -> Sequence[Stage]:
        match = Stage(name=_MATCH, prepare=self.match, optimize=False)
        return (Stage(),) if self.config.captions else (match, Stage())

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        if stage.name == _MATCH:
            image = ImageView(preprocess=self.matcher.preprocess)
            return image, LabelView(label=self.config.label, name="class", needed=True)
        origin = (LabelView(label=ORIGIN),) if self.config.group_positives else ()
        return (*super().views(stage, stream), *origin)

    def match(self, run: Any) -> None:
        """Select each image's captions, and store their indices within the list of its class as the
        column `matched`."""
        config = self.config
        matcher = self.matcher
        source = run.sources["train"]
        captions = [text for texts in self.bank for text in texts]
        if not config.cut:
            assert matcher.tokenizer is not None, "a matcher reads texts"
            self._check(
                captions,
                matcher.tokenizer,
                "the matcher reads; shorten them, or let it read their beginnings with --method.cut true",
            )

        def look(batch: Batch) -> Mapping[str, Tensor]:
            labels: Any = batch.fields["class"]
            return {"image": matcher.encoder.embed_images(batch.image.flat), "class": labels}

        found = run.map(look, self.views(self.stages()[0]), source)
        images = torch.from_numpy(found["image"])
        labels = torch.from_numpy(found["class"]).long()
        sizes = [len(texts) for texts in self.bank]
        places, shares = matched(images, labels, matcher.embed_texts(captions), sizes, config.top)
        run.store("train", {"matched": places.numpy()})
        run.note(0, 1, float(-shares[:, 0].log().mean()), spread=spread(places[:, 0], labels))

        def write(path: Path) -> None:
            descriptions.write(path, self._captions(source, places.tolist(), labels.tolist()))

        run.write(f"captions_top{config.top}.json", write)

    def _captions(
        self, source: Source, places: Sequence[Sequence[int]], labels: Sequence[int]
    ) -> dict[str, list[str]]:
        """Return the matched captions of each image by its key, in the format of the option
        `captions`."""
        short = [[self.summaries.get(text, text) for text in texts] for texts in self.bank]
        captions = {}
        for key, label, row in zip(source.keys(), labels, places, strict=True):
            captions[key] = [short[label][place] for place in row if place >= 0]
        return captions

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        """Return the pairs of each image with the first captions that were selected for it."""
        if stage.name == _MATCH:
            return source
        if self.config.captions:
            return self._of_ready(source)
        assert isinstance(source, WithColumns), "captions are matched before they are trained on"
        labels = labels_of(source, self.config.label)
        places = source.columns["matched"][:, : self.config.use]
        starts = np.cumsum([0, *(len(texts) for texts in self.bank)])
        samples, at = np.nonzero(places >= 0)
        return Paired(
            source, samples, starts[labels[samples]] + places[samples, at], self.table(), _ROLE
        )

    def _of_ready(self, source: Source) -> Paired:
        named = [""] * len(source)
        if self.config.prefix:
            named = [self.names[label] for label in labels_of(source, self.config.label)]
        numbers: dict[str, int] = {}
        samples = []
        texts = []
        for origin, (key, name) in enumerate(zip(source.keys(), named, strict=True)):
            for caption in self.ready[key][: self.config.use]:
                samples.append(origin)
                texts.append(numbers.setdefault(self.said(name, caption), len(numbers)))
        self._check(
            list(numbers),
            self.make.tokenizer,
            f"the text tower reads; shorten them in {self.config.captions}",
        )
        return Paired(source, np.array(samples), np.array(texts), list(numbers), _ROLE)

    def _check(self, texts: Sequence[str], tokenizer: Tokenizer, whose: str) -> None:
        """Raise InputError if texts are longer than the context, which would truncate them
        silently."""
        if long := [text for text in texts if tokenizer.lost(text)]:
            raise InputError(
                f"{len(long)} of {len(texts)} captions, such as {long[0]!r}, are longer than the "
                f"{tokenizer.context} tokens that {whose}"
            )

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> dict[str, Tensor]:
        return {"contrastive": info_nce(image, text, self.model.logit_scale(), **equal)}

    def equal(self, batch: Batch, end: str) -> dict[str, Any]:
        if not self.config.group_positives:
            return {}
        origin: Any = batch.fields[ORIGIN]
        return {"targets": group_targets(origin.long())}


def matched(
    images: Tensor, labels: Tensor, texts: Tensor, sizes: Sequence[int], top: int
) -> tuple[Tensor, Tensor]:
    """Return the captions of each image's class that fit it best, in order.

    The results are their indices in the list of the class (n, top) long, -1 if that is shorter, and
    their shares of the softmax over it (n, top), 0 there.

    images (n, E) and labels (n,); texts (K, E) of all classes, one class after the other, with the
    counts `sizes`. The length of vectors has no effect. Of captions that fit equally, the earlier
    comes first.

    >>> images, texts = torch.tensor([[1.0, 0.2]]), torch.tensor([[9.0, 9.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    >>> matched(images, torch.tensor([1]), texts, [1, 3], 2)[0]  # of class 1, whose captions are the last three
    tensor([[2, 1]])
    """
    places = torch.full((len(images), top), -1)
    shares = images.new_zeros(len(images), top)
    for label, own in enumerate(normalize(texts, dim=1).split(list(sizes))):
        rows = torch.nonzero(labels == label)[:, 0]
        cosines = normalize(images[rows], dim=1) @ own.T
        found = cosines.argsort(dim=1, descending=True, stable=True)[:, :top]
        places[rows, : found.shape[1]] = found
        shares[rows, : found.shape[1]] = (FACTOR * cosines).softmax(1).gather(1, found)
    return places, shares


def spread(first: Tensor, labels: Tensor) -> float:
    """Return the number of different captions that come first for the images of a class, as a mean
    over classes: the exponential of the entropy of `first` (n,).

    At 1 all images of a class have the same text, as with the class name alone.

    >>> spread(torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 1, 1]))
    1.5
    """
    counts = [
        torch.unique(first[labels == label], return_counts=True)[1].float()
        for label in labels.unique()
    ]
    shares = [count / count.sum() for count in counts]
    return round(
        float(torch.stack([(-(share * share.log()).sum()).exp() for share in shares]).mean()), 4
    )


GIST.presets = {
    "small": replace(
        SMALL,
        recipe=replace(
            SMALL.recipe,
            optimizer="adam",
            betas=(0.9, 0.98),
            eps=1e-6,
            lr=1e-4,
            weight_decay=1e-3,
            batch_size=20,
        ),
    ),
    "paper": Preset(
        config={
            "matcher": "openclip:ViT-B-32/laion2b_s34b_b79k",
            "cut": True,
            "augment": {"crop": (0.08, 1.0), "flip": True},
        },
        image="vit:image_size=336:patch=14:width=1024:depth=24:heads=16:pre_norm=true",
        text="text:width=768:depth=12:heads=12",
        tokenizer="clip",
        embed_dim=768,
        recipe=Recipe(
            optimizer="adam",
            lr=1e-6,
            betas=(0.9, 0.98),
            eps=1e-6,
            weight_decay=1e-3,
            schedule="constant",
            warmup=0.0,
            batch_size=20,
            epochs=40,
        ),
    ),
}
