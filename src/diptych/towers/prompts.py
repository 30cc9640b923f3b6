"""Prompts that are learnt: vectors beside the names (CoOp), and in the residual streams of both towers (MaPLe and kin).

Dimensions: N pictures, C classes, L tokens of a prompt, M vectors, D tower width, E embedding.
"""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.towers.classifier import Classifier, check_names, freeze, parted
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Edit
from diptych.towers.transformer import Insert, chain

Position = Literal["end", "middle", "front", "name"]
STD = 0.02  # of vectors that begin at random


class Prompted(Classifier):
    """Vectors in the prompts beside the names: the context that CoOp and its kin learn.

    `length` vectors stand in place of the template's words before the name (None: as many as those have tokens). With
    `start` they begin as those tokens' embeddings, else as N(0, 0.02²). `position` puts the name behind them ("end"),
    between two halves ("middle") or before them ("front"); with "name" the words stay, and the vectors (None: one) take
    the name's place, which is textual inversion (Gal et al., ICLR 2023). With `own` each class has vectors of its own,
    which fit no other names.
    """

    places: Tensor
    keeps: ClassVar[bool] = False
    """Whether fewer vectors than words take the place of the first of them, and the others stay."""

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer, template: str = "a photo of a {}.", *,
        length: int | None = None, start: bool = True, position: Position = "end", own: bool = False,
    ):  # fmt: skip
        super().__init__(encoder, tokenizer, template)
        assert encoder.text is not None
        table: Any = getattr(encoder.text, "table", None)
        if table is None:
            raise InputError("prompts are learnt in the place of a text tower's embeddings, which this one does not "
                             "show; start from a run, openclip: or a CLIP of hf:")  # fmt: skip
        before = template.partition("{}")[0]
        self.words = tokenizer.ids(before.strip())
        self.length = length if length is not None else 1 if position == "name" else len(self.words)
        if self.length < (0 if self.keeps else 1):
            raise InputError(f"a context of {self.length} vectors has nothing to learn; give one at least")
        if start and self.length > len(self.words):
            raise InputError(f"{self.length} vectors cannot begin as the {len(self.words)} tokens of "
                             f"{before.strip()!r}; give fewer, or start at random")  # fmt: skip
        if own and start:
            raise InputError("vectors of its own for each class begin at random; set start=false")
        if position == "name" and not own:
            raise InputError("vectors in the place of the names make all classes one if they are shared; set own=true")
        self.position, self.own = position, own
        vectors = torch.randn(self.length, table.embedding_dim) * STD
        if start:
            vectors = table.weight[self.words[: self.length]].detach().clone()
        self.context = nn.Parameter(vectors, requires_grad=bool(self.length))
        if not self.length:
            freeze(self.context)
        self.register_buffer("places", torch.empty(0, 0, dtype=torch.int64), persistent=False)

    def set_classes(self, names: Sequence[str]) -> None:
        """Name the classes. Raises InputError for names that do not fit, and for others than those that vectors of
        their own were learnt for."""
        classes = check_names(names)
        if self.own and self.classes and self.classes != classes:
            raise InputError("each class has learnt vectors of its own, which fit no other names; train with own=false")
        rows, places = zip(*(self._prompt(name) for name in classes), strict=True)
        self._name(classes, rows)
        self.places = torch.tensor(places, dtype=torch.int64, device=self.ids.device).view(len(classes), -1)
        if self.own and self.context.dim() == 2:
            vectors = torch.randn(len(classes), *self.context.shape) * STD
            self.context = nn.Parameter(vectors.to(self.context))

    def _prompt(self, name: str) -> tuple[list[int], list[int]]:
        """The ids of a class's prompt, and where its vectors go."""
        tokenizer = self.tokenizer
        words, named, rest = parted(tokenizer, self.template, name)
        filler = [named[0]] * self.length
        kept = words[self.length :] if self.keeps else []  # words that stay as they are
        if self.position == "name":
            kept, named = words, []
        split = {"end": self.length, "middle": self.length // 2, "front": 0, "name": 0}[self.position]
        own = [*filler[:split], *kept, *named, *filler[split:], *rest]
        if len(own) > tokenizer.room:
            raise InputError(f"the class name {name!r} does not fit: its prompt has {len(own)} tokens, and there is "
                             f"room for {tokenizer.room}; shorten it")  # fmt: skip
        start, gap = len(tokenizer.before), len(kept) + len(named)
        places = [start + at + (gap if at >= split else 0) for at in range(self.length)]
        return [*tokenizer.before, *own, *tokenizer.after], places

    def embeddings(self, context: Tensor) -> Tensor:
        """The prompts' embeddings (…, C, L, D), `context` (…, M, D), or (C, M, D) for each class, in its places."""
        assert self.encoder.text is not None
        table: Any = self.encoder.text.table
        tokens = table(self.ids)
        vectors = context.to(tokens.dtype)
        if not self.own:
            vectors = vectors.unsqueeze(-3)
        vectors = vectors.expand(*vectors.shape[:-3], len(tokens), -1, -1)
        tokens = tokens.expand(*vectors.shape[:-3], -1, -1, -1)
        return tokens.scatter(-2, self.places[..., None].expand_as(vectors), vectors)

    def text_features(self) -> Tensor:
        return self.encoder.embed_texts(None, self.lengths, embeddings=self.embeddings(self.context))


class Deep(Prompted):
    """Vectors in both towers, at their inputs and at the inputs of further blocks.

    Text: `length` vectors P_0 take the place of the template's first words, the others stay; P_i overwrites the same
    places at the input of block i < `depth`. Pictures: `image_length` vectors Q_0 are put behind the patches, without
    positions and through the tower's norm before its blocks; Q_i takes their place at the input of block i <
    `image_depth`. `coupled`: Q_i = F_i(P_i), F_i linear, those of blocks 1 … beginning equal; then lengths and depths
    are one. Else Q_i are free, and a length of 0 leaves its tower as it is.
    """

    keeps = True

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer, template: str = "a photo of a {}.", *,
        length: int = 2, depth: int = 9, image_length: int = 2, image_depth: int = 9, coupled: bool = True,
    ):  # fmt: skip
        words = len(tokenizer.ids(template.partition("{}")[0].strip()))
        super().__init__(encoder, tokenizer, template, length=length, start=length <= words)
        if coupled and (length, depth) != (image_length, image_depth):
            raise InputError("coupled prompts have one length and depth in both towers")
        if length + image_length < 1 or min(length, image_length) < 0:
            raise InputError(f"{length} and {image_length} vectors leave nothing to learn; give one at least")
        assert encoder.text is not None
        sizes = ((encoder.text, length, depth, "text"), (encoder.image, image_length, image_depth, "image"))
        for tower, count, deep, what in sizes:
            if not count:
                continue
            blocks = len(getattr(getattr(tower, "transformer", None), "layers", ()))
            if deep < 1 or deep > blocks:
                raise InputError(f"a depth of {deep} does not fit the {what} tower, which has {blocks} blocks to put "
                                 "prompts into")  # fmt: skip
        wide, broad = encoder.text.width, encoder.image.width
        self.deep = nn.ParameterList(torch.randn(length, wide) * STD for _ in range(depth - 1 if length else 0))
        self.couple: nn.ModuleList | None = None
        self.visual: nn.ParameterList | None = None
        if coupled:
            later = nn.Linear(wide, broad)
            self.couple = nn.ModuleList([nn.Linear(wide, broad), *(copy.deepcopy(later) for _ in range(depth - 1))])
        else:
            deep = image_depth if image_length else 0
            self.visual = nn.ParameterList(torch.randn(image_length, broad) * STD for _ in range(deep))

    def image_prompts(self) -> list[Tensor]:
        """Q_0, Q_1, … (M, D)."""
        if self.visual is not None:
            return list(self.visual)
        assert self.couple is not None
        return [linear(vectors) for linear, vectors in zip(self.couple, [self.context, *self.deep], strict=True)]

    def text_features(self) -> Tensor:
        first = len(self.tokenizer.before)
        edits = [Insert(vectors, layer=at, at=first) for at, vectors in enumerate(self.deep, 1)]
        embeddings = self.embeddings(self.context)
        return self.encoder.embed_texts(
            None, self.lengths, embeddings=embeddings, edit=chain(*edits) if edits else None
        )

    def image_features(self, x: Tensor) -> Tensor:
        prompts = self.image_prompts()
        if not prompts:
            return super().image_features(x)
        first, *later = prompts
        tower: Any = self.encoder.image
        edits: list[Edit] = [Insert(tower.pre_norm(first), layer=0, at=-1, how="after")]
        edits += [Insert(vectors, layer=at, at=-len(vectors)) for at, vectors in enumerate(later, 1)]
        return self.encoder.embed_images(x, edit=chain(*edits))


class Conditional(Prompted):
    """Vectors that each picture shifts: `shift(x)` (N, D) is added to all of them, for all classes.

    h: two layers with ReLU between, D/16 wide as published, on the picture's unit vector. Prompts are encoded for N · C
    pairs, `chunk` at once, and computed again in backward.
    """

    fixed = False

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer, template: str = "a photo of a {}.", *,
        length: int | None = None, start: bool = True, chunk: int = 256,
    ):  # fmt: skip
        super().__init__(encoder, tokenizer, template, length=length, start=start)
        assert encoder.text is not None
        E = encoder.embed_dim
        self.meta = nn.Sequential(
            nn.Linear(E, max(1, E // 16)), nn.ReLU(), nn.Linear(max(1, E // 16), encoder.text.width)
        )
        self.chunk = chunk

    def pair_features(self, shift: Tensor) -> Tensor:
        """The classes for each picture (N, C, E), by shifts (N, D)."""
        per = max(1, self.chunk // len(self.classes))
        rows = [
            checkpoint(self._shifted, part, use_reentrant=False) if torch.is_grad_enabled() else self._shifted(part)
            for part in shift.split(per)
        ]
        return torch.cat(rows)

    def _shifted(self, shift: Tensor) -> Tensor:
        count, classes = len(shift), len(self.classes)
        prompts = self.embeddings(self.context + shift[:, None]).flatten(0, 1)  # (n · C, L, D)
        return self.encoder.embed_texts(None, self.lengths.repeat(count), embeddings=prompts).unflatten(
            0, (count, classes)
        )

    def logits(self, x: Tensor, texts: Tensor | None) -> Tensor:
        image = self.image_features(x)
        return self.encoder.scale() * torch.einsum("ne,nce->nc", image, self.pair_features(self.meta(image)))
