"""Query an index by a text, by an image, by a row, or by a sum and difference of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.embeddings.embed import embed_source
from diptych.embeddings.hits import Hits
from diptych.embeddings.index import Index
from diptych.embeddings.layout import Manifest
from diptych.embeddings.searchable import Searchable
from diptych.errors import InputError
from diptych.methods.abilities import require


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one search is for: the sum of the unit vectors of texts, images and rows of the index,
    minus those of other texts.

    `images` are what the embedding function of `vectors` takes. Raises InputError where there is
    nothing to search for, and for an empty text.

    >>> Asked(plus=("blue",), minus=("red",), rows=(7,)).title
    'row 7 + “blue” - “red”'
    """

    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    images: tuple[Any, ...] = ()
    rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.plus or self.images or self.rows):
            raise InputError("a search takes a text, an image or both; give one of them")
        if not all(text.strip() for text in (*self.plus, *self.minus)):
            raise InputError("the text to search for is empty; give some words")

    @property
    def title(self) -> str:
        """What is searched for, in words."""
        parts = ["an image"] * len(self.images)
        parts += [f"row {row}" for row in self.rows]
        parts += [f"“{text}”" for text in self.plus]
        return " + ".join(parts) + "".join(f" - “{text}”" for text in self.minus)


def vectors(
    asked: Sequence[Asked],
    index: Searchable,
    embed_texts: Callable[[list[str]], Tensor],
    embed_images: Callable[[list[Any]], Tensor],
) -> Tensor:
    """Return the unit vectors (Q, E) of several searches; their texts are embedded in one call, and
    so are their images.

    A vector is that of the one text, image or row, or for several their sum, normalised (Jia et
    al., 2021). Raises InputError for a sum of zero.
    """
    texts = list(dict.fromkeys(text for each in asked for text in (*each.plus, *each.minus)))
    images = [image for each in asked for image in each.images]
    of_texts = dict(zip(texts, embed_texts(texts), strict=True)) if texts else {}
    of_images = iter(embed_images(images) if images else ())
    found = []
    for each in asked:
        parts = [next(of_images) for _ in each.images]
        parts += list(torch.from_numpy(index.rows(np.array(each.rows, int)))) if each.rows else []
        parts += [of_texts[text] for text in each.plus]
        parts += [-of_texts[text] for text in each.minus]
        found.append(_combined(parts))
    return torch.stack(found)


def _combined(parts: Sequence[Tensor]) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    total = torch.stack(list(parts)).sum(0)
    if float(total.norm()) < 1e-6:
        raise InputError(
            "what is added and what is taken away are the same, so nothing is asked for"
        )
    return normalize(total, dim=-1)


def query(
    model: Any,
    index: Searchable,
    *,
    text: str | None = None,
    image: Any = None,
    minus: str | None = None,
    where: str | None = None,
    k: int = 10,
    rerank: int = 0,
) -> Hits:
    """Return the `k` rows of `index` nearest to a text, to an image (as `embed_images` takes one),
    or to both, best first.

    With `where`, such as "price < 20 and brand = 'acme'", they are the nearest of the rows that
    pass this filter on the columns that `embed_source(columns=…)` kept (`embeddings.where`); only
    if fewer than `k` rows pass are there fewer.

    With `rerank=n` the nearest n images are ordered anew by the model's `match` with the text, of
    which the first `k` are returned.

    With several, the query is image + text - minus of their unit vectors (Jia et al., 2021),
    normalised: an image of a red house, minus "red", plus "blue". Raises InputError for neither
    text nor image, an empty text, an unreadable image, a sum of zero, a filter that does not fit,
    a model other than the index's, and for reranking what is no search for images by words, or by a
    model that does not match.
    """
    index.check(model)
    if image is not None and index.manifest.vectors > 1:
        raise InputError(
            f"{index.name} keeps {index.manifest.vectors} vectors of an image, which are compared with words; "
            "give a text"
        )
    if rerank:
        _check_rerank(model, index, text, (image, minus), k, rerank)
    asked = Asked(
        plus=() if text is None else (text,),
        minus=() if minus is None else (minus,),
        images=() if image is None else (image,),
    )

    def embed_images(images: list[Any]) -> Tensor:
        return model.embed_images(images, exact=index.manifest.exact)

    among = None if where is None else index.passing(where)
    found = vectors([asked], index, model.embed_texts, embed_images)
    scores, rows = index.top(found, rerank or k, among)
    hits = index.hits(scores[0], rows[0])
    if rerank and text is not None:
        hits = _reranked(model, index, hits, rows[0].tolist(), text, k)
    hits.title = asked.title + ("" if where is None else f" where {where}")
    return hits


def _check_rerank(
    model: Any, index: Searchable, text: str | None, others: Sequence[Any], k: int, rerank: int
) -> None:
    """Raise InputError where rows cannot be reranked."""
    if rerank < k:
        raise InputError(f"{rerank} rows are reranked and {k} asked for; rerank {k} or more")
    if text is None or any(other is not None for other in others):
        raise InputError("words alone are matched with images; give a text and nothing else")
    if index.manifest.rows != "images":
        raise InputError(
            f"{index.name} holds {index.manifest.rows}, and what is matched with words are images"
        )
    require(model, "match", "reranking")


def _reranked(
    model: Any, index: Searchable, hits: Hits, rows: Sequence[int], text: str, k: int
) -> Hits:
    """The first `k` hits in the order of the model's `match` of their images, read anew, with a text."""
    open_once = cache(open_source)
    images = []
    for hit, row in zip(hits, rows, strict=True):
        try:
            sample = open_once(index.source_of(row))[hit.position]
        except (BadSample, IndexError):
            sample = None
        if sample is None or sample.key != hit.key or "main" not in sample.images:
            raise InputError(
                f"{hit.key} of {index.source_of(row)} is not where it was embedded; embed the source again, or leave "
                "out reranking"
            )
        images.append(sample.images["main"])
    started = time.perf_counter()
    scores = model.match(images, [text] * len(images), exact=index.manifest.exact).tolist()
    order = sorted(range(len(hits)), key=lambda at: -scores[at])[:k]
    found = Hits(
        replace(hits[at], rank=rank, match=scores[at]) for rank, at in enumerate(order, start=1)
    )
    found.rerank_seconds = time.perf_counter() - started
    return found


def made_by(
    emb: str | Path,
    manifest: Manifest,
    model: str | Path | None = None,
    weights: str | Path | None = None,
) -> tuple[str, str | None]:
    """Return the spec and the weights of the model of a folder or store of embeddings: those given,
    else those that made it.

    Raises InputError if these are no longer there.
    """
    if model is not None:
        return str(model), None if weights is None else str(weights)
    folder = Path(manifest.model.removeprefix("hf:"))
    if folder.is_absolute() and not folder.is_dir():
        raise InputError(
            f"{emb} was made with the model in {folder}, which is not there; name it with --model (model=)"
        )
    if weights is not None:
        return manifest.model, str(weights)
    if manifest.weights is not None and not Path(manifest.weights).exists():
        raise InputError(
            f"{emb} was made with the weights {manifest.weights}, which are not there; name them with --weights "
            "(weights=)"
        )
    return manifest.model, manifest.weights


def embed_and_query(
    model: Any, source: str, folder: Path, queries: Sequence[str | Image.Image], k: int
) -> list[Hits]:
    """Embed a source into a new folder, then answer each query, a text or an image."""
    embed_source(model, source, folder)
    index = Index.open(folder)
    return [
        query(model, index, text=asked, k=k)
        if isinstance(asked, str)
        else query(model, index, image=asked, k=k)
        for asked in queries
    ]
