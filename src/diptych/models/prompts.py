"""Prompt learning: context vectors around class names, at the inputs of further blocks, or
conditioned on the image.

    t_c = text([v_1, …, v_M, name_c, "."])

`PromptLearner` is a classifier that learns the v. `DeepPrompts` and `ConditionalPrompts` extend it
and are the bases of several methods.

Dimensions: N images, C classes, R prompts, L tokens of a prompt, M context vectors, D text width, E
embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
from diptych.towers.nn.edits import Insert, chain
from diptych.towers.nn.parts import freeze
from diptych.towers.tower import Tower

ClassPosition = Literal["end", "middle", "front", "around"]
STD = 0.02  # of random initialisation


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """A template and its context vectors.

    `words` are the token ids before the class name, `tail` those after it that vectors replace.
    `before` vectors precede the name and `behind` follow it; `first` is the index of the first of
    them.
    """

    template: str
    words: list[int]
    tail: list[int]
    first: int
    before: int
    behind: int

    @property
    def n_ctx(self) -> int:
        """The number of vectors."""
        return self.before + self.behind


class PromptLearner(Classifier):
    """A classifier with learned context vectors in its prompts.

    `n_ctx` vectors replace the words of the template before the class name (None: one per token of
    these words). With `init_from_template` they are initialised as the embeddings of these tokens,
    else from N(0, 0.02²). `position` puts the name after the vectors ("end"), between two halves
    ("middle"), before them ("front"), or where it is in the template ("around"); then vectors also
    replace the words after the name, except a final full stop. With `class_specific`, each class
    has its own vectors, which fit no other names. `more` templates give each class further prompts
    with their own vectors; prompts are sorted by template, then class.

    >>> import diptych
    >>> model = diptych.load("tiny")
    >>> classifier = PromptLearner(model.encoder, model.tokenizer, "a photo of a {}.")
    >>> classifier.set_classes(["cat", "banana"])
    >>> classifier(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape
    torch.Size([1, 2])
    """

    slots: Tensor
    """The index of the vector at each position of the prompts (R, L), -1 for a token."""

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer,
        template: str = "a photo of a {}.",
        *,
        n_ctx: int | None = None,
        init_from_template: bool = True,
        position: ClassPosition = "end",
        class_specific: bool = False,
        more: Sequence[str] = (),
    ):
        super().__init__(encoder, tokenizer, template)
        assert encoder.text is not None
        table: Any = getattr(encoder.text, "table", None)
        if table is None:
            raise InputError(
                "prompts are learned in place of a text tower's token embeddings, and this tower does not show them; "
                "start from a run, openclip: or a CLIP of hf:"
            )
        if position == "around" and n_ctx is not None:
            raise InputError(
                "vectors around the class name replace the words of the template; leave n_ctx out"
            )
        self.position = position
        self.class_specific = class_specific
        self.n_ctx = 0
        self.templates: list[PromptTemplate] = []
        for each in checked([template, *more], "the prompts"):
            self.templates.append(self._with_vectors(each, n_ctx, init_from_template))
            self.n_ctx += self.templates[-1].n_ctx
        if n_ctx is None and not self.n_ctx:
            raise InputError(
                f"{template!r} has no words that vectors could replace, so nothing to learn; give n_ctx"
            )
        if class_specific and init_from_template:
            raise InputError("vectors of each class begin at random; set init_from_template=false")
        context = torch.randn(self.n_ctx, table.embedding_dim) * STD
        if init_from_template:
            ids: list[int] = []
            for each in self.templates:
                ids += [*each.words, *each.tail][: each.n_ctx]
            context = table.weight[ids].detach().clone()
        self.context = nn.Parameter(context)
        if not self.n_ctx:
            freeze(self.context)
        self.register_buffer("slots", torch.empty(0, 0, dtype=torch.int64), persistent=False)

    def _with_vectors(
        self, template: str, n_ctx: int | None, init_from_template: bool
    ) -> PromptTemplate:
        """The template with `n_ctx` vectors, whose indices follow those of the previous
        templates."""
        before, _, behind = (part.strip() for part in template.partition("{}"))
        words = self.tokenizer.ids(before)
        tail: list[int] = []
        if self.position == "around" and behind.removesuffix("."):
            tail = split_prompt(self.tokenizer, template.rstrip().removesuffix("."), "thing")[2]
            if not tail:
                raise InputError(
                    f"in {template!r} the words behind the name share a token with it; put a blank between {{}} and "
                    "them"
                )
        replaced = len(words) + len(tail)
        if n_ctx is None:
            n_ctx = replaced
        if init_from_template and n_ctx > replaced:
            raise InputError(
                f"{n_ctx} vectors cannot begin as the {replaced} tokens of {before!r}; give fewer, or set "
                "init_from_template=false"
            )
        split = {"end": n_ctx, "middle": n_ctx // 2, "front": 0, "around": len(words)}[
            self.position
        ]
        return PromptTemplate(
            template=template,
            words=words,
            tail=tail,
            first=self.n_ctx,
            before=split,
            behind=n_ctx - split,
        )

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the classes.

        Raises InputError for names that do not fit into the context, and for new names with
        class-specific vectors.
        """
        classes = check_names(names)
        if self.class_specific and self.classes and self.classes != classes:
            raise InputError(
                "the vectors of each class were learned for it and fit no other names; train with class_specific=false"
            )
        prompts = [self._prompt(template, name) for template in self.templates for name in classes]
        self._name(classes, [ids for ids, _ in prompts])
        slots = torch.full(self.ids.shape, -1)
        for row, (_, numbers) in zip(slots, prompts, strict=True):
            row[: len(numbers)] = torch.tensor(numbers[: len(row)])  # a name may contain the end id
        self.slots = slots.to(self.ids.device)
        if self.class_specific and self.context.dim() == 2:
            vectors = torch.randn(len(classes), *self.context.shape) * STD
            self.context = nn.Parameter(vectors.to(self.context))

    def kept_ids(self, template: PromptTemplate, named: list[int]) -> list[int]:
        """The token ids between the vectors: those of the class name, `named`."""
        return named

    def _prompt(self, template: PromptTemplate, name: str) -> tuple[list[int], list[int]]:
        """The token ids of a class's prompt, and for each the index of the vector that replaces it,
        or -1."""
        tokenizer = self.tokenizer
        words, named, rest = split_prompt(tokenizer, template.template, name)
        if rest[: len(template.tail)] != template.tail:
            raise InputError(
                f"in {filled(template.template, name)!r} the words behind the name have other tokens than elsewhere; "
                "put a blank between {} and them"
            )
        kept = self.kept_ids(template, named)
        before = template.before
        n_ctx = template.n_ctx
        # Under the vectors are the ids of the words that they replace, if there are enough, so that
        # the ids are those of the plain prompt.
        below = [*words, *named[:1] * n_ctx][:n_ctx]
        ids = [*below[:before], *kept, *below[before:], *rest[len(template.tail) :]]
        if len(ids) > tokenizer.room:
            raise InputError(
                f"the class name {shortened(name)!r} does not fit: its prompt has {len(ids)} tokens, and there is room "
                f"for {tokenizer.room}; shorten it"
            )
        numbers = range(template.first, template.first + n_ctx)
        slots = [*numbers[:before], *[-1] * len(kept), *numbers[before:]]
        return [*tokenizer.before, *ids, *tokenizer.after], [*[-1] * len(tokenizer.before), *slots]

    def embeddings(self, context: Tensor, which: Tensor | slice = slice(None)) -> Tensor:
        """The embeddings (n, L, D) of `which` prompts (default: all) with context vectors filled
        in.

        The vectors are (M, D), or (n, M, D) for each prompt.
        """
        assert self.encoder.text is not None
        table: Any = self.encoder.text.table
        tokens = table(self.ids[which])
        if not context.shape[-2]:
            return tokens
        slots = self.slots[which]
        numbers = slots.clamp(min=0)
        vectors = context.to(tokens.dtype)
        if vectors.dim() == 2:
            placed = embedding(numbers, vectors)
        else:
            placed = vectors.gather(1, numbers[..., None].expand(-1, -1, vectors.shape[-1]))
        return torch.where(slots[..., None] >= 0, placed, tokens)

    def text_features(self) -> Tensor:
        return self.encoder.embed_texts(
            None, self.lengths, embeddings=self.embeddings(self.context)
        )


class DeepPrompts(PromptLearner):
    """Learned vectors at the inputs of both towers and of further blocks.

    Text: `n_ctx` vectors P_0 replace the first words of the template and keep the others; P_i
    overwrites the same positions at the input of block i < `depth`. With `n_ctx` 0 the tower is
    unchanged. Images: Q_0 follows the patches, without positions but after the tower's pre-norm;
    Q_i overwrites it at the input of block i. A subclass returns the Q from `image_prompts`.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer,
        template: str = "a photo of a {}.",
        *,
        n_ctx: int = 2,
        depth: int = 9,
    ):
        words = tokenizer.ids(template.partition("{}")[0].strip())
        super().__init__(
            encoder, tokenizer, template, n_ctx=n_ctx, init_from_template=n_ctx <= len(words)
        )
        assert encoder.text is not None
        if n_ctx:
            check_depth(encoder.text, depth, "text")
        self.deep = random_prompts(depth - 1 if n_ctx else 0, n_ctx, encoder.text.width)

    def kept_ids(self, template: PromptTemplate, named: list[int]) -> list[int]:
        return [*template.words[template.n_ctx :], *named]

    def image_prompts(self) -> Sequence[Tensor]:
        """Q_0, Q_1, …, each (M, D of the image tower); empty leaves the image tower unchanged."""
        raise NotImplementedError

    def text_features(self) -> Tensor:
        first = len(self.tokenizer.before)
        edits = [
            Insert(vectors, layer=block, at=first) for block, vectors in enumerate(self.deep, 1)
        ]
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
        edits: list[Edit] = [Insert(tower.pre_norm(first), layer=0, at=-1, placement="after")]
        edits += [
            Insert(vectors, layer=block, at=-len(vectors)) for block, vectors in enumerate(later, 1)
        ]
        return self.encoder.embed_images(x, edit=chain(*edits))


def random_prompts(blocks: int, n_ctx: int, width: int) -> nn.ParameterList:
    """Vectors (n_ctx, width) for each of `blocks` blocks, drawn from N(0, 0.02²)."""
    return nn.ParameterList(torch.randn(n_ctx, width) * STD for _ in range(blocks))


def check_depth(tower: Tower, depth: int, kind: str) -> None:
    """Raise InputError if a tower ("text" or "image") has fewer blocks than `depth`."""
    blocks = len(getattr(getattr(tower, "transformer", None), "layers", ()))
    if depth < 1 or depth > blocks:
        raise InputError(
            f"a depth of {depth} does not fit the {kind} tower, which has {blocks} blocks to put prompts into"
        )


class ConditionalPrompts(PromptLearner):
    """Context vectors shifted by each image, with a prompt for each pair of an image and a class.

    A subclass computes the shifts. `chunk` of the N · C prompts are encoded at a time, and again in
    the backward pass, so that memory does not grow with their number.
    """

    fixed = False

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer,
        template: str = "a photo of a {}.",
        *,
        n_ctx: int | None = None,
        init_from_template: bool = True,
        chunk: int = 256,
    ):
        super().__init__(
            encoder, tokenizer, template, n_ctx=n_ctx, init_from_template=init_from_template
        )
        self.chunk = chunk

    def pair_features(self, shift: Tensor) -> Tensor:
        """The classes for each image as unit vectors (N, C, E), by shifts (N, C, D), or (N, 1, D)
        for all classes."""
        images = len(shift)
        classes = len(self.classes)
        shifts = shift.expand(-1, classes, -1).flatten(0, 1)
        which = torch.arange(classes, device=shift.device).repeat(images)
        pairs: list[Tensor] = []
        for part in zip(shifts.split(self.chunk), which.split(self.chunk), strict=True):
            if torch.is_grad_enabled():
                pairs.append(checkpoint(self._shifted, *part, use_reentrant=False))
            else:
                pairs.append(self._shifted(*part))
        return torch.cat(pairs).unflatten(0, (images, classes))

    def _shifted(self, shift: Tensor, which: Tensor) -> Tensor:
        """Unit vectors (n, E) of `which` classes (n,), with a shift (n, D) of all vectors of each
        prompt."""
        embeddings = self.embeddings(self.context + shift[:, None], which)
        return self.encoder.embed_texts(None, self.lengths[which], embeddings=embeddings)
