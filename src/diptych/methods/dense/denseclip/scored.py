"""What DenseCLIP's segmentor and its detector share: a dual encoder with learned prompts, a context
decoder, and maps with the scores of classes.

    t_b  = t + gamma · Decoder(t, [z_bar_b, z_b])            texts in the context of an image
    s_b  = <unit z_b, unit t_b>                              the score map, a channel for each class
    maps = …, [x_i, s_b], …                                  what a head reads

Dimensions: B images, K classes, P context vectors, D text width, E embedding, M vectors of an image,
h x w positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError, some
from diptych.methods.dense.denseclip.decoder import ContextDecoder
from diptych.methods.dense.denseclip.features import (
    DenseFeatures,
    dense_features,
    is_vit,
    map_widths,
    prepared,
)
from diptych.methods.dense.denseclip.head import Norm, VitPyramid
from diptych.models.class_names import check_names
from diptych.models.prompts import PromptLearner
from diptych.spec import Count, Dropout, Positive, Width
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import freeze, thaw

Context = Literal["post", "pre", "none"]

GAMMA = 1e-4
"""The initial weight of the decoder's output in each dimension of a text."""
AT_ONCE = 256
"""The most texts that are encoded at once where each image has its own."""


@dataclass(frozen=True, kw_only=True)
class ScoredConfig:
    """The parts that both heads have.

    - `context` is what the decoder's queries are: the texts of the classes ("post"), the context
      vectors before them ("pre", one pass of the text tower an image), or there is no decoder
      ("none").
    - `n_ctx` context vectors precede each class name; they are drawn from a normal distribution of
      standard deviation `context_std`, cut at 2.
    - `tau` divides the scores in their loss; with `scaled_scores` also those that the head reads
      (None: a detector's alone).
    - `size` is the side of the images in pixels (None: the model's).
    - `width` is that of the feature pyramid, `inner` that of the segmentor's head behind it, and
      `norm` the kind of norm in both; `decoder_width`, `decoder_heads` and `decoder_depth` are the
      context decoder's.
    """

    context: Context = "post"
    n_ctx: Count = 8
    context_std: Positive = 1.0
    tau: Positive = 0.07
    scaled_scores: bool | None = None
    size: Count | None = None
    width: Width = 256
    inner: Width = 128
    norm: Norm = "group"
    decoder_width: Width = 256
    decoder_heads: Count = 4
    decoder_depth: Count = 3
    dropout: Dropout = 0.1


class Scored(PromptLearner):
    """A dual encoder whose maps have scores of the classes that it was trained on; a subclass has the
    head that reads them.

    `set_classes` names the classes once, and makes the head, whose width depends on their number.
    The text tower is frozen; gradients pass through it to the context vectors.
    """

    scaled: bool
    """Whether the head reads the scores divided by tau, unless the options say so."""
    skipped: int
    """How many of the finest of several maps the head does not read."""

    def __init__(self, encoder: DualEncoder, tokenizer: Tokenizer, config: ScoredConfig):
        prepared(encoder.image, config.size)
        super().__init__(
            encoder, tokenizer, "{}", n_ctx=config.n_ctx, init_from_template=False, position="end"
        )
        self.config = config
        thaw(encoder.image, encoder.image_projection, encoder.image_pooler)
        # nothing is hidden, and a new attention pool takes the place of the tower's own
        freeze(getattr(encoder.image, "mask_token", None), *getattr(encoder.image, "unread", ()))
        nn.init.trunc_normal_(self.context, std=config.context_std)
        E = encoder.embed_dim
        queries = self.context.shape[-1] if config.context == "pre" else E
        self.decoder = None
        self.gamma = None
        if config.context != "none":
            self.decoder = ContextDecoder(
                queries,
                E,
                width=config.decoder_width,
                heads=config.decoder_heads,
                depth=config.decoder_depth,
                dropout=config.dropout,
            )
        if config.context == "post":
            self.gamma = nn.Parameter(torch.full((E,), GAMMA))
        widths = map_widths(encoder)
        self.first = min(self.skipped, len(widths) - 1)
        self.widths = widths[self.first :]
        self.pyramid: VitPyramid | None = None
        if is_vit(encoder.image):
            self.pyramid = VitPyramid(self.widths[0], config.norm, self.first)
        self.head: nn.Module | None = None

    @property
    def scored(self) -> int:
        """The index of the map that has the positions of the score map."""
        return len(self.widths) - (1 if self.pyramid is None else 2)

    def set_classes(self, names: Sequence[str]) -> None:
        """Name the classes that the head is made for. Raises InputError for other ones than it has,
        and for names that do not fit into the context of the text tower."""
        classes = check_names(names)
        if self.head is not None and classes != self.classes:
            raise InputError(
                f"the head was trained for {len(self.classes)} classes, such as {some(self.classes)}, and has no "
                "others; train it on data of these"
            )
        super().set_classes(classes)
        if self.head is not None:
            return
        widths = list(self.widths)
        widths[self.scored] += len(classes)
        self.head = self.build_head(widths).to(self.context.device)

    def build_head(self, widths: Sequence[int]) -> nn.Module:
        """The head that reads maps of these channels, for the classes."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:  # type: ignore[override]
        super().train(mode)
        assert self.encoder.text is not None
        self.encoder.text.eval()
        return self

    def class_texts(self) -> Tensor:
        """The classes (K, E) by the context vectors, not normalised."""
        return self._texts(self.embeddings(self.context), self.lengths)

    def _texts(self, embeddings: Tensor, lengths: Tensor) -> Tensor:
        encoded = self.encoder.encode_text(None, lengths, embeddings=embeddings)
        return self.encoder.project_text(encoded.pooled)

    def texts_of(self, dense: DenseFeatures, texts: Tensor | None = None) -> Tensor:
        """The classes in the context of each image (B, K, E), not normalised; `texts` are
        `class_texts`, if computed already."""
        memory = torch.cat([dense.vector[:, None], dense.positions.flatten(2).mT], dim=1)
        if self.config.context == "pre":
            assert self.decoder is not None
            return self._with_prompts(
                self.decoder(self.context.expand(len(memory), -1, -1), memory)
            )
        texts = self.class_texts() if texts is None else texts
        texts = texts.expand(len(memory), -1, -1)
        if self.decoder is None or self.gamma is None:
            return texts
        return texts + self.gamma * self.decoder(texts, memory)

    def _with_prompts(self, context: Tensor) -> Tensor:
        """The classes (B, K, E) by the context vectors (B, P, D) of each image."""
        images = len(context)
        classes = len(self.classes)
        owners = torch.arange(images, device=context.device).repeat_interleave(classes)
        which = torch.arange(classes, device=context.device).repeat(images)

        def encoded(owner: Tensor, number: Tensor) -> Tensor:
            return self._texts(self.embeddings(context[owner], number), self.lengths[number])

        found: list[Tensor] = []
        for part in zip(owners.split(AT_ONCE), which.split(AT_ONCE), strict=True):
            if torch.is_grad_enabled():
                found.append(checkpoint(encoded, *part, use_reentrant=False))  # type: ignore[arg-type]  # a tensor
            else:
                found.append(encoded(*part))
        return torch.cat(found).unflatten(0, (images, classes))

    def scored_maps(self, x: Tensor, texts: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """The maps of images (B, 3, H, W) that the head reads, of which one has the scores, and the
        scores (B, K, h, w). `texts` are `class_texts`, if computed already."""
        if self.head is None:
            raise InputError("this model knows no classes; name them first, with set_classes")
        dense = dense_features(self.encoder, x)
        scores = score_maps(dense.positions, self.texts_of(dense, texts))
        maps = list(dense.maps[self.first :])
        if self.pyramid is not None:
            maps = self.pyramid(maps)
        own = self.config.scaled_scores
        read = scores / self.config.tau if (self.scaled if own is None else own) else scores
        maps[self.scored] = torch.cat([maps[self.scored], read], dim=1)
        return maps, scores

    def load_extra_state(self, values: Any) -> None:
        if values["classes"]:
            self.set_classes(values["classes"])


def score_maps(positions: Tensor, texts: Tensor) -> Tensor:
    """The cosines (B, K, h, w) of positions (B, E, h, w) and classes (B, K, E).

    >>> score_maps(torch.ones(1, 2, 1, 1), torch.tensor([[[3.0, 3.0], [1.0, -1.0]]])).flatten().tolist()
    [1.0, 0.0]
    """
    unit = F.normalize(positions, dim=1).flatten(2)
    return (F.normalize(texts, dim=-1) @ unit).unflatten(2, positions.shape[-2:])
