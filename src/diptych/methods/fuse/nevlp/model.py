"""What the first stage delivers: a Q-Former on a frozen dual encoder, which compares, matches and
writes.

Dimensions: N images, T tokens of an image, M queries, L text tokens, E embedding, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.methods.fuse.nevlp.losses import pair_losses, prefixed
from diptych.methods.fuse.nevlp.mixture import fixed_batches, noise_probabilities
from diptych.methods.fuse.nevlp.queries import FindsConcepts, QueryCaptioner, Seen
from diptych.metrics import similarities
from diptych.models.captioner import Prompt, Writes
from diptych.models.causal_lm import CausalLM
from diptych.models.delivered import Validation
from diptych.models.matching import Matches, runs
from diptych.models.model import ImagesLike, evaluating
from diptych.models.multivector import MultiVectorModel
from diptych.models.saved import Saved
from diptych.models.state import Peek, State, peek_by_next
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.kv_cache import KVCache
from diptych.towers.nn.parts import Temperature
from diptych.towers.nn.qformer import QFormer, visibility
from diptych.towers.nn.words import WordHead

BLOCK = 64
"""Batches of pairs that are embedded at once for their losses."""


class QFormerLM(CausalLM):
    """The Q-Former `qformer` as a language model: a text reads the queries, which read the image, and its
    own earlier tokens. `words` are those of the vocabulary that it may write; the head is tied to the
    table.

    The Q-Former is another module's: it is no part of the state dict. The memory (B, T, ·) are the
    image's tokens.

    >>> from diptych.towers.nn.qformer import QFormerConfig
    >>> qformer = QFormer(QFormerConfig(vocab_size=100, memory_width=48, width=32, depth=2, queries=4))
    >>> lm = QFormerLM(qformer, words=99)
    >>> lm.start(torch.tensor([[99, 7]]), memory=torch.zeros(1, 9, 48)).logits.shape
    torch.Size([1, 99])
    """

    def __init__(self, qformer: QFormer, words: int):
        nn.Module.__init__(self)
        self._qformer = (qformer,)  # a tuple, so that its parameters are registered once
        self.head = WordHead(qformer.config.width, words)

    @property
    def table(self) -> nn.Embedding:
        return self._qformer[0].table

    @property
    def context(self) -> int:
        return self._qformer[0].config.positions

    def config(self) -> dict[str, Any]:
        return {}

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden, self.table.weight[: len(self.head.bias)])

    def forward(
        self,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        prefix: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Read ids (B, L), with a cache behind those that it holds: tokens (B, L, D)."""
        assert memory is not None, "it reads an image"
        assert prefix is None, "what stands before a text are its first ids"
        qformer = self._qformer[0]
        M = qformer.config.queries
        x, place = self._embedded(ids, mask, None)
        B, L, _ = x.shape
        x = x + qformer.positions[place]
        real = torch.ones(B, L, dtype=torch.bool, device=x.device) if mask is None else mask.bool()
        first = cache is None or not len(cache.own[0])
        if first:
            x = torch.cat([qformer.queries.expand(B, -1, -1), x], 1)
        x = qformer.dropout(qformer.norm(x))
        seen = visibility(F.pad(real, (M, 0), value=True), M, "causal")[:, -x.shape[1] :]
        for layer, block in enumerate(qformer.layers):
            x = block(
                x,
                queries=M if first else 0,
                mask=seen,
                memory=memory if first else None,
                kept=None if cache is None else cache.own[layer],
            )
        return x[:, -L:]

    def peek(self, state: State, ids: Tensor) -> Peek:
        return peek_by_next(self, state, ids)

    def _empty_cache(self) -> KVCache:
        return KVCache.empty(len(self._qformer[0].layers))


class Bridge(QueryCaptioner):
    """A frozen dual encoder, and a Q-Former between its image tokens and texts, which compares, matches
    and writes. Concepts stand before each text that is matched or written. `matches` and `writes` say
    what was trained."""

    validation = Validation("retrieval", ("i2t_", "t2i_"))
    reads = ("images.main", "texts.*")  # type: ignore[assignment]

    def __init__(
        self,
        encoder: DualEncoder,
        qformer: QFormer,
        words: Tokenizer,
        *,
        embed_dim: int,
        temperature: float,
        m: int,
        prompt: str,
        matches: bool,
        writes: bool,
    ):
        super().__init__(encoder, qformer, words, m=m, prompt=prompt)
        D = qformer.config.width
        self.image_projection = nn.Linear(D, embed_dim)
        self.text_projection = nn.Linear(D, embed_dim)
        self.logit_scale = Temperature(temperature, form="divisor", clamp=(0.001, 0.5))
        self.match_head = nn.Linear(D, 2)
        self.lm = QFormerLM(qformer, words.vocab_size)
        self.matches = matches
        self.writes = writes

    @property
    def words(self) -> Tokenizer:
        return self.tokenizer

    @property
    def vectors(self) -> int:
        """The number M of vectors of an image."""
        return self.qformer.config.queries

    @property
    def embed_dim(self) -> int:
        """The number E of dimensions of embeddings."""
        return self.image_projection.out_features

    @property
    def decode_id(self) -> int:
        """The id of the token [DEC], with which what is written begins; it follows the tokenizer's."""
        return self.words.vocab_size

    # ---- the passes of the Q-Former

    def apart(self, tokens: Tensor, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Images' tokens and texts, which do not read each other -> unit vectors (N, M, E) and (N, E)."""
        found = self.qformer(ids, lengths, memory=tokens, visible="apart")
        queries = self.image_projection(found.tokens[:, : found.prefix])
        return normalize(queries, dim=-1), normalize(self.text_projection(found.pooled), dim=-1)

    def embed_images(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> unit vectors (N, M, E)."""
        return normalize(self.image_projection(self.qformer(memory=self.look(x)).tokens), dim=-1)

    def embed_texts(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Texts (N, L) -> unit vectors (N, E)."""
        return normalize(self.text_projection(self.qformer(ids, lengths).pooled), dim=-1)

    def match_logits(self, tokens: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """Images' tokens and texts -> logits (N, 2) that they do not belong together, and that they do:
        the mean over the queries."""
        found = self.qformer(ids, lengths, memory=tokens)
        return self.match_head(found.tokens[:, : found.prefix]).mean(1)

    def prompted(self, seen: Seen, prompts: Sequence[str] | None) -> Prompt:
        if not self.writes:
            raise InputError("this model was trained with caption=0 and does not write")
        rows = [[self.decode_id] for _ in range(len(seen))]
        if self.names:
            known = self.words.encode(self.said(seen.vectors))
            rows = [
                row + own[len(self.words.before) :] for row, own in zip(rows, known, strict=True)
            ]
        if prompts is not None:
            rows = [row + self.words.ids(text) for row, text in zip(rows, prompts, strict=True)]
        return Prompt(ids=rows, memory=seen.tokens)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "BridgeModel":
        return BridgeModel(self, tokenizer, name=name)


class BridgeModel(FindsConcepts, Matches, Writes, MultiVectorModel, Saved):
    """A model that compares images and texts, tells whether they match, and writes."""

    captioner: Bridge
    precision = "float32"

    def __init__(self, bridge: Bridge, tokenizer: Tokenizer | None, *, name: str):
        super().__init__(bridge, tokenizer, name=name)
        self.captioner = bridge
        self.encoder = bridge.encoder
        self.lm = bridge.lm

    @property
    def _whole(self) -> nn.Module:
        return self.captioner

    def match_logits(
        self,
        images: ImagesLike,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """The logits (N, 2) of no match and a match of text i, behind the concepts of image i, with image
        i, float32, on the CPU.

        Equal images next to each other are encoded once. `images` and errors are those of
        `Model.embed_images`; InputError also for another number of texts, and if matching was not trained.
        """
        if not self.captioner.matches:
            raise InputError(f"{self.name} was trained with matching=0 and does not match")
        batches, count = self._batches(images, batch_size, exact)
        rows = self.captioner.words.encode(self._as_many(texts, count, "texts") or [])
        found = [torch.zeros(0, 2)]
        start = 0
        with evaluating(self.captioner), torch.inference_mode():
            for (pixels,) in batches:
                texts_read = self._padded(rows[start : start + len(pixels)])
                found.append(at_least_float32(self._matched(pixels, *texts_read)).cpu())
                start += len(pixels)
        return torch.cat(found).clone()

    def _matched(self, pixels: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """The logits (N, 2) of images with texts; a run of equal images is encoded once."""
        bridge = self.captioner
        first, row = runs(pixels)
        row = row.to(self.device)
        seen = bridge.see(pixels[first].to(self.device))
        if bridge.names:
            known = self._padded(bridge.words.encode(bridge.said(seen.vectors)))
            ids, lengths = behind_concepts(bridge.words, known, row, ids, lengths)
        return bridge.match_logits(seen.tokens[row], ids, lengths)

    def noise_probability(
        self, images: Tensor, texts: Tensor, *, batch_size: int = 256, seed: int = 0
    ) -> Tensor:
        """The probability (N,), float32, that each of N pairs is noise, of images (N, M, E) from `index`
        and texts (N, E) from `embed_texts`: by the mixture of two Gaussians on the losses of all pairs,
        0 where these are not found.

        A loss is that of a pair among `batch_size` pairs, drawn by the seed. Raises InputError for
        another number of texts.
        """
        if len(images) != len(texts):
            raise InputError(
                f"{len(images)} images came with {len(texts)} texts; give one for each"
            )
        scale = float(self.captioner.logit_scale().detach())
        rows = [f"{row:09}" for row in range(len(images))]
        losses = losses_of(
            lambda chosen: (images[chosen], texts[chosen]), rows, scale, batch_size, seed
        )
        found = noise_probabilities(losses)
        return torch.zeros(len(images)) if found is None else torch.from_numpy(found).float()


def losses_of(
    vectors_of: Callable[[np.ndarray], tuple[Tensor, Tensor]],
    keys: Sequence[str],
    scale: float,
    size: int,
    seed: int,
) -> np.ndarray:
    """The `pair_losses` (N,) of all pairs, in batches of `size` that depend on the seed and the keys.

    `vectors_of` returns the vectors of the images and texts of some rows, `BLOCK` batches at once.
    """
    batches = fixed_batches(keys, size, seed)
    found = np.full(len(keys), np.nan)
    for start in range(0, len(batches), BLOCK):
        block = batches[start : start + BLOCK]
        both = vectors_of(np.concatenate(block))
        each = (part.split(len(block[0])) for part in both)
        for rows, images, texts in zip(block, *each, strict=True):
            losses = pair_losses(scale * similarities(images, texts)).double().numpy()
            fresh = np.isnan(found[rows])  # the last batch has some of the first again
            found[rows[fresh]] = losses[fresh]
    return found


def behind_concepts(
    words: Tokenizer,
    known: tuple[Tensor, Tensor],
    row: Tensor,
    ids: Tensor,
    lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    """Texts (N, L) behind those that name concepts, ids and lengths of which `row` (N,) says which is of
    each: start, concepts, their end, text, its end."""
    before = len(words.before)
    return prefixed(ids, lengths, known[0][row, before:], known[1][row] - before)
