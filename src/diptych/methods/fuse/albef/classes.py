"""Answers that are a few classes, such as entailment (SNLI-VE): a head on what the multimodal encoder makes of
image and text.

    p = softmax(MLP(h_1)),    L = mean of (1 - alpha) CE(p, class) + alpha CE(p, p'),    p' of a momentum copy

h_1 is the first token of the multimodal encoder; the MLP has a hidden layer of its width with ReLU. The
classes are the answers of the training data.

Dimensions: B texts with images, L tokens, M tokens of an image, C classes, D width.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.images import Preprocess
from diptych.data.loader import require
from diptych.data.questions import asked_of
from diptych.data.sample import BadSample, Sample, Source
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.data.views import ImageView, View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.fuse.albef.base import FusionMethod
from diptych.methods.fuse.albef.model import MultimodalEncoder, text_of
from diptych.methods.make import Make
from diptych.models.delivered import Delivered, Validation
from diptych.models.model import ImagesLike, Model, evaluating
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Momentum, Temperature, freeze


@dataclass(frozen=True, kw_only=True)
class ClassView:
    """A question, texts.question (B, 1, L), and the number of its answer among `classes`, fields.class
    (B,): in training random ones, else the first.

    Raises BadSample: no-question without a question with an answer, other-class for an answer that is
    no class.
    """

    tokenizer: Tokenizer
    classes: Sequence[str]
    reads = ("texts.question", "texts.answer")
    gives = ("texts.question", "fields.class")

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        question, answer = asked_of(sample, rng, progress is not None)
        if answer.lower() not in self.classes:
            raise BadSample("other-class", f"{sample.key} has the answer {answer!r}, no class")
        found = (self.tokenizer.encode([question.lower()]), self.classes.index(answer.lower()))
        return dict(zip(self.gives, found, strict=True))


class PairClassifier(Delivered):
    """A dual encoder, the multimodal encoder of images and texts, and a classifier of its first token,
    once `set_classes` was called."""

    reads = ("images.main", "texts.question", "texts.answer")

    def __init__(self, encoder: DualEncoder, depth: int | None = None):
        super().__init__()
        text = text_of(encoder)
        self.encoder = encoder
        self.multimodal = MultimodalEncoder(text, encoder.image.width, depth)
        freeze(self.multimodal.words)  # no words are masked
        self.classes: tuple[str, ...] = ()
        self.head = nn.Sequential()

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of images."""
        return self.encoder.image.preprocess

    def set_classes(self, classes: Sequence[str]) -> None:
        """Make a new head for classes, unless they are those that there are."""
        if tuple(classes) == self.classes:
            return
        self.classes = tuple(classes)
        width = self.multimodal.norm.normalized_shape[0]
        device = self.multimodal.norm.weight.device
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(classes))
        ).to(device)

    def extra_state(self) -> dict[str, Any]:
        return {"classes": list(self.classes)}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        self.set_classes(values["classes"])

    def forward(self, pixels: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """Images (B, 3, H, W) and texts (B, L) with lengths (B,) -> logits (B, C)."""
        seen = self.encoder.encode_image(pixels).tokens
        read = self.encoder.encode_text(ids, lengths).tokens
        return self.head(self.multimodal(read, lengths, seen)[:, 0])

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "PairClassifierModel":
        assert preprocess is not None, "it has an image tower"
        return PairClassifierModel(self.encoder, tokenizer, preprocess, name=name, delivered=self)


class PairClassifierModel(Model):
    """A model that answers a question, or judges a text, about an image by one of its `answers`."""

    delivered: PairClassifier
    validation = Validation("answers", ("exact", "vqa"))

    @property
    def answers(self) -> tuple[str, ...]:
        """What it chooses from."""
        return self.delivered.classes

    def generate(
        self,
        images: ImagesLike,
        prompts: Sequence[str] | None = None,
        *,
        batch_size: int = 64,
        exact: bool = False,
        **options: Any,
    ) -> list[str]:
        """Return the likeliest of `answers` for text i with image i.

        `images` and errors are those of `embed_images`; InputError also without a text for each image,
        and for options of a language model.
        """
        if options:
            raise InputError(
                f"{self.name} chooses from {len(self.answers)} classes and writes nothing; leave out "
                f"{', '.join(sorted(options))}"
            )
        batches, count = self._batches(images, batch_size, exact)
        if prompts is None or isinstance(prompts, str) or len(prompts) != count:
            raise InputError(f"{self.name} judges texts about images; give one for each of {count}")
        assert self.tokenizer is not None, "it was trained with a tokenizer"
        rows = self.tokenizer.encode([text.lower() for text in prompts])
        found: list[str] = []
        with evaluating(self.delivered), torch.inference_mode():
            for (pixels,) in batches:
                mine = rows[len(found) : len(found) + len(pixels)]
                ids, lengths = pad_batch(mine, self.tokenizer)
                parts = (part.to(self.device) for part in (pixels, ids, lengths))
                found += [self.answers[at] for at in self.delivered(*parts).argmax(1).tolist()]
        return found


class ALBEFClasses(FusionMethod):
    """Trains the head of classes, and all that it reads."""

    model: PairClassifier

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(logit_scale=Temperature(config.temperature, form="divisor"))
        self.model = PairClassifier(encoder, config.depth)
        make.go_on_part(self.model.multimodal, "multimodal")
        if isinstance(make.delivered, PairClassifier):
            self.model.load_extra_state(make.delivered.extra_state())
            make.go_on(self.model)
        freeze(encoder.image_projection, encoder.text_projection, encoder.logit_scale)
        freeze(getattr(encoder.image, "pool", None))

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data {data} --suite answers",
            "generate {run} 'A TEXT' --images IMAGES",
        )

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Set the classes, the answers of the training data, and make the copy. Raises InputError for
        fewer than two."""
        require(sources["train"], ClassView.reads, self.name)
        self.model.set_classes(classes_of(sources["train"]))
        self.slow = Momentum(self.model, self.config.momentum)

    def stages(self) -> Sequence[Stage]:
        return (self.stage(),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        image = ImageView(preprocess=self.model.preprocess, augment=self.augment)
        return image, ClassView(tokenizer=self.make.tokenizer, classes=self.model.classes)

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the logits of the classes (B, C), and those of the copy."""
        given = (batch.image.flat, *batch.texts["question"].flat)
        found = {"logits": self.model(*given)}
        if self.config.alpha:
            found["slow"] = self.slow(*given)
        return found

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        alpha = self.config.alpha_at(at)
        logits = features["logits"]
        classes = batch.fields["class"]
        loss = F.cross_entropy(logits, classes)
        if "slow" in features:
            soft = features["slow"].detach().softmax(1)
            loss = (1 - alpha) * loss + alpha * F.cross_entropy(logits, soft)
        right = (logits.argmax(1) == classes).to(logits.dtype).mean()
        return Losses({"classes": loss}, {"alpha": alpha, "accuracy": right.detach()})

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        self.slow.update()


def classes_of(source: Source) -> tuple[str, ...]:
    """The answers of a source in lower case, the most common first.

    Raises InputError for fewer than two.
    """
    count: Counter[str] = Counter()
    for at in range(len(source)):
        try:
            count.update(text.lower() for text in source[at].captions("answer"))
        except BadSample:  # counted when it is read
            continue
    if len(count) < 2:
        raise InputError(
            f"{source.name} has {len(count)} different answers, and a classifier chooses from two or more; name "
            "a source of questions with texts of role answer"
        )
    return tuple(sorted(count, key=lambda text: (-count[text], text)))
