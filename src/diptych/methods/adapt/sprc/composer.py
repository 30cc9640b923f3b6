"""Composed retrieval: find the image described by a reference image and a text of what should
change.

    p = QFormer(Q, a; I_r)[: P]           a prompt of P vectors, of the reference's tokens I_r and the words a
    f = unit(W_t QFormer(p, a)_CLS)       the query: a text with the prompt before it, and no image
    g = unit(W_v QFormer(Q; I_t))         a target, M vectors
    S = max_k <f, g_k>

Dimensions: N images or queries, G images of an index, M vectors of each, E embedding, P prompt, D
width, T tokens.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.errors import InputError
from diptych.metrics import similarities
from diptych.models.delivered import Delivered, Validation
from diptych.models.model import ImagesLike, Model, Progress, evaluating
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature, freeze
from diptych.towers.nn.qformer import QFormer
from diptych.towers.tower import ImageTower

_SIGNS = re.compile(r'[.!"()*#:;~\s]+')
TILE = 2048  # images of an index that are scored at once


def cleaned(text: str) -> str:
    """Return an instruction as the model reads it: lower case, single spaces, without the
    characters that BLIP-2 removes.

    >>> cleaned('Make it  "blue"; remove the dog!')
    'make it blue remove the dog'
    """
    return _SIGNS.sub(" ", text.lower()).strip()


class Composer(Delivered):
    """A frozen dual encoder, a Q-Former on its image tokens, and the projections that compare
    queries with targets.

    `prompts` is P, at most M; `length` is the number of tokens of a text that are read.
    """

    reads = ("images.main", "images.reference", "texts.*")

    def __init__(
        self, encoder: DualEncoder, qformer: QFormer, embed_dim: int, *, prompts: int, length: int
    ):
        super().__init__()
        M = qformer.config.queries
        D = qformer.config.width
        if not 1 <= prompts <= M:
            raise InputError(
                f"a prompt of {prompts} vectors cannot be kept of the Q-Former's {M}; give 1 to {M}"
            )
        self.encoder = encoder
        self.qformer = qformer
        self.prompts = prompts
        self.length = length
        freeze(encoder)
        self.norm = nn.LayerNorm(encoder.image.width)
        self.image_projection = nn.Linear(D, embed_dim)
        self.text_projection = nn.Linear(D, embed_dim)
        self.logit_scale = Temperature(0.07, form="divisor")

    @property
    def image(self) -> ImageTower:
        """The image tower, which has the preprocessing."""
        return self.encoder.image

    def look(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> tokens (N, T, width of the image tower)."""
        return self.norm(self.encoder.encode_image(x).tokens.to(self.norm.weight.dtype))

    def words(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Truncate ids (N, L) and lengths (N,) to `length`."""
        return ids[:, : self.length], lengths.clamp(max=self.length)

    def targets(self, tokens: Tensor) -> Tensor:
        """Tokens from `look` (N, T, ·) -> unit vectors (N, M, E)."""
        return normalize(self.image_projection(self.qformer(memory=tokens).tokens), dim=-1)

    def joint(self, tokens: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """Tokens from `look` (N, T, ·) and words -> the queries that read both (N, M, D)."""
        found = self.qformer(*self.words(ids, lengths), memory=tokens)
        return found.tokens[:, : found.prefix]

    def prompt(self, tokens: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """Tokens from `look` (N, T, ·) and words -> prompts (N, P, D)."""
        return self.joint(tokens, ids, lengths)[:, : self.prompts]

    def query(
        self,
        prompts: Tensor | None,
        ids: Tensor,
        lengths: Tensor,
        *,
        inserted: Tensor | None = None,
    ) -> Tensor:
        """Prompts (N, P, D) before words, with `inserted` (K, D) among them, or words alone -> unit
        vectors (N, E)."""
        found = self.qformer(*self.words(ids, lengths), queries=prompts, inserted=inserted)
        return normalize(self.text_projection(found.pooled), dim=-1)

    def ask(self, x: Tensor, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) and words -> unit vectors (N, E), and the prompts (N, P, D) before
        the words."""
        prompts = self.prompt(self.look(x), ids, lengths)
        return self.query(prompts, ids, lengths), prompts

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return ComposerModel(self, tokenizer, preprocess, name=name)


class ComposerModel(Model):
    """A model that answers an image and an instruction with images of an index. Its embeddings are
    its encoder's."""

    validation = Validation("composed", ("all_", "subset_"))

    def __init__(
        self, composer: Composer, tokenizer: Tokenizer | None, preprocess: Preprocess, *, name: str
    ):
        super().__init__(composer.encoder, tokenizer, preprocess, name=name, delivered=composer)
        self.composer = composer

    def index(
        self,
        images: ImagesLike,
        *,
        batch_size: int = 64,
        exact: bool = False,
        progress: Progress | None = None,
    ) -> Tensor:
        """Return the index of images: unit vectors (N, M, E), float16, on the CPU.

        `images` and the errors are those of `Model.embed_images`.
        """
        batches, count = self._batches(images, batch_size, exact)
        config = self.composer.qformer.config
        found = torch.empty(
            count, config.queries, self.composer.image_projection.out_features, dtype=torch.float16
        )
        done = 0
        with evaluating(self.composer), torch.inference_mode():
            for (pixels,) in batches:
                found[done : done + len(pixels)] = self.composer.targets(
                    self.composer.look(pixels.to(self.device))
                )
                done += len(pixels)
                if progress:
                    progress(done, count)
        return found

    def compose(
        self,
        images: ImagesLike,
        texts: str | Sequence[str],
        *,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """Images and an instruction for each -> unit vectors (N, E), float32, on the CPU.

        Raises InputError as `Model.embed_images` does, and if instructions are empty or their
        number differs.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        batches, count = self._batches(images, batch_size, exact)
        said = [cleaned(text) for text in texts]
        if count != len(said) or not all(said):
            raise InputError(
                f"{count} images and {len(said)} instructions, {said.count('')} of them empty; say what "
                "should be different in each image"
            )
        if self.tokenizer is None:
            raise InputError(
                f"{self.name} came without a tokenizer and reads no instruction; train it from one that has one"
            )
        rows = self.tokenizer.encode(said)
        found = []
        done = 0
        with evaluating(self.composer), torch.inference_mode():
            for (pixels,) in batches:
                ids, lengths = pad_batch(rows[done : done + len(pixels)], self.tokenizer)
                done += len(pixels)
                query, _ = self.composer.ask(
                    *(each.to(self.device) for each in (pixels, ids, lengths))
                )
                found.append(query.float().cpu())
        return torch.cat(found).clone()

    def search(
        self, index: Tensor, image: ImagesLike, text: str, k: int = 10, *, exact: bool = False
    ) -> list[tuple[int, float]]:
        """Return the `k` best images of an index (G, M, E) for one image and an instruction, best
        first: their positions in the index, and scores.

        Raises InputError as `compose` does, and for a k below 1.

            index = model.index(paths)
            for place, score in model.search(index, "house.jpg", "the same at night"):
                print(paths[place], score)
        """
        if k < 1:
            raise InputError(f"k is {k}; ask for at least 1 image")
        query = self.compose(image, text, exact=exact)
        scores = torch.cat([similarities(query, part.float()) for part in index.split(TILE)], 1)[0]
        best = scores.sort(descending=True, stable=True)
        return list(zip(best.indices[:k].tolist(), best.values[:k].tolist(), strict=True))
