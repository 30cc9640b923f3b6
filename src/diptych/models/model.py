"""`Model`: a dual encoder with its tokenizer and preprocessing, which embeds images and strings as
unit vectors, and `TextModel`, which embeds strings alone. `diptych.load` returns one of them for any
weights, ours or foreign.

Dimensions: N images or texts, E embedding, H x W pixels.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.tokenizers import Tokenizer, by_length
from diptych.data.volumes import AnyPreprocess
from diptych.dtypes import at_least_float32
from diptych.errors import InputError, Missing
from diptych.models.class_names import class_directions
from diptych.models.delivered import Delivered, Validation
from diptych.models.dense import patch_vectors, pixel_classes
from diptych.models.fitting import check_preprocess, check_tokenizer
from diptych.models.mode import evaluating
from diptych.models.pixels import ImagesLike, pixel_batches
from diptych.models.regions import NamesRegions
from diptych.models.saved import Saved
from diptych.towers.dual import DualEncoder, pooled
from diptych.towers.encoded import Encoded

Progress = Callable[[int, int], None]
"""`progress(done, total)`, called after each batch."""


class TextModel(Saved):
    """A dual encoder that accepts strings, as `diptych.load` returns it for one of texts alone.

    `name` is what the model was loaded from. `delivered` is a method's module that holds the
    encoder and further parts. What only `Model` can do raises InputError.

    Raises InputError if the tokenizer does not match the text tower.
    """

    weights: Path | None = (
        None  # the file or folder with which a foreign model's weights were replaced
    )
    validation = Validation("sts", ("spearman",))
    chosen_space: str | None = None  # by `space`
    graphs: Mapping[str, Any] = MappingProxyType({})
    """What embeds images or texts in place of the encoder (`models.backends`), by side."""
    record: Mapping[str, Any] = MappingProxyType({})
    """What is known of its origin: `method` and the record of its training, or `licence`."""

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer | None,
        *,
        name: str,
        delivered: Delivered | None = None,
    ):
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.name = name
        self.delivered = delivered
        self._kept = (
            delivered.extra_state() if delivered is not None else {}
        )  # before set_classes changes it
        self.precision = "float32"  # of computation; changed by `models.precision.set_precision`
        if tokenizer is not None and (delivered is None or encoder.text is not None):
            check_tokenizer(encoder, tokenizer, name)  # else another part reads texts

    def __getattr__(self, name: str) -> Any:
        if name == "preprocess" or (hasattr(Model, name) and not name.startswith("_")):
            raise Missing(
                f"{self.name} embeds texts alone and has no {name}; name a model of images and texts"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        encoder = self.encoder
        towers = " and ".join(getattr(encoder, side).spec["name"] for side in encoder.sides)
        count = sum(parameter.numel() for parameter in self._whole.parameters())
        return (
            f"{type(self).__name__}({self.name!r}: {towers}, {count:,} parameters, embeddings of "
            f"{encoder.embed_dim}, {self.computed_by} on {self.device})"
        )

    @property
    def computed_by(self) -> str:
        """What embeds images and texts, such as "float32" (by torch) or "bfloat16 by openvino"."""
        ways = {
            side: f"{graph.precision} by {graph.by}"
            if (graph := self.graphs.get(side))
            else self.precision
            for side in self.encoder.sides
        }
        if len({*ways.values()}) == 1:
            return next(iter(ways.values()))
        return ", ".join(f"{side}s in {way}" for side, way in ways.items())

    @property
    def reads_texts(self) -> bool:
        """Whether `embed_texts` can be called: the model has what reads texts, a tokenizer and a
        tower."""
        return self.tokenizer is not None and self.encoder.text is not None

    def embed_texts(
        self, texts: str | Sequence[str], *, batch_size: int = 256, progress: Progress | None = None
    ) -> Tensor:
        """Embed texts as unit vectors (N, E), float32, on the CPU.

        A text longer than the context is truncated (`tokenizer.lost` reports it).

        Raises InputError if the model has no tokenizer.
        """
        if self.tokenizer is None:
            raise InputError(
                f"{self.name} came without a tokenizer and cannot embed text; load it from a folder that "
                "holds its tokenizer files (tokenizer.json or spiece.model)"
            )
        rows = self.tokenizer.encode([texts] if isinstance(texts, str) else texts)
        batches, places = by_length(rows, self.tokenizer, batch_size)
        embed = self.graphs.get("text", self.encoder.embed_texts)
        return self._embed(batches, embed, len(rows), progress)[places]

    @property
    def spaces(self) -> tuple[str, ...]:
        """The names of several embedding spaces, the default first; none if there is but one."""
        return self._whole.spaces  # type: ignore[return-value]

    def space(self, name: str) -> Self:
        """Return the model in one of its `spaces`; it shares the parameters. Its classes are not
        set.

        Raises InputError for a space that does not exist, and if the precision was set before.
        """
        if name not in self.spaces:
            have = ", ".join(self.spaces) or "one that has no name; leave the space out"
            raise InputError(f"{self.name} has no space {name!r}; it has {have}")
        if self.precision != "float32" or self.graphs:
            raise InputError(
                f"{self.name} is in {self.computed_by}; load it in float32 by torch, then choose the space"
            )
        other = copy.copy(self)
        for kept in ("identity", "classes", "_class_vectors"):
            other.__dict__.pop(kept, None)
        other.encoder = self._whole.space(name)  # type: ignore[operator]
        other.chosen_space = name
        if isinstance(other, Model):
            other.preprocess = other.encoder.image.preprocess
        return other

    @property
    def shares(self) -> tuple[float, ...]:
        """Each head's share of an embedding's squared length (`DualEncoder.shares`)."""
        return self.encoder.shares

    def set_share(self, share: float) -> None:
        """Reweigh the two heads (`DualEncoder.set_share`). This unsets the classes; set them
        again. Raises InputError for a model that torch does not compute."""
        if self.graphs:
            raise InputError(
                f"{self.name} is in {self.computed_by}; give the share as it is loaded"
            )
        self.encoder.set_share(share)
        self.__dict__.pop("identity", None)
        if hasattr(self, "_class_vectors"):
            self.classes = ()

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosines (N, M) of embeddings (N, E) and (M, E)."""
        return self.encoder.similarity(a, b)

    @property
    def device(self) -> torch.device:
        """The device of the towers."""
        return next(self.encoder.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device. Raises InputError for a model in int8 or by another library
        than torch, which run only on a CPU."""
        if self.graphs and torch.device(device).type != "cpu":
            raise InputError(
                f"{self.name} is in {self.computed_by}, on a CPU alone; load it by torch for {device}"
            )
        if self.precision == "int8" and torch.device(device).type != "cpu":
            raise InputError(
                f"{self.name} is in int8, which runs on a CPU alone; load it in bfloat16 for {device}"
            )
        self._whole.to(device)
        return self

    @cached_property
    def identity(self) -> str:
        """SHA-256 of all that determines the model's output, computed at first use.

        It covers weights, towers, tokenizer, preprocessing and plain values from the method, such
        as prompts, but not classes that are set later.
        """
        config = {
            "towers": self.encoder.config(),
            "tokenizer": self.tokenizer.fingerprint if self.tokenizer else None,
            **({"preprocess": self.preprocess.to_dict()} if hasattr(self, "preprocess") else {}),
            **({"kept": self._kept} if self._kept else {}),
            **({"space": self.chosen_space} if self.chosen_space in self.spaces[1:] else {}),
        }
        total = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        for name, value in sorted(self._whole.state_dict().items()):
            value = value.detach().cpu().contiguous()
            total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            total.update(value.reshape(-1).view(torch.uint8).numpy())
        return total.hexdigest()

    @property
    def _whole(self) -> nn.Module:
        return self.encoder if self.delivered is None else self.delivered

    def _now(self) -> dict[str, Any]:
        if self.chosen_space is not None:
            raise InputError(
                f"{self.name} is in its space {self.chosen_space!r}; save it before a space is chosen"
            )
        holder = (
            self.encoder if self.delivered is None else getattr(self.delivered, "encoder", None)
        )
        return {"dual": holder.config()} if isinstance(holder, DualEncoder) else {}

    def _embed(
        self, batches: Iterator, embed: Callable[..., Tensor], count: int, progress: Progress | None
    ) -> Tensor:
        found = [torch.empty(0, self.encoder.embed_dim)]
        done = 0
        with evaluating(self.encoder), torch.inference_mode():
            for batch in batches:
                vectors = embed(*(part.to(self.device) for part in batch))
                if at_least_float32(vectors) is not vectors:  # normalised in 8 bits; again in 24
                    vectors = F.normalize(at_least_float32(vectors), dim=-1)
                vectors = vectors.cpu()
                found.append(vectors)
                done += len(vectors)
                if progress:
                    progress(done, count)
        return torch.cat(
            found[1:] or found
        ).clone()  # a clone outside inference mode can take part in gradients


class Model(NamesRegions, TextModel):
    """A dual encoder that accepts images and strings.

    Raises InputError if the tokenizer or the preprocessing does not match the towers.
    """

    classes: tuple[str, ...] = ()  # what `class_logits` chooses from
    validation = Validation("retrieval", ("i2t_", "t2i_"))
    record_weight = 0.5  # of the image in `embed_records`
    heat_measure = "cosine"  # what `heat` gives
    images_read = 1  # of a sample, together, by what writes or judges

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer | None,
        preprocess: AnyPreprocess,
        *,
        name: str,
        delivered: Delivered | None = None,
    ):
        self.preprocess: Any = preprocess
        check_preprocess(encoder, preprocess, name)
        super().__init__(encoder, tokenizer, name=name, delivered=delivered)

    def embed_images(
        self,
        images: ImagesLike,
        *,
        batch_size: int = 64,
        exact: bool = False,
        progress: Progress | None = None,
    ) -> Tensor:
        """Embed images as unit vectors (N, E), float32, on the CPU.

        `images` is a path, an image, or a list of them; a uint8 tensor (N, 3, H, W), which is
        preprocessed like images; or a float tensor (N, 3, size, size), which counts as
        preprocessed. A model of volumes takes paths, arrays (D, H, W) and preprocessed tensors (N, 1,
        D, H, W) of volumes in their place. Clips are paths of videos, clips of a source or
        preprocessed tensors (N, V, 3, size, size); the vector of one is the unit mean of its frames'
        (`DualEncoder.embed_images`).

        A large JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, so that at least twice the
        model's size is left (see `Preprocess.read`); `exact` decodes it in full. Raises InputError
        with index and name for an image that cannot be read.
        """
        batches, count = self._batches(images, batch_size, exact, clips=True)
        embed = self.graphs.get("image", self.encoder.embed_images)
        return self._embed(batches, embed, count, progress)

    def embed_records(
        self,
        images: ImagesLike,
        texts: Sequence[str],
        *,
        weight: float | None = None,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """Embed records, an image with its text each, as unit vectors (N, E), float32, on the CPU:
        the weighted mean of both embeddings, normalised (`towers.dual.pooled`).

        `weight` is that of the image, by default `record_weight`. `images` and errors are those of
        `embed_images`; InputError also for another number of texts.
        """
        of_images = self.embed_images(images, batch_size=batch_size, exact=exact)
        of_texts = self.embed_texts(texts, batch_size=batch_size)
        if len(of_images) != len(of_texts):
            raise InputError(
                f"{len(of_images)} images and {len(of_texts)} texts make no records; give a text for each image"
            )
        return pooled(of_images, of_texts, self.record_weight if weight is None else weight)

    def project_images(
        self, images: ImagesLike, *, batch_size: int = 64, exact: bool = False
    ) -> Tensor:
        """Like `embed_images`, but the vectors (N, E) are not normalised."""
        batches, count = self._batches(images, batch_size, exact)

        def project(pixels: Tensor) -> Tensor:
            return at_least_float32(self.encoder.image_vectors(self.encoder.encode_image(pixels)))

        return self._embed(batches, project, count, None)

    def represent(
        self,
        images: ImagesLike,
        *,
        batch_size: int = 64,
        exact: bool = False,
        route: str = "tokens",
        level: int | None = None,
        progress: Progress | None = None,
    ) -> Encoded:
        """The image tower's output before the projection: tokens (N, T, D), pooled (N, D); float32,
        on the CPU.

        `route` says how the tokens are computed: "tokens", the output of the last block, or of a
        ViT "values" (`towers.image.vit.ViT.forward`). With `level` they are the positions of that
        feature map of the tower, counted from the finest one.

        `images` and errors are those of `embed_images`; InputError also for no image at all, and for
        a route or a map that the tower does not have.
        """
        routes = self.encoder.image.routes
        if route not in routes:
            raise InputError(
                f"the image tower of {self.name} has no route {route!r}; it has {' and '.join(routes)}"
            )
        options = {} if route == "tokens" else {"route": route}
        batches, count = self._batches(images, batch_size, exact)
        if not count:
            raise InputError(f"{self.name} has no image to represent; give one at least")
        found: list[Encoded] = []
        with evaluating(self.encoder), torch.inference_mode():
            for (pixels,) in batches:
                encoded = self.encoder.encode_image(pixels.to(self.device), **options)
                kept = encoded if level is None else encoded.of_level(level)
                found.append(replace(kept, queries=None, raw=None))  # these are not returned
                if progress:
                    progress(sum(len(each.pooled) for each in found), count)
        tokens, pooled = (
            torch.cat([at_least_float32(getattr(each, name)).cpu() for each in found]).clone()
            for name in ("tokens", "pooled")
        )
        return replace(found[0], tokens=tokens, pooled=pooled, levels=())

    def heat(
        self,
        images: ImagesLike,
        texts: str | Sequence[str],
        *,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """Cosines (N, K, h, w) of texts with the positions of images, float32, on the CPU.

        Positions pass through the projection of the pooled vector.

        `images` and errors are those of `represent`; InputError also for an image tower without
        positions.
        """
        positions, grid = patch_vectors(self, images, batch_size, exact=exact)
        return (positions @ self.embed_texts(texts).T).transpose(1, 2).unflatten(2, grid)

    def set_classes(
        self,
        names: Sequence[str],
        templates: Sequence[str] = ("{}",),
        *,
        text_embeddings: Tensor | None = None,
        batch_size: int = 256,
    ) -> None:
        """Set the classes of `class_logits`.

        The vector of a class is the mean direction of its name in all templates, or its row of
        `text_embeddings` (C, E), normalised.

        Raises InputError if a name is empty, repeated or truncated by the context, if a template
        does not contain {} exactly once, or if the embeddings have another shape.
        """
        self.classes, self._class_vectors = class_directions(
            self, names, templates, text_embeddings, self.encoder.embed_dim, batch_size
        )

    def class_logits(
        self,
        images: ImagesLike,
        *,
        batch_size: int = 64,
        exact: bool = False,
        progress: Progress | None = None,
    ) -> Tensor:
        """Logits (N, C) of images over the classes that were set: scale · cosine. Their softmax
        gives probabilities.

        `images` and errors are those of `embed_images`; InputError also if no classes were set.
        """
        if not self.classes:
            raise InputError(
                f"{self.name} knows no classes; name them first, with set_classes or --names"
            )
        vectors = self.embed_images(images, batch_size=batch_size, exact=exact, progress=progress)
        return float(self.encoder.logit_scale().detach()) * self.similarity(
            vectors, self._class_vectors
        )

    def segment(
        self,
        images: ImagesLike,
        *,
        batch_size: int = 64,
        exact: bool = False,
        route: str = "tokens",
    ) -> Tensor:
        """The class of each pixel of preprocessed images (N, H, W), int64: its number among the
        classes that were set, by the cosine of their vectors with the positions.

        `images` and `route` are those of `represent`. Raises InputError as it does, without classes,
        and for an image tower without positions.
        """
        if not self.classes:
            raise InputError(
                f"{self.name} knows no classes; name them first, with set_classes or --names"
            )
        settings: dict[str, Any] = {"exact": exact, "route": route}
        return pixel_classes(self, images, self._class_vectors, batch_size, **settings)

    def _batches(
        self, images: ImagesLike, batch_size: int, exact: bool, clips: bool = False
    ) -> tuple[Iterator[tuple[Tensor]], int]:
        """Batches of pixels (N, 3, size, size), and the number of images."""
        return pixel_batches(images, self.preprocess, batch_size, exact, clips)
