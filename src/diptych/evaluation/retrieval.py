"""Retrieval between pictures and texts: recall at k both ways.

An image's right texts are all its captions; a text's right images are all that have it. Texts that are equal but for
case and outer blanks are one text: they are one target and one query. Ties count against the model (see `metrics`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, embed_pictures, embed_texts
from diptych.evaluation.protocol import Protocol, data_of, describe, precision_of, split_of
from diptych.metrics import chance_recall, ranks

card = {"title": "Retrieval, image to text and text to image", "needs": ["images.main", "texts"]}

_RULE = "every different text is a target and a query; equal texts (case, outer blanks) are one; ties lose"


def retrieval(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    batch_size: int = 64,
    ks: Sequence[int] = (1, 5, 10),
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Recall of pictures among texts (`i2t_r1`, …) and of texts among pictures (`t2i_r1`, …).

    `role` is that of the texts: caption, or the first that the source has. Also given: `n` pictures, `texts` different
    texts, median ranks, `chance_i2t_r1` …, `bad` samples left out by reason, and the protocol.
    """
    role = role or _role(source)
    texts: dict[str, str] = {}  # normal form -> as first written
    number: dict[str, int] = {}

    def captions(sample: Sample) -> list[int]:
        """The numbers of a sample's texts."""
        found = [text for text in sample.captions(role) if text.strip()]
        if not found:
            raise BadSample("no-caption", f"{sample.key} has no text of role {role!r}")
        for text in found:
            form = normal_form(text)
            texts.setdefault(form, text)
            number.setdefault(form, len(number))
        return [number[normal_form(text)] for text in found]

    steps = Steps(progress, len(source))
    images = embed_pictures(model, source, captions, exact=exact, batch_size=batch_size, steps=steps)
    owners: dict[int, list[int]] = {}
    for image, numbers in enumerate(images.facts):
        for text in numbers:
            owners.setdefault(text, []).append(image)
    used = sorted(owners)  # texts whose every picture was damaged are left out
    position = {text: at for at, text in enumerate(used)}
    written = list(texts.values())
    steps.total += len(used)
    vectors = embed_texts(model, [written[text] for text in used], batch_size=batch_size, steps=steps)

    to_text = [sorted({position[text] for text in numbers}) for numbers in images.facts]
    to_image = [sorted(set(owners[text])) for text in used]
    results: dict[str, Any] = {"n": len(images.facts), "texts": len(used)}
    for name, queries, gallery, right in (
        ("i2t", images.vectors, vectors, to_text),
        ("t2i", vectors, images.vectors, to_image),
    ):
        rank = ranks(queries, gallery, right)
        results |= {f"{name}_r{k}": float((rank <= k).mean()) for k in ks}
        results[f"{name}_median_rank"] = float(np.median(rank))
        results |= {f"chance_{name}_r{k}": chance_recall([len(items) for items in right], len(gallery), k) for k in ks}
    protocol = Protocol(
        task="retrieval",
        data=data_of(source),
        split=split_of(source.keys()),
        field=role,
        rule=_RULE,
        decoding="full" if exact else "scaled",
        precision=precision_of(model),
    )
    return results | {"bad": dict(images.bad)} | describe(protocol, model)


def normal_form(text: str) -> str:
    """What makes two texts equal: all but case and outer blanks.

    >>> normal_form(" A dog. ") == normal_form("a dog.")
    True
    """
    return text.strip().lower()


def _role(source: Source) -> str:
    roles = [name.removeprefix("texts.") for name in source.schema() if name.startswith("texts.")]
    if not roles:
        raise InputError(f"retrieval needs texts, which source {source.name!r} does not give")
    return "caption" if "caption" in roles else roles[0]
