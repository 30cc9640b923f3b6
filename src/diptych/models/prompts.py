"""Prompts that are learnt: vectors beside the names (CoOp), and in the residual streams of both towers (MaPLe and kin).

Dimensions: N pictures, C classes, R prompts, L tokens of a prompt, M vectors, D tower width, E embedding.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint

from diptych.data.templates import checked, filled
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError, shortened
from diptych.models.class_names import check_names, split_prompt
from diptych.models.classifier import Classifier
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Edit
from diptych.towers.nn.parts import freeze
from diptych.towers.nn.transformer import Insert, chain

Position = Literal["end", "middle", "front", "around", "name"]
STD = 0.02  # of vectors that begin at random


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A template, and how many vectors stand `before` and `behind` the name in it; `first` is the number of the first
    of them. `words` and `tail` are the ids of the template's words before the name, and of those behind it whose place
    vectors take."""

    template: str
    words: list[int]
    tail: list[int]
    first: int
    before: int
    behind: int

    @property
    def length(self) -> int:
        """How many vectors."""
        return self.before + self.behind


class Prompted(Classifier):
    """Vectors in the prompts beside the names: the context that CoOp and its kin learn.

    `length` vectors stand in place of the template's words before the name (None: as many as those have tokens). With
    `start` they begin as those tokens' embeddings, else as N(0, 0.02²). `position` puts the name behind them ("end"),
    between two halves ("middle"), before them ("front"), or where the template has it ("around"): then the words behind
    the name, but for a final stop, are vectors too; with "name" the words stay and the vectors (None: one) are in place
    of the name, which is textual inversion (Gal et al., ICLR 2023). With `own` each class has vectors of its own, which
    fit no other names. `more` templates give each class further prompts, with vectors of their own: prompts are all
    classes in the first template, then all in the second, and so on.
    """

    slots: Tensor
    keeps: ClassVar[bool] = False
    """Whether fewer vectors than words take the place of the first of them, and the others stay."""

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer, template: str = "a photo of a {}.", *,
        length: int | None = None, start: bool = True, position: Position = "end", own: bool = False,
        more: Sequence[str] = (),
    ):  # fmt: skip
        super().__init__(encoder, tokenizer, template)
        assert encoder.text is not None
        table: Any = getattr(encoder.text, "table", None)
        if table is None:
            raise InputError("prompts are learnt in the place of a text tower's embeddings, which this one does not "
                             "show; start from a run, openclip: or a CLIP of hf:")  # fmt: skip
        if position == "around" and length is not None:
            raise InputError("vectors around the name take the place of the template's words; leave their length out")
        self.position, self.own = position, own
        self.frames: list[Frame] = []
        for one in checked([template, *more], "the prompts"):
            self.frames.append(self._frame(one, length, start))
        self.length = sum(frame.length for frame in self.frames)
        if self.length < (0 if self.keeps else 1):
            raise InputError(f"a context of {self.length} vectors has nothing to learn; give one at least")
        if own and start:
            raise InputError("vectors of its own for each class begin at random; set start=false")
        if position == "name" and not own:
            raise InputError("vectors in the place of the names make all classes one if they are shared; set own=true")
        vectors = torch.randn(self.length, table.embedding_dim) * STD
        if start:
            begin = [token for frame in self.frames for token in [*frame.words, *frame.tail][: frame.length]]
            vectors = table.weight[begin].detach().clone()
        self.context = nn.Parameter(vectors, requires_grad=bool(self.length))
        if not self.length:
            freeze(self.context)
        self.register_buffer("slots", torch.empty(0, 0, dtype=torch.int64), persistent=False)

    def _frame(self, template: str, length: int | None, start: bool) -> Frame:
        """How vectors stand in a template, numbered after those of the frames that there are."""
        before, _, behind = (part.strip() for part in template.partition("{}"))
        words, tail = self.tokenizer.ids(before), list[int]()
        if self.position == "around" and behind.removesuffix("."):
            tail = split_prompt(self.tokenizer, template.rstrip().removesuffix("."), "thing")[2]
            if not tail:
                raise InputError(f"in {template!r} the words behind the name share a token with it; put a blank "
                                 "between {} and them")  # fmt: skip
        if length is None:
            length = 1 if self.position == "name" else len(words) + len(tail)
        if start and length > len(words) + len(tail):
            raise InputError(f"{length} vectors cannot begin as the {len(words)} tokens of {before!r}; give fewer, or "
                             "start at random")  # fmt: skip
        first = sum(frame.length for frame in self.frames)
        split = {"end": length, "middle": length // 2, "around": len(words)}.get(self.position, 0)
        return Frame(template=template, words=words, tail=tail, first=first, before=split, behind=length - split)

    def set_classes(self, names: Sequence[str]) -> None:
        """Name the classes. Raises InputError for names that do not fit, and for others than those that vectors of
        their own were learnt for."""
        classes = check_names(names)
        if self.own and self.classes and self.classes != classes:
            raise InputError("each class has learnt vectors of its own, which fit no other names; train with own=false")
        prompts = [self._prompt(frame, name) for frame in self.frames for name in classes]
        self._name(classes, [ids for ids, _ in prompts])
        slots = torch.full(self.ids.shape, -1)
        for row, (_, numbers) in zip(slots, prompts, strict=True):
            row[: len(numbers)] = torch.tensor(numbers[: len(row)])  # a name may hold the id that ends a text
        self.slots = slots.to(self.ids.device)
        if self.own and self.context.dim() == 2:
            vectors = torch.randn(len(classes), *self.context.shape) * STD
            self.context = nn.Parameter(vectors.to(self.context))

    def _prompt(self, frame: Frame, name: str) -> tuple[list[int], list[int]]:
        """The ids of a class's prompt, and the number of the vector that stands at each, -1 where it is a word."""
        tokenizer = self.tokenizer
        words, named, rest = split_prompt(tokenizer, frame.template, name)
        if rest[: len(frame.tail)] != frame.tail:
            raise InputError(f"in {filled(frame.template, name)!r} the words behind the name have other tokens "
                             "than elsewhere; put a blank between {} and them")  # fmt: skip
        kept = words[frame.length :] if self.keeps else []  # words that stay as they are
        numbers = range(frame.first, frame.first + frame.length)
        fixed, rest = words if self.position == "name" else [*kept, *named], rest[len(frame.tail) :]
        filler = [*words, *named[:1] * frame.length][: frame.length]  # the words themselves, if they are enough
        own = [*filler[: frame.before], *fixed, *filler[frame.before :], *rest]
        if len(own) > tokenizer.room:
            raise InputError(f"the class name {shortened(name)!r} does not fit: its prompt has {len(own)} tokens, and "
                             f"there is room for {tokenizer.room}; shorten it")  # fmt: skip
        slots = [*numbers[: frame.before], *[-1] * len(fixed), *numbers[frame.before :]]
        return [*tokenizer.before, *own, *tokenizer.after], [*[-1] * len(tokenizer.before), *slots]

    def embeddings(self, context: Tensor, which: Tensor | slice = slice(None)) -> Tensor:
        """The embeddings (n, L, D) of `which` prompts, by default of all, with the vectors (M, D), or (n, M, D) for
        each prompt, in their places."""
        assert self.encoder.text is not None
        table: Any = self.encoder.text.table
        tokens, slots = table(self.ids[which]), self.slots[which]
        vectors, at = context.to(tokens.dtype), slots.clamp(min=0)
        if not vectors.shape[-2]:
            return tokens
        if vectors.dim() == 2:
            filled = embedding(at, vectors)
        else:
            filled = vectors.gather(1, at[..., None].expand(-1, -1, vectors.shape[-1]))
        return torch.where(slots[..., None] >= 0, filled, tokens)

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
    """Vectors that each picture shifts, all M of a prompt alike, by h of its unit vector: the same for all classes.

    h: two layers with ReLU between, D/16 wide as published. Prompts are encoded for N · C pairs, `chunk` at once, and
    computed again in backward. A subclass may shift each class by a vector of its own.
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
        """The classes for each picture (N, C, E), by shifts (N, C, D), or (N, 1, D) for all classes."""
        count, classes = len(shift), len(self.classes)
        shifts = shift.expand(-1, classes, -1).flatten(0, 1).split(self.chunk)
        which = torch.arange(classes, device=shift.device).repeat(count).split(self.chunk)
        pairs = [
            checkpoint(self._shifted, *part, use_reentrant=False) if torch.is_grad_enabled() else self._shifted(*part)
            for part in zip(shifts, which, strict=True)
        ]
        return torch.cat(pairs).unflatten(0, (count, classes))

    def _shifted(self, shift: Tensor, which: Tensor) -> Tensor:
        """The unit vectors (n, E) of `which` classes (n,), by a shift (n, D) for each."""
        prompts = self.embeddings(self.context + shift[:, None], which)
        return self.encoder.embed_texts(None, self.lengths[which], embeddings=prompts)

    def class_features(self, x: Tensor) -> Tensor:
        return self.pair_features(self.meta(self.image_features(x))[:, None])

    def logits(self, x: Tensor, texts: Tensor | None) -> Tensor:
        image = self.image_features(x)
        classes = self.pair_features(self.meta(image)[:, None])
        return self.encoder.logit_scale() * torch.einsum("ne,nce->nc", image, classes)
