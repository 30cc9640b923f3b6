"""The dual encoder: an image tower and a text tower with a shared embedding space.

Dimensions: N images or texts, L tokens, D tower width, E embedding, K pooled vectors, H x W pixels.
"""

import copy
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import InputError, unknown
from diptych.spec import Spec, configure, parse
from diptych.towers.build import image_tower, text_tower
from diptych.towers.encoded import Encoded
from diptych.towers.nn.heads import TwoConfig, TwoHeads, fitted, head
from diptych.towers.nn.parts import Temperature
from diptych.towers.nn.pooling import Poolers, QueryPooler
from diptych.towers.tower import ImageTower, Tower

_OLD_KEYS = {"scale": "logit_scale", "bias": "logit_bias"}
"""Keys in the configs of early runs."""
_SHORTEST = 1e-4
"""The length below which the mean of two unit vectors has no direction; it bounds the gradient."""

Pool = Literal["before", "after"]


class DualEncoder(nn.Module):
    """Embed images and texts as unit vectors of one space; similarity is their dot product.

    `logit_scale()` is the multiplier of similarities; `logit_bias` is added to them (SigLIP), or is
    None. A projection is given as the spec of a head (`towers.nn.heads`), such as "linear".

    With `pool="before"` the image tower's pooled vector is projected; with "after" its patches are,
    and the vector is their mean.

    With `image_pooler`, a spec of `towers.nn.pooling.Poolers`, the vector of an image is that of an
    attentional pooler in place of what the tower pools, and `encode_image` gives a decoder's queries.

    An image tower that pools K vectors (several CLS tokens) offers K named `spaces`: the encoder
    embeds images in the first, `space(name)` in another one. Texts are the same in all of them.

    A model of images alone has `text` None. One of texts alone has no attribute `image`: whatever
    asks for it raises InputError.

    >>> from diptych.towers.build import image_tower, text_tower
    >>> image = image_tower("vit:image_size=32:patch=16:width=64:depth=1")
    >>> text = text_tower("text:width=64:depth=1", vocab_size=100, context=16)
    >>> dual = DualEncoder(image, text, 32)
    >>> a = dual.embed_images(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    >>> b = dual.embed_texts(torch.ones(3, 4, dtype=torch.long), torch.tensor([4, 4, 2]))
    >>> dual.similarity(a, b).shape
    torch.Size([2, 3])
    """

    image: ImageTower
    image_projection: nn.Module

    def __init__(
        self,
        image: ImageTower | None,
        text: Tower | None,
        embed_dim: int,
        *,
        logit_scale: Temperature | None = None,
        logit_bias: float | None = None,
        image_projection: str = "linear",
        text_projection: str = "linear",
        pool: Pool = "before",
        spaces: Sequence[str] = (),
        image_pooler: str | None = None,
    ):
        super().__init__()
        assert image is not None or text is not None, "a dual encoder has one tower at least"
        if pool not in get_args(Pool):
            raise unknown("pool of a dual encoder", pool, get_args(Pool))
        self.pool = pool
        self.spaces = _named(spaces, 1 if image is None else image.vectors)
        self._vector = 0  # of those that the image tower pools
        if image_pooler is not None and (pool == "after" or self.spaces):
            raise InputError(
                f"image_pooler={image_pooler} pools one vector; leave out pool=after and several spaces"
            )
        if image is not None:
            self.image = image
        self.text = text
        self.embed_dim = embed_dim
        self.image_pooler: Poolers | None = None
        if image is not None and image_pooler is not None:
            if isinstance(getattr(image, "pool", None), QueryPooler):
                raise InputError(
                    f"image_pooler={image_pooler} reads tokens, and the image tower pools by queries of its own; leave "
                    "it out (pooler=none)"
                )
            self.image_pooler = Poolers(image_pooler, image.width)
        if image is not None:
            image_projection = fitted(image_projection, image.width, embed_dim)
            self.image_projection = head(image_projection, image.width, embed_dim, "image")
        if text is not None:
            text_projection = fitted(text_projection, text.width, embed_dim)
        self.text_projection = (
            None if text is None else head(text_projection, text.width, embed_dim, "text")
        )
        self.logit_scale = logit_scale or Temperature()
        self.logit_bias = (
            None if logit_bias is None else nn.Parameter(torch.tensor(float(logit_bias)))
        )
        self._plain = {
            "image_projection": image_projection,
            "text_projection": text_projection,
            "logit_bias": logit_bias,
            **({"image_pooler": image_pooler} if image_pooler is not None else {}),
        }

    def __getattr__(self, name: str) -> Any:
        if name in ("image", "image_projection") and name not in self._modules:
            # no AttributeError: a property that raises one would be reported as missing itself
            raise InputError(
                "this model has no image tower: it embeds texts alone; name a model of images and texts"
            )
        return super().__getattr__(name)

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that it embeds: "image", "text" or both."""
        return tuple(name for name in ("image", "text") if self._modules.get(name) is not None)

    def encode_image(self, x: Tensor, **options: Any) -> Encoded:
        """Encode images (N, 3, H, W) at the tower's width; of several pooled vectors the result has
        that of this space. Keywords (`edit`, `hidden`, …) are passed to the tower."""
        if self._are_clips(x):
            raise InputError(
                "what is computed here is of images, and a clip has several; give one frame of each clip"
            )
        encoded = self.image(x, **options)
        if self.image_pooler is not None:
            return self.image_pooler(encoded)
        if not self.spaces:
            return encoded
        return replace(encoded, pooled=encoded.pooled[:, self._vector])

    def encode_frames(self, x: Tensor) -> Encoded:
        """Encode clips (N, V, 3, H, W) frame by frame: the tokens of all frames in one sequence
        (N, V P, D), without CLS and registers, which attentional poolers read as those of one image,
        with positions in time if they have them. Without such poolers the pooled vector is the mean of
        the frames' ones."""
        each = self.image(x.flatten(0, 1))
        poolers = self.image_pooler

        def joined(tokens: Tensor) -> Tensor:
            apart = tokens.unflatten(0, x.shape[:2])
            return (apart if poolers is None else poolers.in_time(apart)).flatten(1, 2)

        pooled = each.pooled.unflatten(0, x.shape[:2]).mean(1)
        raw = None if each.raw is None else joined(each.raw)
        clip = Encoded(joined(each.tokens[:, each.prefix :]), pooled, raw=raw)
        pooler = self.query_pooler
        if isinstance(pooler, QueryPooler):
            found = pooler(joined(each.tokens))
            return replace(clip, pooled=found[:, 0], queries=found[:, 1:])
        return clip if pooler is None else pooler(clip)

    def encode_text(self, ids: Tensor | None, lengths: Tensor, **options: Any) -> Encoded:
        """Encode ids (N, L) with lengths (N,) at the tower's width. Keywords (`edit`, `memory`, …)
        are passed to the tower."""
        if self.text is None:
            raise InputError("this model has no text tower: it embeds images alone")
        return self.text(ids, lengths, **options)

    def project_image(self, x: Tensor) -> Tensor:
        """Pooled vectors or tokens (…, D) -> (…, E), not normalised."""
        return self.image_projection(x)

    def project_text(self, x: Tensor) -> Tensor:
        """Pooled vectors or tokens (…, D) -> (…, E), not normalised."""
        assert self.text_projection is not None, "encode_text refuses where there is no text tower"
        return self.text_projection(x)

    def image_vectors(self, encoded: Encoded) -> Tensor:
        """Encoded images -> vectors (N, E), not normalised."""
        if self.pool == "before":
            return self.project_image(encoded.pooled)
        if encoded.grid is None:
            raise InputError("this image tower has no patches to pool; choose vit or conv")
        return self.project_image(encoded.patches).mean(1)

    def embed_images(self, x: Tensor, **options: Any) -> Tensor:
        """Images (N, 3, H, W), uint8 or preprocessed floats -> unit vectors (N, E).

        The vector of a clip (N, V, 3, H, W) is the mean of its frames' vectors, normalised:

            z = unit(mean_v unit(f(x_v)))

        It does not depend on the order of the frames. With poolers that know the order
        (`pools_clips`) it is what these pool from the tokens of all frames.
        """
        if self._are_clips(x) and self.pools_clips:
            return F.normalize(self.image_vectors(self.encode_frames(x)), dim=-1)
        if self._are_clips(x):
            return mean_of_frames(self.embed_images(x.flatten(0, 1), **options), x.shape[1])
        return F.normalize(self.image_vectors(self.encode_image(x, **options)), dim=-1)

    def position_vectors(self, encoded: Encoded) -> Tensor:
        """Encoded images -> vectors (N, h · w, E) of their positions, not normalised.

        That of a position is its token projected; with attentional poolers it is what the image's
        vector would be if they read that token alone.
        """
        pooler = self.query_pooler
        patches = encoded.patches
        return self.project_image(patches if pooler is None else pooler.alone(patches))

    def for_decoder(self, encoded: Encoded) -> Encoded:
        """The encoded images with a decoder's queries, if it has some, that read only the tokens
        that are real by the mask; the pooled vector stays."""
        pooler = self.query_pooler
        if isinstance(pooler, QueryPooler):
            return replace(encoded, queries=pooler(encoded.tokens, encoded.mask)[:, 1:])
        return encoded if pooler is None else pooler.for_decoder(encoded)

    @property
    def query_pooler(self) -> Poolers | QueryPooler | None:
        """What pools the image's tokens by attention of learned queries: `image_pooler`, or the
        tower's own, if there is one."""
        own = getattr(self.image, "pool", None)
        return self.image_pooler or (own if isinstance(own, QueryPooler) else None)

    @property
    def pools_clips(self) -> bool:
        """Whether the vector of a clip is pooled from the tokens of all frames, in their order."""
        return self.image_pooler is not None and self.image_pooler.frames is not None

    def _are_clips(self, x: Tensor) -> bool:
        """Whether images are clips (N, V, 3, H, W), and not volumes (N, 1, D, H, W)."""
        return x.ndim == 5 and len(self.image.preprocess.shape) == 3

    def embed_texts(self, ids: Tensor | None, lengths: Tensor, **options: Any) -> Tensor:
        """Ids (N, L) with lengths (N,) -> unit vectors (N, E)."""
        return F.normalize(
            self.project_text(self.encode_text(ids, lengths, **options).pooled), dim=-1
        )

    def space(self, name: str) -> "DualEncoder":
        """The same encoder, with the same parameters, in one of its `spaces`."""
        other = copy.copy(self)
        other._vector = self.spaces.index(name)
        return other

    @property
    def shares(self) -> tuple[float, ...]:
        """Each head's share of an embedding's squared length; (1.0,) with one head per side."""
        head = self.image_projection if "image" in self.sides else self.text_projection
        return (head.share, 1 - head.share) if isinstance(head, TwoHeads) else (1.0,)

    def set_share(self, share: float) -> None:
        """Set the first head's share of the cosine (`heads.TwoHeads`), on both sides.

        Raises InputError for a share outside [0, 1], and for a model that has one head per side or
        whose second head was never trained.
        """
        if len(self.shares) == 2 and self.shares[0] == share:
            return
        for side in (f"{side}_projection" for side in self.sides):
            module = getattr(self, side)
            if not isinstance(module, TwoHeads) or module.share == 1:
                raise InputError(
                    "a share weighs the two heads of a model that was trained with two, and this one has "
                    "one; leave the share out"
                )
            spec = parse(self._plain[side])
            configure(TwoConfig, options := {**spec.options, "share": share}, "two heads")
            self._plain[side] = str(Spec(spec.name, options))
            module.share = share

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosines (N, M) of unit vectors (N, E) and (M, E)."""
        return a @ b.mT

    def config(self) -> dict[str, Any]:
        """Plain values from which `from_config` builds the same module."""
        return {
            "image": self.image.spec if "image" in self.sides else None,
            "text": None if self.text is None else self.text.spec,
            "embed_dim": self.embed_dim,
            "logit_scale": self.logit_scale.config(),
            **self._plain,
            **({"pool": self.pool} if self.pool != "before" else {}),
            **({"spaces": list(self.spaces)} if self.spaces else {}),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "DualEncoder":
        """Build the module that `config()` describes, with fresh parameters.

        Raises InputError for missing or unknown keys.
        """
        config = {_OLD_KEYS.get(key, key): value for key, value in config.items()}
        known = (
            "image",
            "text",
            "embed_dim",
            "logit_scale",
            "image_projection",
            "text_projection",
            "logit_bias",
            "pool",
            "spaces",
            "image_pooler",
        )
        for key in config:
            if key not in known:
                raise unknown("key of a dual encoder", key, known)
        if missing := {"image", "text", "embed_dim"} - set(config):
            raise InputError(f"this dual encoder's config lacks {', '.join(sorted(missing))}")
        options = {
            key: value
            for key, value in config.items()
            if key not in ("image", "text", "logit_scale")
        }
        try:
            logit_scale = Temperature(**config.get("logit_scale", {}))
        except TypeError as error:
            raise InputError(f"the logit_scale of this dual encoder's config: {error}") from error
        image = None if config["image"] is None else image_tower(config["image"])
        text = None if config["text"] is None else text_tower(config["text"])
        return cls(image, text, logit_scale=logit_scale, **options)


class Composed(DualEncoder):
    """A dual encoder of given `parts` (image, text, image_projection, text_projection), and of those
    of `base` for the rest. It is described and saved as `base`.

    `embed_dim` is that of `base` unless given.
    """

    _PARTS = ("image", "text", "image_projection", "text_projection")

    def __init__(
        self, base: DualEncoder, *, parts: Mapping[str, nn.Module], embed_dim: int | None = None
    ):
        nn.Module.__init__(self)
        self._base = (base,)  # a tuple, so that its modules are registered once
        for name in self._PARTS:
            part = parts.get(name, base._modules.get(name))
            if part is not None or name.startswith("text"):
                setattr(self, name, part)
        self.logit_scale = base.logit_scale
        self.logit_bias = base.logit_bias
        self.embed_dim = embed_dim or base.embed_dim
        self.pool = base.pool
        self.spaces = base.spaces
        self.image_pooler = base.image_pooler
        self._vector = base._vector
        self._plain = base._plain

    def config(self) -> dict[str, Any]:
        return self._base[0].config()

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """The weights of `base`."""
        return self._base[0].state_dict(*arguments, **options)


def pooled(image: Tensor, text: Tensor, weight: float) -> Tensor:
    """The unit vectors (N, E) of records, from unit vectors of their images and texts (N, E).

        z = unit(w x + (1 - w) y)

    Opposite vectors with w = 1/2 have no direction; they give 0.

    >>> x = torch.tensor([[1.0, 0.0]])
    >>> y = torch.tensor([[0.6, 0.8]])
    >>> pooled(x, y, 0.5)
    tensor([[0.8944, 0.4472]])
    """
    return F.normalize(weight * image + (1 - weight) * text, dim=-1, eps=_SHORTEST)


def mean_of_frames(vectors: Tensor, count: int) -> Tensor:
    """The unit vectors (N, …, E) of clips, from those of their frames (N * V, …, E), V = `count`.

    >>> mean_of_frames(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 2)
    tensor([[0.7071, 0.7071]])
    """
    return F.normalize(vectors.unflatten(0, (-1, count)).mean(1), dim=-1, eps=_SHORTEST)


def _named(spaces: Sequence[str], vectors: int) -> tuple[str, ...]:
    """The names of the spaces. Raises InputError unless there is one for each of several vectors
    that are pooled."""
    if vectors > 1 and len(spaces) != vectors:
        raise InputError(
            f"the image tower pools {vectors} vectors an image, and {len(spaces)} spaces are named for them; set "
            "cls=1, or pooling=mean or map, or use a method that names its spaces"
        )
    if len(set(spaces)) != len(spaces) or (vectors == 1 and spaces):
        raise InputError(
            f"the spaces {', '.join(spaces)} are not one for each of the {vectors} vectors that the image tower pools; "
            f"choose a tower with as many CLS tokens, such as vit:cls={len(spaces)}"
        )
    return tuple(spaces)


def renamed_entries(state: Mapping[str, Tensor], own: Container[str]) -> dict[str, Tensor]:
    """A saved state dict under the names that a dual encoder uses today.

    Early runs call `logit_scale` `scale`, and `logit_bias` `bias`. `own` are the names of the
    module that the state is for.

    >>> list(renamed_entries({"encoder.scale.value": torch.zeros(())}, ["encoder.logit_scale.value"]))
    ['encoder.logit_scale.value']
    """
    found = {}
    for name, value in state.items():
        new = re.sub(r"(^|\.)(scale\.value|bias)$", r"\1logit_\2", name)
        found[new if name not in own and new in own else name] = value
    return found
