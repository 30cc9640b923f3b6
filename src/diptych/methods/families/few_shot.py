"""Base of methods that adapt a dual encoder to named classes: labelled images in, a classifier out.

    L = mean_i CE(s <x_i, t_c>, c = y_i)

The class names are those of the label in the training data; the classifier accepts others later.
These methods start from a model (`--init`), whose weights do not change unless the method trains
them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch.nn.functional import cross_entropy

from diptych.data.batch import Batch
from diptych.data.loader import require
from diptych.data.sample import Source, labels_of
from diptych.data.views import ArrayView, ImageView, LabelView, View, augmentation
from diptych.errors import InputError, located, some
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.make import Make
from diptych.methods.store import read_prompts
from diptych.models.class_names import check_names
from diptych.models.class_prompts import ClassPrompts
from diptych.models.classifier import Classifier
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """`label` is the label of the classes; `augment` holds options of `data.views.Augment`."""

    label: str = "class"
    augment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(LabelConfig):
    """`template` is the prompt that contains the class name."""

    template: str = "a photo of a {}."


@dataclass(frozen=True, kw_only=True)
class PromptedConfig(ClassifyConfig):
    """`prompts` is a run that searched for prompts of the same classes; they take the template's
    place."""

    prompts: str | None = None


class Classify(Method):
    """A classifier on a frozen encoder. A subclass defines `build`."""

    Config = ClassifyConfig
    adapts: ClassVar[bool] = True
    named: ClassVar[bool] = True
    """Whether class embeddings come from the class names, through the text tower."""
    model: Classifier

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "classify {run} IMAGES --names 'A,B,C'",
            "evaluate {run} --data {data} --suite zeroshot",
        )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.augment = augmentation(config.augment)
        if self.cached and config.augment:
            raise InputError(
                "images that are cached are embedded once and cannot vary; leave augment out"
            )
        encoder = make.dual(logit_scale=Temperature(100.0, form="fixed"))
        if self.named and (encoder.text is None or make.words is None):
            raise InputError(
                "classes are told by their names, and this model has no text tower or came without its "
                "tokenizer; start from one of images and texts"
            )
        self.model = self.build(encoder)
        self.model.label = config.label

    @property
    def cached(self) -> bool:
        """Whether each image is embedded once, before training, and steps read its vector
        instead."""
        return getattr(self.config, "cached", False)

    def build(self, encoder: DualEncoder) -> Classifier:
        """Return the classifier to train on the encoder."""
        raise NotImplementedError

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Set the class names of the training data. Raises InputError if the label has none."""
        if names := class_names(sources["train"], self.config.label):
            with located(sources["train"].name):
                if prompts := self.prompts_for(names):
                    self.model.use_prompts(prompts)
                self.model.set_classes(names)

    def prompts_for(self, names: Sequence[str]) -> ClassPrompts | None:
        """Return the prompts of the run that the options name, or None if they name none.

        Raises InputError if it has none, or of other classes than these.
        """
        run = self.config.prompts if isinstance(self.config, PromptedConfig) else None
        return None if run is None else read_prompts(run).for_classes(names)

    def stages(self) -> Sequence[Stage]:
        return (
            Stage(min_batch=1, prepare=self.embed if self.cached else None),
        )  # the loss of an image depends on no other image

    def embed(self, run: Any) -> None:
        """Embed all images once, without augmentation, and store the vectors for the stage to
        read."""
        source = run.sources["train"]
        view = self.image_view
        require(source, view.reads, self.name)
        embed = self.model.image_features
        run.store(
            "train", run.map(lambda batch: {"image": embed(batch.image.flat)}, [view], source)
        )

    @property
    def image_view(self) -> ImageView:
        """The view that reads the images."""
        return ImageView(preprocess=self.model.image.preprocess, augment=self.augment)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        kept = ArrayView(array="image", shape=(self.model.encoder.embed_dim,))
        label = LabelView(label=self.config.label, name="class", needed=True)
        return kept if stage.prepare == self.embed else self.image_view, label

    def encode(self, batch: Batch, at: At) -> Features:
        vectors: Any = batch.fields.get("image")
        return {
            "logits": self.model(batch.image.flat)
            if vectors is None
            else self.model.of_vectors(vectors)
        }

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        labels: Any = batch.fields["class"]
        hits = (features["logits"].argmax(1) == labels).float().mean()
        return Losses(
            {"classes": cross_entropy(features["logits"], labels.long())}, {"accuracy": hits}
        )


def class_names(source: Source, label: str) -> tuple[str, ...]:
    """Return the class names of a label; () if the source lacks the label, which is reported with
    all other missing fields.

    Raises InputError if the label has no class names, if two names are equal, or if a class has no
    sample.
    """
    field = source.schema().get(f"labels.{label}")
    if field is not None and not field.classes:
        raise InputError(
            f"the label {label!r} of {source.name!r} has no class names; name another with "
            "--method.label, or give a folder a class"
        )
    if field is None:
        return ()
    with located(source.name):
        names = check_names(field.classes)
    if len(empty := np.setdiff1d(np.arange(len(names)), labels_of(source, label))):
        raise InputError(
            f"{source.name} has no sample of {some(names[number] for number in empty)}; add some, or name "
            "the classes that have samples, with :classes=NAME+NAME"
        )
    return names


# The towers come from the given model; the contract suite, which has none, builds these.
SMALL = Preset(
    image="vit:image_size=64:patch=8:width=128:depth=4",
    text="text:width=128:depth=4",
    tokenizer="bpe:vocab_size=2048:context=32",
    embed_dim=128,
    recipe=Recipe(
        optimizer="sgd",
        lr=0.02,
        betas=(0.9, 0.0),
        weight_decay=5e-4,
        warmup=0.1,
        batch_size=16,
        epochs=10,
    ),
)
# CLIP's ViT-B/16, given by --init. The published cosine schedule counts epochs and has a first
# epoch at 1e-5 [choice: a ramp].
PAPER = Preset(
    config={"augment": {"crop": (0.08, 1.0), "flip": True}},
    image="vit:image_size=224:patch=16:width=768:depth=12:heads=12:pre_norm=true",
    text="text:width=512:depth=12:heads=8",
    tokenizer="clip",
    embed_dim=512,
    recipe=Recipe(
        optimizer="sgd",
        lr=0.0035,
        betas=(0.9, 0.0),
        weight_decay=5e-4,
        warmup=0.2,
        batch_size=4,
        epochs=5,
    ),
)
