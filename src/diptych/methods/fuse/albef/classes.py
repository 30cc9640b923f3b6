"""Answers that are a few classes, such as entailment (SNLI-VE), or whether a statement about two images is true
(NLVR2): a head on what the multimodal encoder makes of images and text.

    p = softmax(MLP(h_1)),    L = mean of (1 - alpha) CE(p, class) + alpha CE(p, p'),    p' of a momentum copy

h_1 is the first token of the multimodal encoder; the MLP has a hidden layer of its width with ReLU. The
classes are the answers of the training data. Of several images each is read by a block of its own in
every layer.

Dimensions: B texts with images, K images of each, L tokens, M tokens of an image, C classes, D width.
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
from diptych.data.clips import Pages
from diptych.data.held import encoded
from diptych.data.images import Preprocess
from diptych.data.loader import require
from diptych.data.questions import asked_of
from diptych.data.sample import BadSample, Sample, Source, image_of
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


class PairEncoder(Delivered):
    """A dual encoder, and the multimodal encoder of one or several images and a text."""

    def __init__(self, encoder: DualEncoder, depth: int | None = None, images: int = 1):
        super().__init__()
        text = text_of(encoder)
        self.encoder = encoder
        self.multimodal = MultimodalEncoder(text, encoder.image.width, depth, images)
        freeze(self.multimodal.words)  # no words are masked

    @property
    def images(self) -> int:
        """The number of images that a text is about."""
        return self.multimodal.images

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of images."""
        return self.encoder.image.preprocess

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Model:
        assert preprocess is not None, "it has an image tower"
        return Model(self.encoder, tokenizer, preprocess, name=name, delivered=self)


class PairClassifier(PairEncoder):
    """A classifier of the multimodal encoder's first token, once `set_classes` was called."""

    def __init__(self, encoder: DualEncoder, depth: int | None = None, images: int = 1):
        super().__init__(encoder, depth, images)
        self.classes: tuple[str, ...] = ()
        self.head = nn.Sequential()

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # by the number of images
        """Fields of a source that validation reads."""
        images = (f"images.{image_of(page)}" for page in range(self.images))
        return *images, "texts.question", "texts.answer"

    def set_classes(self, classes: Sequence[str]) -> None:
        """Make a new head for classes, unless they are those that there are."""
        if tuple(classes) == self.classes:
            return
        self.classes = tuple(classes)
        width = self.multimodal.width
        device = self.multimodal.words.bias.device
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(classes))
        ).to(device)

    def extra_state(self) -> dict[str, Any]:
        return {"classes": list(self.classes)}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        self.set_classes(values["classes"])

    def forward(self, pixels: Sequence[Tensor], ids: Tensor, lengths: Tensor) -> Tensor:
        """K images (B, 3, H, W) and texts (B, L) with lengths (B,) -> logits (B, C)."""
        seen = [self.encoder.encode_image(each).tokens for each in pixels]
        read = self.encoder.encode_text(ids, lengths).tokens
        return self.head(self.multimodal(read, lengths, *seen)[:, 0])

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "PairClassifierModel":
        assert preprocess is not None, "it has an image tower"
        return PairClassifierModel(self.encoder, tokenizer, preprocess, name=name, delivered=self)


class PairClassifierModel(Model):
    """A model that answers a question, or judges a text, about an image, or several, by one of its
    `answers`."""

    delivered: PairClassifier
    validation = Validation("answers", ("exact", "vqa"))

    @property
    def images_read(self) -> int:  # type: ignore[override]  # of this model
        """The number of images that a text is about."""
        return self.delivered.images

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

        `images` and errors are those of `embed_images`; where a text is about several images, each is a
        tuple of as many, or all are a preprocessed tensor (N, K, 3, H, W). InputError also for another
        number of images or texts, and for options of a language model.
        """
        if options:
            raise InputError(
                f"{self.name} chooses from {len(self.answers)} classes and writes nothing; leave out "
                f"{', '.join(sorted(options))}"
            )
        batches, count = self._batches(_together(images), batch_size, exact, clips=True)
        if prompts is None or isinstance(prompts, str) or len(prompts) != count:
            raise InputError(f"{self.name} judges texts about images; give one for each of {count}")
        assert self.tokenizer is not None, "it was trained with a tokenizer"
        rows = self.tokenizer.encode([text.lower() for text in prompts])
        found: list[str] = []
        with evaluating(self.delivered), torch.inference_mode():
            for (pixels,) in batches:
                each = self._each(pixels.to(self.device))
                mine = rows[len(found) : len(found) + len(pixels)]
                ids, lengths = (part.to(self.device) for part in pad_batch(mine, self.tokenizer))
                best = self.delivered(each, ids, lengths).argmax(1)
                found += [self.answers[at] for at in best.tolist()]
        return found

    def _each(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The K images (B, 3, H, W) of each text, of pixels (B, 3, H, W) or (B, K, 3, H, W)."""
        each = pixels[:, None] if pixels.ndim == 4 else pixels
        if each.shape[1] != self.images_read:
            raise InputError(
                f"{self.name} reads {self.images_read} images with a text, and {each.shape[1]} were given; give as many"
            )
        return each.unbind(1)


def _together(images: ImagesLike) -> ImagesLike:
    """Images, of which tuples are read together."""
    if not isinstance(images, Sequence) or isinstance(images, str):
        return images
    return [
        Pages(tuple(map(encoded, each))) if isinstance(each, tuple) else each for each in images
    ]


class ALBEFClasses(FusionMethod):
    """Trains the head of classes, and all that it reads."""

    model: PairClassifier

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        encoder = make.dual(logit_scale=Temperature(config.temperature, form="divisor"))
        self.model = PairClassifier(encoder, config.depth, config.images or 1)
        multimodal = self.model.multimodal
        make.go_on_part(multimodal, "multimodal", multimodal.repeated)
        if isinstance(make.delivered, PairClassifier):
            self.model.load_extra_state(make.delivered.extra_state())
            make.go_on(self.model)
        self.set_size(encoder)
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
        require(sources["train"], self.model.reads, self.name)
        self.model.set_classes(classes_of(sources["train"]))
        self.slow = Momentum(self.model, self.config.momentum)

    def stages(self) -> Sequence[Stage]:
        return (self.stage(),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        roles = [image_of(page) for page in range(self.model.images)]
        how = {"preprocess": self.model.preprocess, "augment": self.augment}
        images = (ImageView(name=role, role=role, **how) for role in roles)
        return *images, ClassView(tokenizer=self.make.tokenizer, classes=self.model.classes)

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the logits of the classes (B, C), and those of the copy."""
        given = (images_of(batch), *batch.texts["question"].flat)
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


def images_of(batch: Batch) -> list[Tensor]:
    """The images (B, 3, H, W) of a batch, one after another."""
    return [batch.images[image_of(page)].flat for page in range(len(batch.images))]


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
