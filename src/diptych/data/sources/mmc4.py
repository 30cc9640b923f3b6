"""Multimodal C4 (`docs_no_face_shard_0_v2.jsonl`): JSON lines, each a document

    text_list            its sentences
    image_info           its images, each with image_name, matched_text_index and matched_sim
    similarity_matrix    CLIP's cosines of images and sentences

The sentence of an image is the one that was assigned to it. Source: Zhu et al. 2023.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diptych.data.sample import BadSample
from diptych.data.sources._files import beginning, inside
from diptych.data.sources._interleaved import Document, Documents, DocumentsOptions
from diptych.data.sources.rows import JsonRows
from diptych.spec import Spec, configure

FORMAT = "mmc4"
_MARKS = (b'"text_list"', b'"image_info"')


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: JSON lines with the fields of its documents."""
    start = beginning(spec, ".jsonl")
    return all(mark in start for mark in _MARKS)


def open(spec: Spec) -> Documents:
    """Open `docs_shard_0_v2.jsonl[:images=FOLDER]`."""
    options = configure(DocumentsOptions, spec.options, f"source {spec.name!r}")
    return Documents(spec.name, JsonRows(spec.name), _document, options.images, "Multimodal C4")


def _document(row: Mapping[str, Any]) -> Document:
    """Raises BadSample("columns") for a row of another form."""
    texts = row.get("text_list")
    images = row.get("image_info")
    if not isinstance(texts, list) or not isinstance(images, list) or not images:
        raise BadSample("columns", "no sentences or no images")
    owners: list[list[int]] = [[] for _ in texts]
    files = []
    for at, image in enumerate(images):
        name = image.get("image_name") if isinstance(image, Mapping) else None
        place = image.get("matched_text_index") if isinstance(image, Mapping) else None
        if not isinstance(name, str) or not inside(name):
            raise BadSample("columns", "an image without a name")
        if not isinstance(place, int) or not 0 <= place < len(texts):
            raise BadSample("columns", f"image {name} belongs to no sentence")
        files.append(name)
        owners[place].append(at)
    if not all(isinstance(text, str) for text in texts):
        raise BadSample("columns", "a sentence that is no text")
    return Document(
        files=files, texts=texts, owners=owners, similarity=_matrix(row, len(files), len(texts))
    )


def _matrix(row: Mapping[str, Any], images: int, texts: int) -> np.ndarray | None:
    """The similarities (T, S); None of a row without. Raises BadSample for another shape."""
    given = row.get("similarity_matrix")
    if given is None:
        return None
    try:
        found = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise BadSample("columns", "similarities that are no table") from error
    if found.shape != (images, texts) or not np.isfinite(found).all():
        raise BadSample("columns", f"similarities {found.shape} of {images} images, {texts} texts")
    return found
