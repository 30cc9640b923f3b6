"""What ALBEF delivers: a dual encoder, a multimodal encoder on the tokens of both towers, and a
classifier of pairs.

Dimensions: N pairs, T texts, L tokens, M tokens of an image, D width of texts, h x w positions, H heads.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.models.delivered import Delivered
from diptych.models.matching import Matches, runs
from diptych.models.model import ImagesLike, Model, evaluating
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.product import run
from diptych.towers.nn.transformer import Transformer
from diptych.towers.nn.words import WordHead
from diptych.towers.tower import Tower

_LAYER = 2
"""The layer of cross-attention whose maps are shown, the third."""
_BLOCK = re.compile(r"transformer\.layers\.(?P<layer>[0-9]+)\.(?P<part>.+)")


class MultimodalEncoder(nn.Module):
    """Layers of self-attention, cross-attention to an image and feed-forward, on the tokens of a text
    tower; and the head of masked words.

    The layers are those of the tower, `depth` of them (None: as many). With several `images` each layer
    is as many blocks in turn, of which each reads one image; their cross-attention has the same keys'
    and values' weights.

    >>> from diptych.towers.build import text_tower
    >>> text = text_tower("text:width=32:depth=2:causal=false:pooling=first", vocab_size=100, context=16)
    >>> encoder = MultimodalEncoder(text, memory_width=48)
    >>> encoder(torch.zeros(3, 5, 32), torch.tensor([5, 2, 4]), torch.zeros(3, 9, 48)).shape
    torch.Size([3, 5, 32])
    """

    def __init__(self, text: Tower, memory_width: int, depth: int | None = None, images: int = 1):
        super().__init__()
        like = layers_like(text)
        like["depth"] = images * (depth or like["depth"])
        self.images = images
        self.width = text.width
        self.post_norm = like.get("post_norm", False)
        self.transformer = Transformer(text.width, cross=0, memory_width=memory_width, **like)
        for at, block in enumerate(self.transformer.layers):
            first: Any = self.transformer.layers[at - at % images]
            if block is not first:
                block.cross.k = SharedLinear(first.cross.k)  # type: ignore[union-attr]
                block.cross.v = SharedLinear(first.cross.v)  # type: ignore[union-attr]
        self.norm = nn.Identity() if self.post_norm else nn.LayerNorm(text.width)
        table: Tensor = text.table.weight  # type: ignore[union-attr, assignment]
        self.words = WordHead(table.shape[1], len(table), hidden=text.width)

    def forward(self, tokens: Tensor, lengths: Tensor, *memories: Tensor) -> Tensor:
        """Tokens of texts (N, L, D) with lengths (N,), and of each image (N, M, ·) -> tokens (N, L, D)."""
        assert len(memories) == self.images
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        if self.images == 1:
            return self.norm(self.transformer(tokens, mask=mask, memory=memories[0]))
        for at in range(len(self.transformer.layers)):
            memory = memories[at % self.images]
            tokens = self.transformer(tokens, mask=mask, memory=memory, start=at, stop=at + 1)
        return self.norm(tokens)

    def repeated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of an encoder of one image, for each block of a layer; others as they are."""
        blocks = [found for found in map(_BLOCK.fullmatch, state) if found]
        depth = 1 + max(int(block["layer"]) for block in blocks)
        if depth * self.images != len(self.transformer.layers):
            return dict(state)
        found = {name: value for name, value in state.items() if not _BLOCK.fullmatch(name)}
        own = self.state_dict()
        for block in blocks:
            for at in range(self.images):
                place = self.images * int(block["layer"]) + at
                name = f"transformer.layers.{place}.{block['part']}"
                if name in own:  # the keys and values of a layer are its first block's
                    found[name] = state[block[0]]
        return found


class SharedLinear(nn.Module):
    """Another module's linear layer: it is computed here, and no part of this module's state."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self._layer = (layer,)  # a tuple, so that its parameters are registered once

    def forward(self, x: Tensor) -> Tensor:
        return run(self._layer[0], x)


def layers_like(text: Tower) -> dict[str, Any]:
    """The options of a `Transformer` with the layers of a text tower; those of BERT are post-norm."""
    config: Any = getattr(getattr(text, "model", None), "config", None)
    if getattr(config, "model_type", None) == "bert":
        return {
            "depth": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "mlp_ratio": config.intermediate_size / config.hidden_size,
            "activation": config.hidden_act,
            "eps": config.layer_norm_eps,
            "dropout": config.hidden_dropout_prob,
            "post_norm": True,
        }
    like = text.spec
    return {
        "depth": like.get("depth", 6),
        "heads": like.get("heads"),
        "mlp_ratio": like.get("mlp_ratio", 4.0),
        "activation": like.get("activation", "gelu"),
        "dropout": like.get("dropout", 0.0),
    }


def text_of(encoder: DualEncoder) -> Tower:
    """The text tower of an encoder. Raises InputError unless it has one of images too."""
    if encoder.text is None or "image" not in encoder.sides:
        raise InputError(
            "this method reads images and texts; start from a model that has a tower for both"
        )
    return encoder.text


class Matcher(Delivered):
    """A dual encoder, and a multimodal encoder whose first token tells whether a text is of an
    image."""

    def __init__(self, encoder: DualEncoder, depth: int | None = None):
        super().__init__()
        text = text_of(encoder)
        self.encoder = encoder
        self.multimodal = MultimodalEncoder(text, encoder.image.width, depth)
        self.match_head = nn.Linear(text.width, 2)

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of images."""
        return self.encoder.image.preprocess

    def fuse(self, images: Tensor, texts: Tensor, lengths: Tensor) -> Tensor:
        """Tokens of images (N, M, ·) and of texts (N, L, D) with lengths (N,) -> the first token of
        both (N, D)."""
        return self.multimodal(texts, lengths, images)[:, 0]

    def match_logits(self, images: Tensor, texts: Tensor, lengths: Tensor) -> Tensor:
        """As `fuse`, logits (N, 2): that image and text do not belong together, and that they do."""
        return self.match_head(self.fuse(images, texts, lengths))

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "MatcherModel":
        assert preprocess is not None, "it has an image tower"
        return MatcherModel(self.encoder, tokenizer, preprocess, name=name, delivered=self)


class MatcherModel(Matches, Model):
    """A model that also scores whether a text is of an image, and shows where."""

    delivered: Matcher
    heat_measure = "gradient"

    def match_logits(
        self,
        images: ImagesLike,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """The logits (N, 2) of no match and a match of text i with image i, float32, on the CPU.

        Equal images next to each other and equal texts are encoded once. `images` and errors are those
        of `embed_images`; InputError also for another number of texts.
        """
        return self._of_pairs(self.delivered.match_logits, images, texts, batch_size, exact)

    def fuse(
        self,
        images: ImagesLike,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """The first token (N, D) of the multimodal encoder for text i and image i, float32, on the CPU: a
        feature of both for a classifier. Errors are those of `match_logits`."""
        return self._of_pairs(self.delivered.fuse, images, texts, batch_size, exact)

    def _of_pairs(
        self,
        fuse: Callable[[Tensor, Tensor, Tensor], Tensor],
        images: ImagesLike,
        texts: Sequence[str],
        batch_size: int,
        exact: bool,
    ) -> Tensor:
        """What `fuse` gives of the tokens of image i, those of text i and its length."""
        batches, count = self._batches(images, batch_size, exact)
        if isinstance(texts, str) or len(texts) != count:
            given = "one string" if isinstance(texts, str) else f"{len(texts)} texts"
            raise InputError(f"{count} images came with {given}; give a list with one for each")
        found = [torch.zeros(0, 2)]
        with evaluating(self.delivered), torch.inference_mode():
            tokens, lengths, row = self._read(texts)
            start = 0
            for (pixels,) in batches:
                mine = row[start : start + len(pixels)]
                of_both = fuse(self._seen(pixels), tokens[mine], lengths[mine])
                found.append(at_least_float32(of_both).cpu())
                start += len(pixels)
        return torch.cat(found[1:] or found).clone()

    def heat(
        self,
        images: ImagesLike,
        texts: str | Sequence[str],
        *,
        word: str | None = None,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """Gradient maps (N, K, h, w) of texts on images, float32, on the CPU (`gradient_maps`), over all
        tokens of a text, or those of a `word` of it.

        `images` and errors are those of `embed_images`; InputError also for an image tower without
        positions, and for a text without the word.
        """
        asked = [texts] if isinstance(texts, str) else list(texts)
        batches, count = self._batches(images, batch_size, exact)
        if not count:
            raise InputError(f"{self.name} has no image to show; give one at least")
        maps = []
        with evaluating(self.delivered):
            with torch.no_grad():
                tokens, lengths, row = self._read(asked)
            counted = self._counted(asked, tokens.shape[1], word)
            texts_read = [
                (tokens[at], lengths[at], own) for at, own in zip(row, counted, strict=True)
            ]
            for (pixels,) in batches:
                with torch.no_grad():
                    seen = self.encoder.encode_image(pixels.to(self.device))
                maps.append(self._maps(seen, texts_read).cpu())
        return torch.cat(maps)

    def _maps(self, seen: Encoded, texts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """The maps (N, K, h, w) of encoded images, for the tokens (L, D) of each text, its length, and
        which tokens count (L,)."""
        if seen.grid is None:
            raise InputError(f"{self.name} has no positions to show; choose vit or conv")
        N = len(seen.tokens)
        each = [
            gradient_maps(
                self.delivered, tokens.expand(N, -1, -1), length.expand(N), seen.tokens, counted
            )
            for tokens, length, counted in texts
        ]
        patches = torch.stack(each, 1)[..., seen.prefix :][..., : seen.grid[0] * seen.grid[1]]
        return patches.unflatten(2, seen.grid)

    def _read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens (T, L, D) and lengths (T,) of the different texts, and the row (N,) of each."""
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        ids, lengths = pad_batch(self._words.encode(list(numbers)), self._words)
        lengths = lengths.to(self.device)
        tokens = self.encoder.encode_text(ids.to(self.device), lengths).tokens
        return tokens, lengths, torch.tensor([numbers[text] for text in texts], dtype=torch.long)

    @property
    def _words(self) -> Tokenizer:
        if self.tokenizer is None:
            raise InputError(f"{self.name} came without a tokenizer and cannot read texts")
        return self.tokenizer

    def _counted(self, texts: Sequence[str], L: int, word: str | None) -> Tensor:
        """Which tokens (K, L) of the texts are those of the word, or all real ones."""
        found = torch.zeros(len(texts), L)
        for own, text in zip(found, texts, strict=True):
            [row] = self._words.encode([text])
            places = range(len(row)) if word is None else places_of(word, row, self._words)
            if not places:
                raise InputError(f"{text!r} has no word {word!r}; name one of its words")
            own[list(places)] = 1
        return found.to(self.device)

    def _seen(self, pixels: Tensor) -> Tensor:
        """The tokens (N, M, ·) of images; a run of equal ones is encoded once."""
        first, run = runs(pixels)
        return self.encoder.encode_image(pixels[first].to(self.device)).tokens[run.to(self.device)]


def gradient_maps(
    matcher: Matcher, texts: Tensor, lengths: Tensor, images: Tensor, counted: Tensor
) -> Tensor:
    """How much each token of images (N, M, ·) speaks for a match with texts (N, L, D), (N, M).

        map_m = mean over heads and `counted` tokens l (L,) of A_lm · max(0, d score / d A_lm)

    A is the cross-attention of the third layer, or the last where there are fewer, and the score the
    logit of a match. Source: Selvaraju et al. 2017 (Grad-CAM), as in ALBEF.
    """
    layers = list(matcher.multimodal.transformer.layers)
    cross: Any = layers[min(_LAYER, len(layers) - 1)].cross
    kept: list[Tensor] = []

    def attend(_: nn.Module, args: tuple[Tensor, Tensor], __: Any, ___: Tensor) -> Tensor:
        kept.append(cross.weights(*args).detach().requires_grad_())
        values = cross.v(args[1]).unflatten(-1, (cross.heads, -1)).transpose(1, 2)
        return cross.out((kept[0] @ values).transpose(1, 2).flatten(2))

    handle = cross.register_forward_hook(attend, with_kwargs=True)
    try:
        with torch.enable_grad():
            score = matcher.match_logits(images, texts, lengths)[:, 1].sum()
            [gradient] = torch.autograd.grad(score, kept)
    finally:
        handle.remove()
    maps = (kept[0].detach() * gradient.clamp(min=0)).mean(1)
    return at_least_float32(torch.einsum("nlm,l->nm", maps, (counted / counted.sum()).to(maps)))


def places_of(word: str, row: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """The places of a word's tokens, wherever it stands, in an encoded text."""
    begin = len(tokenizer.before)
    end = len(row) - len(tokenizer.after)
    starts = tokenizer.starts_word(list(row[begin:end]))
    firsts = [begin + at for at, start in enumerate(starts) if start]
    found = []
    for first, last in pairwise([*firsts, end]):
        if _plain(tokenizer.decode(list(row[first:last]))) == _plain(word):
            found += range(first, last)
    return found


def _plain(word: str) -> str:
    return re.sub(r"^\W+|\W+$", "", word.lower())
