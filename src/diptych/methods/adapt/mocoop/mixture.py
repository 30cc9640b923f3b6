"""Prompts in groups, and a router on the image that mixes the class embeddings of the most likely
groups (MoCoOp).

    t_gc = unit(text(prompt_gc) + w)                             group g, class c; w is one vector for all
    r = R x,   a = softmax of the k largest r, 0 elsewhere       the router, a linear map of the image
    logits_c = s <x, Σ_g a_g t_gc>                               the mixture is not made unit again

Dimensions: N images, G groups, C classes, C+ all names used in training, E embedding.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, by_length
from diptych.errors import InputError
from diptych.models.adapted import ClassifierModel
from diptych.models.class_names import check_names, mean_directions, plainly, prompt_ids
from diptych.models.model import ImagesLike, Progress
from diptych.models.prompts import PromptLearner
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import thaw
from diptych.towers.tower import Tower

_AT_ONCE = 256  # hard prompts


def mixing(scores: Tensor, k: int) -> Tensor:
    """Return the weights (N, G) of the groups: the softmax over the k largest scores of each row, 0
    elsewhere.

    >>> mixing(torch.tensor([[0.2, 1.0, -0.5, 0.6]]), 2)
    tensor([[0.0000, 0.5987, 0.0000, 0.4013]])
    """
    kept, which = scores.topk(k, dim=1)
    shares = kept.softmax(1)
    return shares.new_zeros(scores.shape).scatter(1, which, shares)


def block_norms(tower: Tower) -> list[str]:
    """Return the names of the norms in a tower's blocks. Raises InputError if it has no transformer
    blocks.

    >>> from diptych.towers.build import image_tower
    >>> block_norms(image_tower("vit:image_size=32:patch=16:width=64:depth=1"))
    ['transformer.layers.0.norm1', 'transformer.layers.0.norm2']
    """
    layers = getattr(getattr(tower, "transformer", None), "layers", None)
    if layers is None:
        raise InputError(
            "the norms of an image tower's blocks are to learn, and this one has no transformer blocks; set norms=0"
        )
    return [
        f"transformer.layers.{at}.{name}"
        for at, block in enumerate(layers)
        for name, module in block.named_children()
        if isinstance(module, nn.LayerNorm)
    ]


class Mixture(PromptLearner):
    """One prompt per group, initialised as the first of the group's templates, and a router that
    mixes `k` of them.

    `groups` are templates by the name of their group. `also` are further names to train with.
    `norms` trains the norms of the image tower's blocks too. Raises InputError for a `k` that is
    not 1 to G.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer,
        groups: Mapping[str, Sequence[str]],
        *,
        k: int = 2,
        also: Sequence[str] = (),
        norms: bool = True,
    ):
        first, *more = (templates[0] for templates in groups.values())
        super().__init__(encoder, tokenizer, first, position="around", more=more)
        if not 1 <= k <= len(groups):
            raise InputError(
                f"k is {k} and there are {len(groups)} groups of templates; mix 1 to {len(groups)}"
            )
        self.groups = dict(groups)
        self.k = k
        self.also = tuple(also)
        self.names: tuple[str, ...] = ()
        self.correction = nn.Parameter(torch.zeros(encoder.embed_dim))
        self.router = nn.Linear(encoder.embed_dim, len(groups))
        self._hard: Tensor | None = None
        if norms:
            thaw(*(encoder.image.get_submodule(name) for name in block_norms(encoder.image)))

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the class names; names of `also` that are no classes follow them in training."""
        classes = check_names(names)
        known = {plainly(name) for name in classes}
        super().set_classes([*classes, *(name for name in self.also if plainly(name) not in known)])
        self.names = self.classes
        self.classes = classes
        self._hard = None

    def train(self, mode: bool = True) -> "Mixture":
        """Set the mode of all modules but the encoder, which stays in evaluation mode although its
        norms are trained: no patches are dropped."""
        super().train(mode)
        self.encoder.eval()
        return self

    def group_features(
        self, groups: Tensor | slice = slice(None), names: int | None = None
    ) -> Tensor:
        """Return the first `names` names, by default all (C+), in the prompts of some groups, by
        default all: unit vectors (G, C+, E)."""
        which = torch.arange(len(self.ids), device=self.ids.device).unflatten(
            0, (len(self.groups), -1)
        )
        which = which[groups, :names]
        rows = which.flatten()
        embeddings = self.embeddings(self.context, rows)
        pooled = self.encoder.encode_text(None, self.lengths[rows], embeddings=embeddings).pooled
        vectors = self.encoder.project_text(pooled) + self.correction
        return normalize(vectors, dim=1).unflatten(0, which.shape)

    def text_features(self) -> Tensor:
        """Return the classes in the prompts of each group (G, C, E)."""
        return self.group_features(names=len(self.classes))

    def mixed(self, image: Tensor, scores: Tensor, texts: Tensor) -> Tensor:
        """Unit vectors of images (N, E), their scores (N, G) and the classes (G, C, E) -> logits
        (N, C)."""
        cosines = torch.einsum("ne,gce->ngc", image, texts)
        return self.encoder.logit_scale() * (mixing(scores, self.k)[..., None] * cosines).sum(1)

    def judged(self, image: Tensor, texts: Tensor) -> Tensor:
        return self.mixed(image, self.router(image), texts)

    def class_features(self, x: Tensor) -> Tensor:
        """Return the classes as mixed for each image (N, C, E): shorter than unit length if the
        groups disagree."""
        return torch.einsum("ng,gce->nce", self.route(x), self.text_features())

    def route(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> the weights (N, G) of the groups."""
        return mixing(self.router(self.image_features(x)), self.k)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return MixtureModel(self, preprocess, name=name)

    @torch.no_grad()
    def prototypes(self) -> Tensor:
        """Return the mean direction of each name in the templates of each group (G, C+, E).

        They have no gradient and depend on nothing that is trained, so they are computed once for a
        set of names. Raises InputError if a name does not fit a template.
        """
        if self._hard is None or self._hard.device != self.ids.device:
            self._hard = torch.stack(
                [self._prototypes(templates) for templates in self.groups.values()]
            )
        return self._hard

    def _prototypes(self, templates: Sequence[str]) -> Tensor:
        prompts = zip(
            *(prompt_ids(self.tokenizer, template, self.names) for template in templates),
            strict=True,
        )
        batches, places = by_length(
            [row for rows in prompts for row in rows], self.tokenizer, _AT_ONCE
        )
        vectors = [
            self.encoder.embed_texts(*(part.to(self.ids.device) for part in batch))
            for batch in batches
        ]
        return mean_directions(torch.cat(vectors)[places], len(self.names))


class MixtureModel(ClassifierModel):
    """A model whose classifier mixes the prompts of some groups, which depend on the image."""

    classifier: Mixture

    def route(
        self,
        images: ImagesLike,
        *,
        batch_size: int = 64,
        exact: bool = False,
        progress: Progress | None = None,
    ) -> list[tuple[tuple[str, float], ...]]:
        """Return for each image the groups whose prompts are mixed, with their weights, the largest
        first."""
        weights = self._answers(self.classifier.route, images, batch_size, exact, progress)
        names = tuple(self.classifier.groups)
        most = weights.topk(self.classifier.k, dim=1)
        pairs = zip(most.indices.tolist(), most.values.tolist(), strict=True)
        return [
            tuple((names[at], share) for at, share in zip(*pair, strict=True)) for pair in pairs
        ]
