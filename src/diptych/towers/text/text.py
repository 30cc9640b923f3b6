"""The text transformer: causal and pooled at the end token (CLIP), or bidirectional (SigLIP, BERT).

Dimensions: N texts, L tokens, D width, M memory tokens.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import InputError, unknown
from diptych.towers.build import text
from diptych.towers.encoded import Edit, Encoded
from diptych.towers.nn.transformer import Transformer
from diptych.towers.tower import Tower

_LONGEST = 10_000.0  # of the scales of sinusoidal positions


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Options of `text`. Defaults as in CLIP; SigLIP: causal=False, pooling="last", padding="max",
    eps=1e-6."""

    vocab_size: int
    context: int
    pad: int | None = None
    eot: int | None = None
    padding: Literal["longest", "max"] = (
        "longest"  # "max": always padded to `context`, and pads are attended to
    )
    width: int = 384
    depth: int = 6
    heads: int | None = None  # width / 64
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    eps: float = 1e-5
    causal: bool = True
    pooling: Literal["eot", "first", "last", "mean", "cls"] = (
        "eot"  # eot: the last real token; last: the last position; cls: a learned token at the end
    )
    layer_scale: float | None = None
    dropout: float = 0.0
    cross: int | None = None  # the first layer with cross-attention to a memory
    cross_every: int | None = None  # from there on, every so many layers have it; None: all
    # None: in the block; apart: a layer of its own behind it; lean: which has no feed-forward then
    cross_blocks: Literal["apart", "lean"] | None = None
    memory_width: int | None = None  # of that memory; None: as wide as the tower
    positions: Literal["learned", "sinusoidal"] | None = None  # None: learned
    scale_embedding: bool | None = None  # multiply embeddings by width ** 0.5; None: no

    def __post_init__(self):
        if self.padding not in ("longest", "max"):
            raise unknown("padding", self.padding, ("longest", "max"))
        for name in ("vocab_size", "context", "width", "depth"):
            if getattr(self, name) < 1:
                raise InputError(f"text {name} is {getattr(self, name)}; it must be at least 1")
        if self.pooling == "last" and self.padding != "max":
            raise InputError(
                "text pooling=last reads the last place, which moves with padding=longest; choose pooling=eot"
            )
        if self.pooling == "cls" and not self.causal:
            raise InputError(
                "text pooling=cls reads a token at the end that words never see; choose causal=true, or pooling=mean"
            )
        if self.cross_blocks not in (None, "apart", "lean"):
            raise unknown("cross_blocks", self.cross_blocks, ("apart", "lean"))
        if self.pooling == "first" and self.causal:
            raise InputError(
                "text pooling=first sees nothing but the first token when causal; choose pooling=eot or causal=false"
            )


@text("text")
class TextTower(Tower):
    """Encode token ids (N, L) with lengths (N,) in three steps: `embed`, `blocks`, `finish`.

    A causal tower's results at real tokens do not depend on the number of pads that follow, so a
    batch is padded only to its longest text.

    >>> tower = TextTower(TextConfig(vocab_size=100, context=16, width=64, depth=2))
    >>> tower(torch.ones(3, 5, dtype=torch.long), torch.tensor([5, 3, 4])).pooled.shape
    torch.Size([3, 64])
    """

    Config = TextConfig
    added = ("positions", "scale_embedding", "cross_every", "cross_blocks")
    positions: Tensor

    def __init__(self, config: TextConfig):
        super().__init__(config)
        D = self.width = config.width
        self.table = nn.Embedding(config.vocab_size, D)
        own = int(config.pooling == "cls")
        self.cls = nn.Parameter(torch.randn(1, D) * 0.01) if own else None
        if config.positions == "sinusoidal":
            self.register_buffer("positions", sinusoids(config.context + own, D), persistent=False)
        else:
            self.positions = nn.Parameter(torch.randn(config.context + own, D) * 0.01)
        self.transformer = _stack(config)
        self.norm = nn.LayerNorm(D, config.eps)
        nn.init.normal_(self.table.weight, std=D**-0.5 if config.scale_embedding else 0.02)

    @property
    def context(self) -> int:
        """The most tokens that a text may have."""
        return self.config.context

    def embed(self, ids: Tensor | None = None, embeddings: Tensor | None = None) -> Tensor:
        """Embed ids (N, L), or use embeddings (N, L, D) instead, and add positions: tokens (N, L,
        D)."""
        if (ids is None) == (embeddings is None):
            raise InputError("a text tower takes either ids or embeddings")
        x = self.table(ids) if embeddings is None else embeddings
        if self.config.scale_embedding:
            x = x * self.width**0.5
        length = x.shape[1]
        if length > self.context:
            raise InputError(
                f"a text of {length} tokens exceeds the tower's context {self.context}; cut it, or call tower.resize"
            )
        if self.config.padding == "max" and length != self.context:
            raise InputError(
                f"this text tower wants texts padded to {self.context}, got {length}; pad with its tokenizer's rule"
            )
        x = x + self.positions[:length]
        if self.cls is None:
            return x
        last = (self.cls + self.positions[-1:]).to(x.dtype)
        return torch.cat([x, last.expand(len(x), 1, -1)], 1)

    def mask(self, lengths: Tensor, L: int) -> Tensor | None:
        """The key mask (N, L), True at real tokens; None if pads are attended to
        (padding="max").

        With pooling="cls" it is that of the learned token at the end, which sees itself and the real
        tokens. Padded to the context it sees one pad more and not itself, as CoCa was trained in
        open_clip.
        """
        place = torch.arange(L, device=lengths.device)
        if self.config.padding == "max":
            return None if self.cls is None else place <= lengths[:, None]
        real = place < lengths.clamp(min=1)[:, None]
        return real if self.cls is None else real | (place == L - 1)

    def blocks(
        self,
        tokens: Tensor,
        edit: Edit | None = None,
        *,
        causal: bool | None = None,
        **options: Any,
    ) -> Tensor:
        """Run the blocks on tokens (N, L, D). `causal` overrides the config; other keywords as in
        `Transformer.forward`."""
        return self.transformer(
            tokens, edit, causal=self.config.causal if causal is None else causal, **options
        )

    def finish(self, tokens: Tensor, lengths: Tensor) -> Encoded:
        """Final norm and pooling."""
        x = self.norm(tokens)
        mask = self.mask(lengths, tokens.shape[1])
        match self.config.pooling:
            case "first":
                pooled = x[:, 0]
            case "last" | "cls":
                pooled = x[:, -1]
            case "eot":
                pooled = x[torch.arange(x.shape[0], device=x.device), lengths.clamp(min=1) - 1]
            case _:
                pooled = (
                    x.mean(1)
                    if mask is None
                    else (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
                )
        if self.cls is not None:  # the tokens are those of the text
            x = x[:, :-1]
            tokens = tokens[:, :-1]
            mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        return Encoded(x, pooled, mask=mask, raw=tokens)

    def forward(
        self,
        ids: Tensor | None,
        lengths: Tensor,
        *,
        edit: Edit | None = None,
        embeddings: Tensor | None = None,
        causal: bool | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Encoded:
        """Run `embed`, `blocks` and `finish`. An edit must keep the number of tokens, since
        `lengths` locates the end of a text."""
        tokens = self.run(
            ids,
            lengths,
            edit=edit,
            embeddings=embeddings,
            causal=causal,
            memory=memory,
            memory_mask=memory_mask,
        )
        return self.finish(tokens, lengths)

    def run(
        self,
        ids: Tensor | None,
        lengths: Tensor,
        *,
        edit: Edit | None = None,
        embeddings: Tensor | None = None,
        causal: bool | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """Run `embed` and `blocks` with the key mask of the texts: what `finish` takes."""
        tokens = self.embed(ids, embeddings)
        L = tokens.shape[1]
        causal = self.config.causal if causal is None else causal
        # pads come last, so causal attention reaches none but by a token at the end
        mask = None if causal and self.cls is None else self.mask(lengths, L)
        if self.cls is not None and self.config.padding == "max" and ids is not None:
            # the id of pads counts as one inside of a text
            mask = F.pad(ids != (self.config.pad or 0), (1, 0), value=True)
        tokens = self.blocks(
            tokens, edit, causal=causal, mask=mask, memory=memory, memory_mask=memory_mask
        )
        if tokens.shape[1] != L:
            raise InputError(
                f"an edit made {tokens.shape[1]} tokens of {L}; call embed, blocks and finish with new lengths"
            )
        return tokens

    def resize(self, context: int, keep: int = 0) -> None:
        """Change the context: interpolate all learned positions but the first `keep`; sinusoidal
        ones go on."""
        old = self.positions.detach()
        own = len(old) - self.context
        if self.config.positions == "sinusoidal":
            self.positions = sinusoids(context + own, self.width).to(old)
        else:
            moved = torch.cat([stretch(old[: self.context], context, keep), old[self.context :]])
            self.positions = nn.Parameter(moved, requires_grad=self.positions.requires_grad)
        self.config = replace(self.config, context=context)


def stretch(positions: Tensor, length: int, keep: int = 0) -> Tensor:
    """Resample positions (L, D) linearly to (length, D), without the first `keep` (Zhang et al.,
    2024: 20).

    >>> stretch(torch.tensor([[0.0], [1.0], [2.0]]), 5, keep=1).flatten().tolist()
    [0.0, 1.0, 1.333..., 1.666..., 2.0]
    """
    assert 0 <= keep < min(length, len(positions))
    moved = F.interpolate(
        positions[keep:].T[None], size=length - keep, mode="linear", align_corners=True
    )
    return torch.cat([positions[:keep], moved[0].T])


def _stack(config: TextConfig) -> Transformer:
    """The transformer, with layers of cross-attention of their own between the others if these are
    apart."""
    depth = config.depth
    cross = config.cross
    every = config.cross_every or 1
    apart = config.cross_blocks is not None and cross is not None
    if apart and cross is not None:
        depth += len(range(cross, depth, every))
        cross += 1
        every += 1
    return Transformer(
        config.width,
        depth,
        config.heads,
        mlp_ratio=config.mlp_ratio,
        activation=config.activation,
        eps=config.eps,
        layer_scale=config.layer_scale,
        dropout=config.dropout,
        cross=cross,
        cross_every=every,
        cross_alone=apart,
        lean=config.cross_blocks == "lean",
        memory_width=config.memory_width,
    )


def sinusoids(length: int, width: int) -> Tensor:
    """Fixed positions (L, D): the sines of p / s_k, then the cosines, with D // 2 scales s_k from 1
    to 10,000 in equal ratios (Vaswani et al., 2017); an odd width ends in 0.

    >>> sinusoids(2, 4).round(decimals=2)[1]
    tensor([0.8400, 0.0000, 0.5400, 1.0000])
    """
    half = width // 2
    step = math.log(_LONGEST) / max(half - 1, 1)
    scales = torch.exp(torch.arange(half) * step)
    turns = torch.arange(length)[:, None] / scales
    return F.pad(torch.cat([turns.sin(), turns.cos()], dim=1), (0, width % 2))
