"""Language models that read an image as the first of their tokens: an image tower, frozen unless a method
thaws it, an adapter to the language model's width, and a causal language model.

    V = adapter(patches),   p(y_t | y_<t, x, V):   the language model reads [V; x; y_<t]

Without an image it reads [x; y_<t]. The language model is a part of the module (`own`), or frozen and
kept by name outside of it (`lent`), with low-rank factors or without; these are part of it.

The state at the last token of a prompt, behind an image or a text, is a summary of what precedes it.

Dimensions: B images, P patches (h x w), K texts, L ids, N tokens, D width of the language model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, from_dict, pad_batch
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.models.captioner import Captioner, CaptionModel, Prompt
from diptych.models.causal_lm import CausalLM
from diptych.models.delivered import Validation
from diptych.models.model import ImagesLike, evaluating
from diptych.objectives.tokens import unit_mean
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.image.vit import ViT
from diptych.towers.nn.heads import head
from diptych.towers.nn.parts import Frozen, freeze

Layer = Literal["last", "penultimate"]
Adapter = Literal["mlp", "linear"]


def patch_adapter(kind: Adapter, width: int, to: int) -> nn.Module:
    """The map from the patches of an image tower to the `to` dimensions of a language model: linear,
    or two layers with GELU.

    >>> patch_adapter("mlp", 4, 8)(torch.zeros(1, 3, 4)).shape
    torch.Size([1, 3, 8])
    """
    spec = f"mlp:hidden={to}:norm=none:activation=gelu:bias=true:last_bias=true"
    return head(spec if kind == "mlp" else "affine", width, to, "image")


@dataclass(frozen=True, kw_only=True)
class Language:
    """A causal language model, a module's own or lent, and its tokenizer; that of a saved module
    follows with its plain values. `factors` are those of an adapter of a lent one."""

    words: Tokenizer | None
    own: CausalLM | None = None
    lent: Frozen | None = None
    factors: nn.Module | None = None


class PatchReader(nn.Module):
    """The patches (B, P, ·) of an image tower, after its last layer or before its last block.

    With `grid`, those of a tower with positions are averaged to `grid` x `grid` cells. Raises InputError
    for a tower without what is asked for.
    """

    def __init__(self, encoder: DualEncoder, grid: int | None = None, layer: Layer = "last"):
        super().__init__()
        self._encoder = (encoder,)  # a tuple: its parameters are those of the module that holds it
        self.grid = grid
        self.layer = layer
        if layer == "penultimate" and not isinstance(encoder.image, ViT):
            raise InputError(
                "only a vit has tokens before its last block; leave out --method.layer, or start from a model with one"
            )

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int] | None]:
        """Images (B, 3, H, W) -> patches (B, P, ·), and their grid (h, w) if there is one."""
        patches, grid, _ = self.read(pixels)
        return patches, grid

    def read(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int] | None, Encoded]:
        """What `forward` returns, and the encoded images (B, 3, H, W), from one pass."""
        image: Any = self._encoder[0].image
        held: list[Tensor] = []

        def hold(layer: int, tokens: Tensor) -> Tensor:
            if layer == image.config.depth - 1:
                held.append(tokens)
            return tokens

        found = image(pixels, edit=hold) if self.layer == "penultimate" else image(pixels)
        tokens = held[0] if held else found.tokens
        patches = tokens[:, found.prefix :]
        if self.grid is None:
            return patches, found.grid, found
        if found.grid is None or self.grid > min(found.grid):
            has = "no positions" if found.grid is None else "{} x {} of them".format(*found.grid)
            raise InputError(
                f"the image tower has {has}, which cannot be averaged to {self.grid} x {self.grid}; lower "
                "--method.grid or leave it out"
            )
        maps = patches.mT.unflatten(2, found.grid)
        cells = F.adaptive_avg_pool2d(maps, self.grid)
        return cells.flatten(2).mT, (self.grid, self.grid), found

    @cached_property
    def shape(self) -> tuple[int, int]:
        """The number of patches of an image, and their width."""
        encoder = self._encoder[0]
        parameter = next(encoder.image.parameters())
        height, width = encoder.image.preprocess.shape[-2:]
        with evaluating(encoder.image), torch.no_grad():
            pixels = torch.zeros(1, 3, height, width, dtype=torch.uint8, device=parameter.device)
            patches, _ = self(pixels)
        return patches.shape[1], patches.shape[2]


class VisionLM(Captioner):
    """An image tower, that of a dual encoder, an adapter of its patches, and a language model.

    `template` is what is read of a question, `prompt` what is read where none is asked.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        patches: PatchReader,
        adapter: nn.Module,
        language: Language,
        *,
        validation: Validation,
        prompt: str = "",
        template: str = "{}",
        longest: int | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        freeze(encoder)
        self.patches = patches
        self.adapter = adapter
        self.own = language.own
        self.lent = language.lent
        self.factors = language.factors
        self.validation = validation
        self.prompt = prompt
        self.template = template
        self.longest = longest
        self._words = language.words

    @property
    def lm(self) -> CausalLM:  # type: ignore[override]  # an attribute of others
        """The language model."""
        if self.own is not None:
            return self.own
        assert self.lent is not None, "a language model is own or lent"
        return self.lent.module  # type: ignore[return-value]

    @property
    def language(self) -> Language:
        """The language model with its tokenizer."""
        return Language(words=self._words, own=self.own, lent=self.lent, factors=self.factors)

    @property
    def words(self) -> Tokenizer:
        assert self._words is not None, "a saved tokenizer is loaded with the plain values"
        return self._words

    @property
    def room(self) -> int:
        """The most ids that the language model reads behind an image.

        Raises InputError if an image fills its context.
        """
        places, _ = self.patches.shape
        left = self.lm.context - places
        if left < len(self.words.before) + 2:
            raise InputError(
                f"an image has {places} patches, and the language model reads {self.lm.context} tokens; average them "
                "with --method.grid, or name a language model with a longer context"
            )
        return min(self.words.context, left)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.encoder.parameters()):
            self.encoder.eval()  # it is frozen
        return self

    def extra_state(self) -> dict[str, Any]:
        if self.own is None:
            return {"lm_tokenizer": self.words.fingerprint}
        return {"words": self.words.to_dict()}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        if self.own is not None:
            self._words = from_dict(values.get("words"))
        elif values.get("lm_tokenizer") != self.words.fingerprint:
            assert self.lent is not None
            raise InputError(
                f"this run was trained with another tokenizer than that of {self.lent.name}; give the language model "
                "as it was"
            )

    def prefix(self, patches: Tensor) -> Tensor:
        """Patches (B, P, ·) -> the embeddings (B, P, D) that the language model reads first."""
        weight = next(self.adapter.parameters())
        return self.adapter(patches.to(weight.dtype)).to(self.lm.table.weight.dtype)

    def read(self, prefix: Tensor | None, ids: Tensor, counted: Tensor) -> Tensor:
        """The log-probability (B, L) of each id (B, L) that is `counted` (B, L) behind those before it
        and a prefix (B, P, D), else 0. Padding is on the right."""
        if prefix is None:
            counted = counted.clone()
            counted[:, 0] = False  # nothing precedes it
            hidden = F.pad(self.lm(ids), (0, 0, 1, 0))[:, :-1]
        else:
            hidden = self.lm(ids, prefix=prefix)[:, prefix.shape[1] - 1 : -1]
        return self.lm.log_probs_where(hidden, ids, counted)

    def summary(self, tokens: Tensor, real: Tensor | None = None) -> Tensor:
        """The state (B, D) after the final norm at the last real one of tokens (B, N, D). Padding may be
        anywhere: `real` (B, N) are the tokens that are read, None if all are."""
        hidden = self.lm(mask=real, prefix=tokens)
        return hidden[:, -1] if real is None else last_real(hidden, real)

    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """The mean (K, D) of the unit embeddings of each text's own tokens."""
        rows = [self.words.ids(text) for text in texts]
        for text, row in zip(texts, rows, strict=True):
            if not row:
                raise InputError(f"the text {text!r} has no words")
        device = self.lm.table.weight.device
        ids, lengths = pad_batch(rows, self.words, whole=True)
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        return unit_mean(self.lm.table(ids.to(device)), real.to(device))

    def see(self, pixels: Tensor) -> Tensor:
        if pixels.ndim > 1 + len(self.image.preprocess.shape):
            raise InputError("this model writes about images; give one frame of each clip")
        return self.prefix(self.patches(pixels)[0])

    def prompted(self, seen: Tensor | range, prompts: Sequence[str] | None) -> Prompt:
        """As in `Captioner`; of a range there are no images."""
        said = [self.prompt] * len(seen)
        if prompts is not None:
            said = [self.template.replace("{}", text) for text in prompts]
        ids = [[*self.words.before, *self.words.ids(text)] for text in said]
        return Prompt(ids=ids, prefix=None if isinstance(seen, range) else seen)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "VisionLMModel":
        assert preprocess is not None, "an image tower has a preprocessing"
        return VisionLMModel(self, tokenizer, preprocess, name=name)


def last_real(hidden: Tensor, real: Tensor) -> Tensor:
    """Of tokens (B, N, D) the last one that is real, by the mask (B, N), (B, D).

    >>> last_real(torch.tensor([[[5.0], [6.0], [7.0]]]), torch.tensor([[True, True, False]]))
    tensor([[6.]])
    """
    last = real.shape[1] - 1 - real.flip(1).int().argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


@dataclass(frozen=True)
class Summaries:
    """The states (K, N, D) of N images or texts at the last token of K prompts, and the entropy (K, N) in
    nats of the token that would follow; float32, on the CPU."""

    vectors: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class _NoImages:
    """As many prompts without an image."""

    count: int


class VisionLMModel(CaptionModel):
    """A model that answers questions about images, and without them. Its embeddings are those of the
    frozen encoder."""

    captioner: VisionLM
    asked_alone = True
    """Whether it answers without an image too."""

    def generate(
        self, images: ImagesLike | None, prompts: Sequence[str] | None = None, **options: Any
    ) -> list[str]:
        """As `CaptionModel.generate`; prompts are questions, and without `images` (None) they are asked
        alone."""
        if images is None:
            images = _NoImages(_number(prompts))  # type: ignore[assignment]  # read by `_seen`
        return super().generate(images, prompts, **options)  # type: ignore[arg-type]

    def log_prob(
        self,
        images: ImagesLike | None,
        texts: Sequence[str],
        prompts: Sequence[str] | None = None,
        **options: Any,
    ) -> Tensor:
        """As `CaptionModel.log_prob`; without `images` (None) the texts follow their prompts alone."""
        if images is None:
            images = _NoImages(_number(texts))  # type: ignore[assignment]
        return super().log_prob(images, texts, prompts, **options)  # type: ignore[arg-type]

    def summaries(
        self,
        prompts: Sequence[str],
        *,
        images: ImagesLike | None = None,
        texts: Sequence[str] | None = None,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Summaries:
        """Read K prompts, each behind the same N images, or texts, which are read once, by the template.

        `images` and errors are those of `embed_images`; InputError also for an empty prompt, and for a text
        that exceeds the context with a prompt.
        """
        captioner = self.captioner
        words = captioner.words
        start, _, end = captioner.template.partition("{}")
        first = [*words.before, *words.ids(start)]
        asked = [words.ids(prompt + end) for prompt in prompts]
        for prompt, ids in zip(prompts, asked, strict=True):
            if not ids:
                raise InputError(f"the prompt {prompt!r} has no words")
        if images is not None:
            seen, _ = self._seen(images, batch_size, exact)
            given = (Prompt(ids=[first] * len(known), prefix=known) for known in seen)
        else:
            rows = [[*first, *words.ids(text)] for text in texts or ()]
            longest = [0] * max(map(len, asked), default=0)
            self._fits([[*row, *longest] for row in rows], texts or (), "text")
            starts = range(0, len(rows), batch_size)
            given = (Prompt(ids=rows[start : start + batch_size]) for start in starts)
        vectors: list[list[Tensor]] = [[] for _ in asked]
        entropy: list[list[Tensor]] = [[] for _ in asked]
        with evaluating(captioner), torch.inference_mode():
            for begun in given:
                state = self.lm.start(*self._masked(begun), **begun.given)
                for at, row in enumerate(asked):
                    behind = torch.tensor([row], device=self.device).expand(len(begun.ids), -1)
                    found = self.lm.next(state, behind)
                    vectors[at].append(at_least_float32(found.hidden[:, -1]).cpu())
                    entropy[at].append(torch.special.entr(found.logits.softmax(-1)).sum(-1).cpu())
        return Summaries(
            torch.stack([torch.cat(each) for each in vectors]).clone(),
            torch.stack([torch.cat(each) for each in entropy]).clone(),
        )

    def _seen(self, images: Any, batch_size: int, exact: bool) -> tuple[Iterator[Any], int]:
        if not isinstance(images, _NoImages):
            return super()._seen(images, batch_size, exact)
        count = images.count
        starts = range(0, count, batch_size)
        return (range(min(batch_size, count - start)) for start in starts), count

    def heat(
        self,
        images: ImagesLike,
        texts: str | Sequence[str],
        *,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """The mean cosine (N, K, h, w) of each adapted patch with the embeddings of a text's tokens in
        the language model's table, float32, on the CPU.

        `images` and errors are those of `embed_images`; InputError also for an image tower without
        positions, and for a text without words.
        """
        asked = [texts] if isinstance(texts, str) else list(texts)
        batches, _ = self._batches(images, batch_size, exact)
        maps = [torch.zeros(0, len(asked), 1, 1)]
        with evaluating(self.captioner), torch.inference_mode():
            vectors = self.captioner.text_vectors(asked)
            for (pixels,) in batches:
                patches, grid = self.captioner.patches(pixels.to(self.device))
                if grid is None:
                    raise InputError(
                        f"{self.name} has no positions to point at: its image tower pools them away"
                    )
                units = normalize(self.captioner.prefix(patches).float(), dim=-1)
                heat = (units @ vectors.to(units).T).mT
                maps.append(heat.unflatten(2, grid).cpu())
        return torch.cat(maps[1:] or maps).clone()


def _number(texts: Sequence[str] | None) -> int:
    if texts is None or isinstance(texts, str):
        raise InputError("without images there is nothing to write about; give a list of prompts")
    return len(texts)
