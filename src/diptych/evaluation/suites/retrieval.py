"""Retrieval between images and texts: recall at k in both directions.

The correct texts of an image are all its captions; the correct images of a text are all that have
it. Texts that differ only in case and outer spaces are one text: one target and one query. Ties
count against the model (see `metrics`).

    R@k = mean_q [rank_q <= k],    MRR = mean_q 1 / rank_q,    rank_q = 1 + #{wrong items scoring >= the best right one}

With `by_sentence` all texts of an image in the role are one long text, whose vector is the
normalised mean of its sentences' vectors; with `by="best"` as well, its score is that of its best
sentence. With `rerank=k` the first k of each query are reordered by the model's `match`; of wrong
items that tie for the k-th place, those that come first in the data are used.
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import (
    Progress,
    Steps,
    Texts,
    clips_of,
    embed_images,
    embed_long,
    embed_texts,
)
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._rerank import match_some
from diptych.methods.abilities import require
from diptych.metrics import (
    chance_recall,
    chance_reciprocal_rank,
    first,
    ranks,
    ranks_of_two_stages,
    similarities,
)

card = {
    "title": "Retrieval, image to text and text to image",
    "needs": ["images.main", "texts"],
    "abilities": ["embed_images", "embed_texts"],
    "instead": {"embed_images": "index"},
}

_RULE = "every different text is a target and a query; equal texts (case, outer blanks) are one; ties lose"


def ready(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    rerank: int = 0,
    by_sentence: bool = False,
    by: str | None = None,
) -> None:
    """Raise InputError for a role that the source lacks, for reranking by a model without `match`
    or of texts embedded by sentence, and for `by="best"` without `by_sentence`."""
    role_of("retrieval", source, role)
    if rerank < 0:
        raise InputError(
            f"rerank is {rerank}; give how many of each query's first are matched, such as 32"
        )
    if by == "best" and not by_sentence:
        raise InputError("by=best scores a long text by its best sentence; add by_sentence")
    if rerank and by_sentence:
        raise InputError("match reads whole texts; leave out either rerank or by_sentence")
    if rerank:
        require(model, "match", "reranking")


def retrieval(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    rerank: int = 0,
    by_sentence: bool = False,
    by: str | None = None,
    batch_size: int = 64,
    ks: Sequence[int] = (1, 5, 10),
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the recall of images among texts (`i2t_r1`, …) and of texts among images (`t2i_r1`,
    …).

    `role` is the role of the texts: caption, or the first that the source has. With `rerank=k` the
    first k of each query are reordered by `model.match`, and `reranked_i2t_r1` … are added, with the
    seconds that matching took, `rerank_seconds`. `by` is
    "best", or a value that other suites use. Also returned: `n` images, `texts` different texts,
    median ranks, mean reciprocal ranks, `chance_i2t_r1` …, `bad` samples left out by reason, and
    the protocol.
    """
    ready(model, source, role=role, rerank=rerank, by_sentence=by_sentence, by=by)
    best = by == "best"
    role = role_of("retrieval", source, role)
    texts = Texts()

    def captions(sample: Sample) -> list[int]:
        """Return the numbers of a sample's texts."""
        said = texts_of(sample, role)
        return [texts.add(text) for text in (["\n".join(said)] if by_sentence else said)]

    steps = Steps(progress, len(source))
    images = embed_images(model, source, captions, exact=exact, batch_size=batch_size, steps=steps)
    owners: dict[int, list[int]] = {}
    for image, numbers in enumerate(images.facts):
        for text in numbers:
            owners.setdefault(text, []).append(image)
    used = sorted(owners)  # texts whose every image was damaged are left out
    position = {text: at for at, text in enumerate(used)}
    written = [texts.written[text] for text in used]
    steps.total += len(used)
    how: dict[str, Any] = {"batch_size": batch_size, "steps": steps}
    vectors = (
        embed_long(model, written, best=best, **how)
        if by_sentence
        else embed_texts(model, written, **how)
    )

    to_text = [sorted({position[text] for text in numbers}) for numbers in images.facts]
    to_image = [sorted(set(owners[text])) for text in used]
    results: dict[str, Any] = {"n": len(images.facts), "texts": len(used)}
    asked = (
        (similarities(images.vectors, vectors).T, torch.eye(len(images.vectors)))
        if best
        else (vectors, images.vectors)
    )
    directions = {"i2t": (images.vectors, vectors, to_text), "t2i": (*asked, to_image)}
    found = {name: ranks(*direction) for name, direction in directions.items()}
    sizes = {
        name: ([len(items) for items in right], [len(gallery)] * len(right))
        for name, (_, gallery, right) in directions.items()
    }
    for name, rank in found.items():
        results |= summary(name, rank, *sizes[name], ks)
    if rerank:
        chosen = {name: first(*direction, rerank) for name, direction in directions.items()}
        started = time.perf_counter()
        matched = match_some(
            model,
            source,
            captions,
            written,
            chosen["i2t"],
            chosen["t2i"],
            exact=exact,
            batch_size=batch_size,
            steps=steps,
        )
        results["rerank_seconds"] = time.perf_counter() - started
        scores = {
            "i2t": matched(np.arange(len(to_text))[:, None], chosen["i2t"]),
            "t2i": matched(chosen["t2i"], np.arange(len(used))[:, None]),
        }
        for name, (_, _, right) in directions.items():
            rank = ranks_of_two_stages(found[name], chosen[name], scores[name], right)
            results |= summary(f"reranked_{name}", rank, *sizes[name], ks)
    options = (
        *clips_of(source),
        *([f"rerank={rerank}"] if rerank else []),
        *(["by_sentence"] if by_sentence else []),
        *(["best"] if best else []),
    )
    protocol = protocol_of(
        "retrieval", source, model, exact=exact, field=role, rule=_RULE, options=options
    )
    return results | {"bad": dict(images.bad)} | describe(protocol, model)


def summary(
    name: str, rank: np.ndarray, right: Sequence[int], gallery: Sequence[int], ks: Sequence[int]
) -> dict[str, float]:
    """Return recalls, median and mean reciprocal rank of ranks (Q,), and the chance values.

    Query q has `right[q]` correct items among the `gallery[q]` that it chooses from.
    """
    results = {f"{name}_r{k}": float((rank <= k).mean()) for k in ks}
    results |= {
        f"{name}_median_rank": float(np.median(rank)),
        f"{name}_mrr": float((1 / rank).mean()),
    }
    sizes = sorted(Counter(zip(right, gallery, strict=True)).items())
    weights = [count for _, count in sizes]
    for k in ks:
        chance = [chance_recall([items], size, k) for (items, size), _ in sizes]
        results[f"chance_{name}_r{k}"] = float(np.average(chance, weights=weights))
    chance = [chance_reciprocal_rank([items], size) for (items, size), _ in sizes]
    return results | {f"chance_{name}_mrr": float(np.average(chance, weights=weights))}


def role_of(suite: str, source: Source, role: str | None) -> str:
    """Return the role of the texts: the given one, or caption, or the first that the source has."""
    roles = [name.removeprefix("texts.") for name in source.schema() if name.startswith("texts.")]
    if not roles:
        raise InputError(f"{suite} needs texts, which source {source.name!r} does not give")
    if role not in (None, "*", *roles):
        raise unknown(f"role of the texts of source {source.name!r}", role, roles)
    return role or ("caption" if "caption" in roles else roles[0])


def texts_of(sample: Sample, role: str) -> list[str]:
    """Return the texts of a role that are not blank. Raises BadSample if there are none."""
    found = [text for text in sample.captions(role) if text.strip()]
    if not found:
        raise BadSample("no-caption", f"{sample.key} has no text of role {role!r}")
    return found
