"""Generation with ConES: a denoiser that attends to the rows of concepts, the model that draws
images, and the loss of its stages.

Dimensions: B images, S x S pixels, L rows of a text, E embedding.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from diptych.data.batch import Batch
from diptych.data.images import Preprocess
from diptych.data.sample import Source
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import Augment, ImageView, LabelView, NoiseView, TextView, View
from diptych.errors import InputError
from diptych.methods.adapt.cones.bank import ConceptBank, ConceptModule, TextSide
from diptych.methods.base import Features, Losses
from diptych.methods.families.few_shot import class_names
from diptych.methods.make import Make
from diptych.models.adapted import TrainedClassesModel
from diptych.models.delivered import Validation
from diptych.models.diffusion import check_drawing, to_images
from diptych.models.model import evaluating
from diptych.spec import configure
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.denoiser import Denoiser, DenoiserConfig, noise_errors


class ConceptDrawer(ConceptModule):
    """An encoder, a denoiser that attends to the rows of texts, and a bank of concepts: whole
    prompts, of which the rows of the name are trained. `empty` (L', E) are the rows of the empty
    prompt."""

    form = "prompt"
    empty: Tensor

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer | None,
        template: str,
        denoiser: DenoiserConfig = DenoiserConfig(),
    ):
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.template = template
        self.bank = ConceptBank(encoder.embed_dim)
        self.denoiser = Denoiser(encoder.embed_dim, denoiser)
        self.classes = ()
        self.label = ""
        self.register_buffer("empty", torch.zeros(1, encoder.embed_dim))

    @property
    def image(self) -> Any:
        """The image tower, which has the preprocessing."""
        return self.encoder.image

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the label is known once it is made
        """Fields of a source that validation reads."""
        return "images.main", f"labels.{self.label}"

    def forward(self, x: Tensor, noise: Tensor, time: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        """Return the mean squared error (B,) of the predicted noise.

        Inputs: uint8 images (B, 3, S, S), noise of the same shape, times (B,), and rows (B, L, E)
        with their mask.
        """
        return noise_errors(self.denoiser, self.denoiser.pixels(x), noise, time, rows, mask)

    def extra_state(self) -> dict[str, Any]:
        return {
            **super().extra_state(),
            "denoiser": asdict(self.denoiser.config),
            "empty": len(self.empty),
        }

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        config = configure(DenoiserConfig, values["denoiser"], "denoiser")
        self.denoiser = Denoiser(self.encoder.embed_dim, config)
        self.empty = torch.zeros(values["empty"], self.encoder.embed_dim)
        super().load_extra_state(values)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return ConceptDrawerModel(self, preprocess, name=name)


class ConceptDrawerModel(TrainedClassesModel):
    """A model that draws concepts; its embeddings are its encoder's."""

    delivered: ConceptDrawer

    def __init__(self, delivered: ConceptDrawer, preprocess: Preprocess, *, name: str):
        super().__init__(delivered, preprocess, name=name)
        self.validation = Validation("clip_i", ("clip_i", "top1"), {"label": self.label})

    def class_logits(self, images: Any, **options: Any) -> Tensor:
        raise InputError(f"{self.name} draws and names no images; name a classifier")

    def draw(
        self,
        name: str,
        count: int = 1,
        *,
        words: str = "",
        guidance: float = 3.0,
        steps: int = 50,
        seed: int = 0,
    ) -> list[Image.Image]:
        """Draw images of a concept. `words` are ordinary words, whose rows follow the concept's.

        Raises InputError for a name that was not trained, for words without a text tower, and for
        numbers that are out of range.
        """
        check_drawing(count, steps, guidance)
        before = self.delivered.classes
        self.delivered.set_classes([name])
        try:
            with evaluating(self.delivered), torch.inference_mode():
                rows, mask = self.delivered.class_rows()
                if words:
                    rows, mask = self._with(rows, mask, words)
                pixels = self.delivered.denoiser.draw(
                    rows.expand(count, -1, -1),
                    mask.expand(count, -1),
                    self.delivered.empty,
                    guidance=guidance,
                    steps=steps,
                    generator=torch.Generator().manual_seed(seed),
                )
        finally:
            self.delivered.classes = before
        return to_images(pixels)

    def _with(self, rows: Tensor, mask: Tensor, words: str) -> tuple[Tensor, Tensor]:
        side = self.delivered.side()
        if side is None:
            raise InputError(
                f"{self.name} has no text tower to tell the words {words!r}; leave them out, or train "
                "with --method.keep_text true"
            )
        further, there = side.tokens(side.tokenizer.encode([words]))
        return torch.cat([rows, further], 1), torch.cat([mask, there], 1)


class Generate:
    """Generation of concepts by a denoiser; in the stage `base` the denoiser is trained on images
    and their captions."""

    heads: ClassVar[Sequence[str]] = ("model.denoiser",)
    vision: ClassVar[Sequence[str]] = ("model.denoiser",)
    recipe: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "weight_decay": 0.01,
        "batch_size": 64,
        "steps": 2000,
    }
    drop: ClassVar[float] = 0.1
    """The share of captions that are replaced by the empty prompt, for classifier-free guidance."""

    def __init__(self, config: Any, make: Make, encoder: DualEncoder, augment: Augment):
        options = configure(DenoiserConfig, dict(config.head), "denoiser")
        self.model = ConceptDrawer(encoder, make.words, config.template, options)
        self.config = config
        self.augment = augment
        self.words = make.words
        self.trained = isinstance(given := make.delivered, ConceptDrawer)
        if isinstance(given, ConceptDrawer):
            self.model.denoiser = copy.deepcopy(given.denoiser)
            self.model.empty = given.empty.clone()
        self.side: TextSide | None = None

    def setup(self, base: Source | None, side: TextSide | None) -> None:
        self.side = side
        if base is None:
            return
        if side is None:
            raise InputError(
                "the denoiser reads captions through a text tower, and this model has none; start from "
                "one of images and texts, or from a run that has a denoiser"
            )
        rows, mask = side.tokens(side.tokenizer.encode([""]))
        self.model.empty = rows[mask].to(self.model.empty.device)

    def names(self, source: Source) -> tuple[str, ...]:
        return class_names(source, self.config.label)

    def views(self, base: bool) -> Sequence[View]:
        denoiser = self.model.denoiser
        shape = (3, denoiser.config.size, denoiser.config.size)
        noise = NoiseView(shape=shape, steps=denoiser.config.steps, drop=self.drop if base else 0.0)
        image = ImageView(preprocess=denoiser.preprocess, augment=self.augment)
        if not base:
            return image, LabelView(label=self.config.label, name="class", needed=True), noise
        if self.words is None:
            raise InputError(
                "the denoiser reads captions, and this model came without a tokenizer; start from a run "
                "that has a denoiser"
            )
        return image, TextView(tokenizer=self.words, role=self.config.role), noise

    def encode(self, batch: Batch, base: bool) -> Features:
        fields: Any = batch.fields
        if base:
            assert self.side is not None, "the stage base has met its source"
            rows, mask = self.without(*self.side.encode(*batch.text.flat), fields["dropped"])
        else:
            values, there = self.model.bank.as_text_embeddings()
            rows = values[fields["class"].long()]
            mask = there[fields["class"].long()]
        return {"error": self.model(batch.image.flat, fields["noise"], fields["time"], rows, mask)}

    def without(self, rows: Tensor, mask: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows (B, L, E) with their mask (B, L), replaced by those of the empty prompt where
        `dropped` (B,)."""
        empty = self.model.empty
        more = max(0, len(empty) - rows.shape[1])
        rows = pad(rows, (0, 0, 0, more))
        mask = pad(mask, (0, more))
        nothing = pad(empty, (0, 0, 0, rows.shape[1] - len(empty)))
        there = torch.arange(rows.shape[1], device=rows.device) < len(empty)
        return torch.where(dropped[:, None, None], nothing, rows), torch.where(
            dropped[:, None], there, mask
        )

    def loss(self, features: Features, batch: Batch, base: bool) -> Losses:
        return Losses({"noise": features["error"].mean()})
