"""Query an index by a text, by an image, or by an image and a text of what should differ."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import normalize

from diptych.embeddings.embed import embed_source
from diptych.embeddings.index import Hits, Index
from diptych.embeddings.layout import Manifest
from diptych.errors import InputError


def query(
    model: Any,
    index: Index,
    *,
    text: str | None = None,
    image: Any = None,
    minus: str | None = None,
    where: str | None = None,
    k: int = 10,
) -> Hits:
    """Return the `k` rows of `index` nearest to a text, to an image (as `embed_images` takes one),
    or to both, best first.

    With `where`, such as "price < 20 and brand = 'acme'", they are the nearest of the rows that
    pass this filter on the columns that `embed_source(columns=…)` kept (`embeddings.where`); only
    if fewer than `k` rows pass are there fewer.

    With several, the query is image + text - minus of their unit vectors (Jia et al., 2021),
    normalised: an image of a red house, minus "red", plus "blue". Raises InputError for neither
    text nor image, an empty text, an unreadable image, a sum of zero, a filter that does not fit,
    and a model other than the index's.
    """
    index.check(model)
    if text is None and image is None:
        raise InputError("a search takes a text, an image or both; give one of them")
    for said in (text, minus):
        if said is not None and not said.strip():
            raise InputError("the text to search for is empty; give some words")
    among = None if where is None else index.passing(where)
    parts = [] if image is None else [model.embed_images([image], exact=index.manifest.exact)]
    parts += [] if text is None else [model.embed_texts([text])]
    parts += [] if minus is None else [-model.embed_texts([minus])]
    vectors = parts[0]
    if len(parts) > 1:
        vectors = torch.stack(parts).sum(0)
        if float(vectors.norm()) < 1e-6:
            raise InputError(
                "what is added and what is taken away are the same, so nothing is asked for"
            )
        vectors = normalize(vectors, dim=-1)
    scores, rows = index.top(vectors, k, among)
    hits = index.hits(scores[0], rows[0])
    asked = [*([] if image is None else ["an image"]), *([] if text is None else [f"“{text}”"])]
    hits.title = " + ".join(asked) + ("" if minus is None else f" - “{minus}”")
    hits.title += "" if where is None else f" where {where}"
    return hits


def made_by(
    emb: str | Path,
    manifest: Manifest,
    model: str | Path | None = None,
    weights: str | Path | None = None,
) -> tuple[str, str | None]:
    """Return the spec and the weights of the model of a folder of embeddings: those given, else
    those that made it.

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
