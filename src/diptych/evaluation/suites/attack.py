"""Attack success rate: how much of what a victim gets right it gets wrong once inputs are changed.

    ASR = |right before and wrong after| / |right before|

What becomes right by the change does not count. A model with `apply` changes the inputs; the victim
is any model: the one that the change was made for, or another one, which shows whether it transfers.

    retrieval    images and texts are changed; right is a query with a right item among its first k,
                 also after the first of each query were reordered by the victim's `match`
    captions     images are changed; right is a caption that equals a reference
    answers      images are changed; right is an answer that equals a right one

Changed pixels are whole numbers, as images are stored; `largest_change` is their largest
difference, of 255. The rates serve to compare how robust models are.

Sources: Zhang et al. 2022 (Co-Attack, success rates of both directions of retrieval); Fang et al.
2025.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.sample import Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, Texts, as_vectors, embed_texts, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites import answers as answering
from diptych.evaluation.suites import captions as captioning
from diptych.evaluation.suites._rerank import Matched, match_some
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.methods.abilities import require
from diptych.methods.store import load
from diptych.metrics import Array, Positives, first, ranks, ranks_of_two_stages

card = {
    "title": "Attack success rate of a perturbation, on its own model or another",
    "needs": ["images.main", "texts"],
    "abilities": ["apply"],
}

Task = Literal["retrieval", "captions", "answers"]
_ABILITIES: Mapping[str, tuple[str, ...]] = {
    "retrieval": ("embed_images", "embed_texts"),
    "captions": ("generate",),
    "answers": ("generate",),
}


_CONDITIONS = {
    "before": (False, False),
    "images": (True, False),
    "texts": (False, True),
    "both": (True, True),
}
"""Whether images and whether texts are changed, by name."""
_RERANKED = "reranked_"


class Attacked:
    """A victim whose images are changed before it writes about them or matches them with texts."""

    def __init__(self, victim: Any, model: Any):
        self.victim = victim
        self.model = model
        self.preprocess = victim.preprocess
        self.images_read = getattr(victim, "images_read", 1)

    def match(self, images: Tensor, *args: Any, **options: Any) -> Tensor:
        return self.victim.match(self.model.apply(images)[0], *args, **options)

    def generate(self, images: Tensor, *args: Any, **options: Any) -> list[str]:
        return self.victim.generate(self.model.apply(images)[0], *args, **options)


def ready(
    model: Any,
    source: Source,
    *,
    victim: Any = None,
    task: Task = "retrieval",
    role: str | None = None,
    rerank: int = 0,
) -> None:
    """Raise InputError for a role that the source lacks, and a victim without the abilities of the
    task, of reranking, or without a text tower."""
    if task not in _ABILITIES:
        raise unknown("task of an attack", task, _ABILITIES)
    if rerank < 0 or (rerank and task != "retrieval"):
        raise InputError(
            f"rerank is {rerank} and the task {task}; retrieval alone reorders, such as the first 32 of each query"
        )
    if task != "answers":
        role_of("attack", source, role)
    elif not {"texts.question", "texts.answer"} <= set(source.schema()):
        raise InputError(
            f"answers are to questions, and {source.name} has no texts of role question and answer; name data with "
            "both, or another task"
        )
    victim = model if victim is None else victim
    if isinstance(victim, str):  # loaded once, by the suite itself
        return
    _check_victim(victim, task, rerank)


def _check_victim(victim: Any, task: str, rerank: int) -> None:
    for ability in ("preprocess", *_ABILITIES[task], *(["match"] if rerank else [])):
        require(victim, ability, "a victim", getattr(victim, "name", None))
    encoder = getattr(victim, "encoder", None)
    if task == "retrieval" and encoder is not None and "text" not in encoder.sides:
        raise InputError(
            f"the victim {victim.name} has no text tower, so no text can be moved away from its image; name a model "
            "of images and texts"
        )


def attack(
    model: Any,
    source: Source,
    *,
    victim: Any = None,
    task: Task = "retrieval",
    role: str | None = None,
    rerank: int = 0,
    batch_size: int = 64,
    ks: Sequence[int] = (1, 5, 10),
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the success rates of a perturbation, `model`, on a victim.

    - `victim` is a model or its spec; by default the model that the perturbation was made for.
    - `task` is retrieval, whose rates are `i2t_asr1`, `t2i_asr1`, …, beside the recall before and
      after, with `by_changed` those of images and texts changed alone; captions or answers, whose
      rate is `asr`, beside the score before and after.
    - `role` is the role of the texts: caption, or the first.
    - With `rerank=k` the first k of each query are reordered by the victim's `match`, before the change
      and after it, and `reranked_i2t_asr1`, … are added.

    Also returned: `n` images or questions, `largest_change` of a pixel, of 255, `bad` samples by
    reason, and the protocol. Raises InputError if the victim gets nothing right before.
    """
    victim = model if victim is None else load(victim) if isinstance(victim, str) else victim
    ready(model, source, victim=victim, task=task, role=role, rerank=rerank)
    role = role_of("attack", source, role)
    how: dict[str, Any] = {"exact": exact, "batch_size": batch_size}
    steps = Steps(progress, 2 * len(source))
    if task == "retrieval":
        steps.total = len(source)
        found, bad = _retrieval(model, victim, source, role, ks, rerank, steps, **how)
    elif task == "captions":
        found, bad = _captions(model, victim, source, role, steps, **how)
    else:
        found, bad = _answers(model, victim, source, steps, **how)
        role = "answer"
    protocol = protocol_of(
        "attack",
        source,
        victim,
        exact=exact,
        field=role,
        rule="right before and wrong after, of those right before; ties lose",
        options=(
            f"task={task}",
            f"victim={getattr(victim, 'identity', '')[:12]}",
            *([f"rerank={rerank}"] if rerank else []),
        ),
    )
    return found | {"bad": dict(bad)} | describe(protocol, model)


def success(before: np.ndarray, after: np.ndarray) -> float:
    """Return the share of what was right (N,) before that is wrong after.

    >>> success(np.array([True, True, False]), np.array([True, False, True]))
    0.5
    """
    return float((before & ~after).sum() / before.sum())


def rates(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], ks: Sequence[int]
) -> dict[str, float]:
    """Return the success rates of ranks (Q,) of each direction, before and after a change.

    >>> rates({"i2t": np.array([1, 1, 3])}, {"i2t": np.array([1, 2, 1])}, (1, 2))
    {'i2t_asr1': 0.5, 'i2t_asr2': 0.0}
    """
    return {
        f"{name}_asr{k}": success(rank <= k, after[name] <= k)
        for name, rank in before.items()
        for k in ks
    }


def _retrieval(
    model: Any,
    victim: Any,
    source: Source,
    role: str,
    ks: Sequence[int],
    rerank: int,
    steps: Steps,
    *,
    exact: bool,
    batch_size: int,
) -> tuple[dict[str, Any], Counter[str]]:
    bad: Counter[str] = Counter()
    texts = Texts()
    images: dict[bool, list[Tensor]] = {False: [], True: []}
    own: list[list[int]] = []
    largest = 0

    def numbers(sample: Sample) -> list[int]:
        return sorted({texts.add(text) for text in texts_of(sample, role)})

    for pixels, kept in read_images(
        victim, source, numbers, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        changed = model.apply(pixels)[0]
        largest = max(largest, int((changed.int() - pixels.int()).abs().max()))
        own += kept
        for is_changed, each in ((False, pixels), (True, changed)):
            images[is_changed].append(as_vectors(victim.embed_images(each, batch_size=batch_size)))
    written = texts.written
    other = model.apply((), written)[1]
    said = {False: written, True: other}
    steps.total += 2 * len(written)
    captions = {
        is_changed: embed_texts(victim, each, batch_size=batch_size, steps=steps)
        for is_changed, each in said.items()
    }
    owners: list[list[int]] = [[] for _ in written]
    for image, mine in enumerate(own):
        for text in mine:
            owners[text].append(image)
    vectors = {is_changed: torch.cat(parts) for is_changed, parts in images.items()}
    found = {}
    for name, (of_images, of_texts) in _CONDITIONS.items():
        given = (vectors[of_images], captions[of_texts], own, owners)
        found[name] = _ranks(*given)
        if rerank:
            matched = partial(
                match_some,
                Attacked(victim, model) if of_images else victim,
                source,
                numbers,
                said[of_texts],
                exact=exact,
                batch_size=batch_size,
                steps=steps,
            )
            found[name] |= _reranked(matched, found[name], *given, rerank)
        if name == "before":
            _check_right(found[name], ks, victim, source)
    by_changed = {
        name: rates(found["before"], rank, ks) for name, rank in found.items() if name != "before"
    }
    recalls = {
        f"{name}_r{k}{end}": float((rank <= k).mean())
        for end, condition in (("", "before"), ("_after", "both"))
        for name, rank in found[condition].items()
        for k in ks
    }
    return {
        "n": len(own),
        "texts": len(written),
        **by_changed["both"],
        **recalls,
        "changed_texts": float(np.mean([a != b for a, b in zip(written, other, strict=True)])),
        "largest_change": largest,
        "by_changed": by_changed,
    }, bad


def _ranks(
    images: Array, texts: Array, to_text: Positives, to_image: Positives
) -> dict[str, np.ndarray]:
    return {"i2t": ranks(images, texts, to_text), "t2i": ranks(texts, images, to_image)}


def _reranked(
    match: Callable[[np.ndarray, np.ndarray], Matched],
    found: Mapping[str, np.ndarray],
    images: Array,
    texts: Array,
    to_text: Positives,
    to_image: Positives,
    count: int,
) -> dict[str, np.ndarray]:
    """Return the ranks once the first `count` of each query are reordered by the scores of `match`."""
    of_images = first(images, texts, to_text, count)
    of_texts = first(texts, images, to_image, count)
    matched = match(of_images, of_texts)
    own = matched(np.arange(len(of_images))[:, None], of_images)
    other = matched(of_texts, np.arange(len(of_texts))[:, None])
    return {
        f"{_RERANKED}i2t": ranks_of_two_stages(found["i2t"], of_images, own, to_text),
        f"{_RERANKED}t2i": ranks_of_two_stages(found["t2i"], of_texts, other, to_image),
    }


def _check_right(
    before: Mapping[str, np.ndarray], ks: Sequence[int], victim: Any, source: Source
) -> None:
    if any(not (rank <= min(ks)).any() for rank in before.values()):
        raise _nothing_right(victim, source)


def _nothing_right(victim: Any, source: Source) -> InputError:
    return InputError(
        f"the victim {getattr(victim, 'name', 'given')} gets nothing of {source.name} right before the attack, so "
        "there is no rate of success; name data that it knows"
    )


def _captions(
    model: Any, victim: Any, source: Source, role: str, steps: Steps, **how: Any
) -> tuple[dict[str, Any], Counter[str]]:
    made = []
    bad: Counter[str] = Counter()
    for each in (victim, Attacked(victim, model)):
        found, bad = captioning.generated(each, source, role, steps=steps, **how)
        made.append(found)
    right = [each.right for each in made[0]]
    cider = [captioning.cider([each.text for each in found], right).mean() for found in made]
    hits = [
        np.array([captioning.correct(each.text, each.right) for each in found]) for found in made
    ]
    return {
        **_before_and_after("accuracy", hits, victim, source),
        "cider": float(cider[0]),
        "cider_after": float(cider[1]),
    }, bad


def _answers(
    model: Any, victim: Any, source: Source, steps: Steps, **how: Any
) -> tuple[dict[str, Any], Counter[str]]:
    hits = []
    bad: Counter[str] = Counter()
    for each in (victim, Attacked(victim, model)):
        given, asked, _, bad = answering.replies(each, source, "generate", steps=steps, **how)
        right = [
            answering.correct(answer, question)
            for answer, (question, own) in zip(given, asked, strict=True)
            if own
        ]
        hits.append(np.array(right))
    return _before_and_after("exact", hits, victim, source), bad


def _before_and_after(
    name: str, hits: Sequence[np.ndarray], victim: Any, source: Source
) -> dict[str, Any]:
    before, after = hits
    if not before.any():
        raise _nothing_right(victim, source)
    return {
        "n": len(before),
        "asr": success(before, after),
        name: float(before.mean()),
        f"{name}_after": float(after.mean()),
    }
