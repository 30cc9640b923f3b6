"""The multimodal decoder of CoCa, a text tower that goes on with cross-attention to an image, and the
captioner that it makes of a dual encoder.

    tokens --text tower--> u --decoder(memory of the image)--> h,     p(x_t | x_<t, image) = softmax(W h_{t-1})

The text tower is that of the dual encoder, so a text that is embedded and written runs through it
once.

Dimensions: B images or texts, L tokens, M memory tokens, D width of the texts, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError, unknown
from diptych.models.captioner import Captioner, Prompt
from diptych.models.delivered import Validation
from diptych.models.language import CausalLM
from diptych.spec import Count, configure, parse
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.kv_cache import KVCache
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
        return self.head(hidden)

    def caption_log_probs(
        self, tokens: Tensor, memory: Tensor, ids: Tensor, lengths: Tensor
    ) -> Tensor:
        """log p of each id (B, L) behind the first, (B, L - 1), given those before it and a memory
        (B, M, ·); 0 from `lengths` (B,). `tokens` (B, L, D) are those of the text tower, before its
        final norm."""
        # the last token predicts nothing
        hidden = self.norm(self.decoder(tokens[:, :-1], causal=True, memory=memory))
        behind = F.pad(hidden, (0, 0, 0, 1))
        return self.log_probs_of(behind, ids[:, 1:], lengths - 1, first=0)

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
    """A dual encoder, and a decoder that goes on from its text tower.

    The decoder reads what the image side has for it (`Encoded.memory`): queries of an attentional
    pooler, or the tokens. A prompt is the beginning of the text.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        words: Tokenizer,
        decoder: str,
        *,
        validation: Validation,
        longest: int | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.lm = MultimodalLM(encoder.text, decoder, encoder.image.width)
        self.validation = validation
        self.longest = longest
        self._words = words

    @property
    def words(self) -> Tokenizer:
        return self._words

    def see(self, pixels: Tensor) -> Tensor:
        encode = self.encoder.encode_image if pixels.ndim == 4 else self.encoder.encode_frames
        return encode(pixels).memory

    def prompted(self, seen: Tensor, prompts: Sequence[str] | None) -> Prompt:
        before = list(self.words.before)
        texts = [""] * len(seen) if prompts is None else prompts
        return Prompt(ids=[before + self.words.ids(text) for text in texts], memory=seen)

    def read_texts(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the text tower once on texts (B, L) with lengths (B,): their tokens (B, L, D), which
        `lm.caption_log_probs` takes, and the pooled vectors (B, D)."""
        tower = self.lm.tower
        tokens = tower.run(ids, lengths)
        pooled = tower.finish(tokens, lengths).pooled
        return tokens[:, : ids.shape[1]], pooled  # without the learned token behind a text
