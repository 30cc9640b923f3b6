"""Language models that read an image and share the text tower of a dual encoder, and the captioners
that they make of it.

    CoCa      tokens --text tower--> u --decoder(memory of the image)--> h
    MaMMUT    tokens --text tower(memory of the image)--> h,      p(x_t | x_<t, image) = softmax(W h_{t-1})

In CoCa a text that is embedded and written runs through the tower once; in MaMMUT twice, since it is
embedded without the image and by attention in both directions.

Dimensions: B images or texts, L tokens, M memory tokens, D width of the texts, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError, unknown
from diptych.models.captioner import Captioner, Prompt
from diptych.models.causal_lm import CausalLM
from diptych.models.delivered import Validation
from diptych.spec import Count, configure, parse
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.kv_cache import KVCache
from diptych.towers.nn.product import run
from diptych.towers.nn.transformer import Transformer
from diptych.towers.text.text import TextTower
from diptych.towers.tower import Tower

FORMS = ("joint", "apart")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Options of a decoder; those that are None are the text tower's."""

    depth: Count | None = None
    heads: Count | None = None


class MultimodalLM(CausalLM):
    """The causal text tower `tower`, continued by a decoder that attends to an image, with an output
    layer of its own.

    The spec `joint:depth=12` has self-attention, cross-attention and a feed-forward layer in each
    of its layers (Yu et al., 2022); that of `apart:depth=12` has in turn layers of self-attention
    and of cross-attention, each with a feed-forward layer, so twice as many (open_clip). The tower
    is another module's: it is no part of the state dict. Raises InputError for a tower that is not
    causal, or not a `TextTower`.

    >>> import torch
    >>> from diptych.towers.build import text_tower
    >>> text = text_tower("text:width=32:depth=1:pooling=cls", vocab_size=100, context=16)
    >>> lm = MultimodalLM(text, "joint", memory_width=48)
    >>> lm(torch.tensor([[1, 7]]), memory=torch.zeros(1, 9, 48)).shape
    torch.Size([1, 2, 32])
    """

    def __init__(self, tower: Tower | None, spec: str, memory_width: int):
        nn.Module.__init__(self)
        if (
            not isinstance(tower, TextTower)
            or not tower.config.causal
            or tower.config.scale_embedding
        ):
            raise InputError(
                "captions are written by a causal text tower of ours, which this model has not; choose "
                "text:pooling=cls, or start from a model with one"
            )
        parsed = parse(spec)
        if parsed.name not in FORMS:
            raise unknown("decoder", parsed.name, FORMS)
        config = configure(DecoderConfig, parsed.options, "decoder")
        like = tower.config
        depth = config.depth or like.depth
        self.form = parsed.name
        apart = self.form == "apart"
        self._tower = (tower,)  # a tuple, so that its parameters are registered once
        self.decoder = Transformer(
            tower.width,
            2 * depth if apart else depth,
            config.heads or like.heads,
            mlp_ratio=like.mlp_ratio,
            activation=like.activation,
            eps=like.eps,
            layer_scale=like.layer_scale,
            dropout=like.dropout,
            cross=1 if apart else 0,
            cross_every=2 if apart else 1,
            cross_alone=apart,
            memory_width=memory_width,
        )
        self.norm = nn.LayerNorm(tower.width, like.eps)
        self.head = nn.Linear(tower.width, like.vocab_size, bias=False)
        nn.init.normal_(self.head.weight, std=tower.width**-0.5)
        self.plain = {"decoder": spec, "memory_width": memory_width}

    @property
    def tower(self) -> TextTower:  # type: ignore[override]  # no module of this one
        """The text tower, the first half of the decoder."""
        return self._tower[0]

    def config(self) -> dict[str, Any]:
        """Plain values: the spec of the decoder and the width of its memory."""
        return self.plain

    def logits(self, hidden: Tensor) -> Tensor:
        return run(self.head, hidden)

    def go_on(self, tokens: Tensor, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        """The decoder's tokens (B, L, D) of those of the text tower, before its final norm, and a
        memory (B, M, ·), of which it reads what the mask (B, M) says is real."""
        how = {"memory": memory, "memory_mask": memory_mask}
        return self.norm(self.decoder(tokens, causal=True, **how))

    def _decoded(
        self,
        x: Tensor,
        *,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: KVCache | None = None,
        causal: bool = True,
        **options: Any,
    ) -> Tensor:
        depth = self.tower.config.depth
        lower = None if cache is None else cache.layers(stop=depth)
        upper = None if cache is None else cache.layers(depth)
        x = self.tower.blocks(x, causal=causal, cache=lower, **options)
        how = {"memory": memory, "memory_mask": memory_mask, "cache": upper}
        return self.norm(self.decoder(x, causal=causal, **how, **options))

    def _empty_cache(self) -> KVCache:
        return KVCache.empty(self.tower.config.depth + len(self.decoder.layers))


class ContrastiveCaptioner(Captioner):
    """A dual encoder, and the language model `lm` on its text tower.

    The decoder reads what the image side has for it (`Encoded.memory`): queries of an attentional
    pooler, or the tokens. A prompt is the beginning of the text.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        words: Tokenizer,
        lm: CausalLM,
        *,
        validation: Validation,
        longest: int | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.lm = lm
        self.validation = validation
        self.longest = longest
        self._words = words

    @property
    def words(self) -> Tokenizer:
        return self._words

    def see(self, pixels: Tensor) -> Tensor:
        encode = self.encoder.encode_image if pixels.ndim == 4 else self.encoder.encode_frames
        return self.memory_of(encode(pixels))

    def memory_of(self, encoded: Encoded) -> Tensor:
        """What the decoder reads of encoded images, (B, M, ·)."""
        return encoded.memory

    def prompted(self, seen: Tensor, prompts: Sequence[str] | None) -> Prompt:
        before = list(self.words.before)
        texts = [""] * len(seen) if prompts is None else prompts
        return Prompt(ids=[before + self.words.ids(text) for text in texts], memory=seen)

    def read(
        self, ids: Tensor, lengths: Tensor, seen: Encoded | None
    ) -> tuple[Tensor, Tensor | None]:
        """Read texts (B, L) with lengths (B,) in training: their unit vectors (B, E) and, with encoded
        images, the decoder's tokens (B, L - 1, D) from which each id but the first is predicted.

        One pass through the text tower gives both.
        """
        text = self.encoder.encode_text(ids, lengths)
        vectors = normalize(self.encoder.project_text(text.pooled), dim=-1)
        return vectors, None if seen is None else self.decode(text, seen)

    def passes(self, ids: Tensor, lengths: Tensor, seen: Encoded) -> tuple[Tensor, ...]:
        """The tokens (B, ·, D) at the end of each pass of `read` over texts (B, L). Published counts of
        operations have the output layer behind every one."""
        hidden = self.read(ids, lengths, seen)[1]
        assert hidden is not None
        return (hidden,)

    def decode(self, text: Encoded, seen: Encoded) -> Tensor:
        """The decoder's tokens (B, L - 1, D) of encoded texts and images, from which each id of a
        text but the first is predicted."""
        assert text.raw is not None, "a text tower of ours has tokens before the final norm"
        return self.lm.go_on(text.raw[:, :-1], self.memory_of(seen), seen.memory_mask)


class TwoPassLM(CausalLM):
    """The text tower `tower` of a dual encoder as a language model: its layers read causally and with
    cross-attention to `memory`, images' tokens times a matrix; the output layer is of its own.

    The tower is another module's: it is no part of the state dict. Raises InputError for a tower
    without cross-attention, or not a `TextTower`.

    >>> import torch
    >>> from diptych.towers.build import text_tower
    >>> text = text_tower(
    ...     "text:width=32:depth=2:causal=false:pooling=mean:cross=0:cross_every=2:cross_blocks=lean",
    ...     vocab_size=100, context=16,
    ... )
    >>> lm = TwoPassLM(text, memory_width=48)
    >>> lm(torch.tensor([[1, 7]]), memory=lm.memory_of(torch.zeros(1, 9, 48))).shape
    torch.Size([1, 2, 32])
    """

    def __init__(self, tower: Tower | None, memory_width: int):
        nn.Module.__init__(self)
        if (
            not isinstance(tower, TextTower)
            or tower.config.cross is None
            or tower.config.scale_embedding
            or tower.cls is not None
        ):
            raise InputError(
                "MaMMUT writes by a text tower of ours with cross-attention, which this model has not; choose "
                "text:causal=false:pooling=mean:cross=0:cross_every=2:cross_blocks=apart"
            )
        self._tower = (tower,)  # a tuple, so that its parameters are registered once
        width = tower.config.memory_width or tower.width
        self.projection = nn.Linear(memory_width, width, bias=False)
        self.head = nn.Linear(tower.width, tower.config.vocab_size, bias=False)
        nn.init.normal_(self.projection.weight)
        nn.init.zeros_(self.head.weight)

    @property
    def tower(self) -> TextTower:  # type: ignore[override]  # no module of this one
        """The text tower."""
        return self._tower[0]

    def config(self) -> dict[str, Any]:
        return {"memory_width": self.projection.in_features}

    def memory_of(self, tokens: Tensor) -> Tensor:
        """What the layers of cross-attention read of images' tokens (B, N, ·)."""
        return self.projection(tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        return run(self.head, hidden)

    def _decoded(self, x: Tensor, *, causal: bool = True, **options: Any) -> Tensor:
        return self.tower.norm(self.tower.blocks(x, causal=causal, **options))


class TwoPassCaptioner(ContrastiveCaptioner):
    """A dual encoder whose text tower also writes, reading the images' tokens."""

    lm: TwoPassLM

    def memory_of(self, encoded: Encoded) -> Tensor:
        return self.lm.memory_of(encoded.tokens if encoded.raw is None else encoded.raw)

    def read(
        self, ids: Tensor, lengths: Tensor, seen: Encoded | None
    ) -> tuple[Tensor, Tensor | None]:
        """As `ContrastiveCaptioner.read`, in two passes."""
        vectors = self.encoder.embed_texts(ids, lengths)
        return vectors, None if seen is None else self._second(ids, seen)

    def passes(self, ids: Tensor, lengths: Tensor, seen: Encoded) -> tuple[Tensor, ...]:
        """As `ContrastiveCaptioner.passes`. Training runs no output layer behind the first pass; the
        released code does, and drops what it gives (Nezhurina et al., 2025)."""
        return self.encoder.encode_text(ids, lengths).tokens, self._second(ids, seen)

    def _second(self, ids: Tensor, seen: Encoded) -> Tensor:
        return self.lm(ids[:, :-1], memory=self.memory_of(seen))
