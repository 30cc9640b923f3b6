"""The filter of generated captions, as `diptych data refine` runs it.

Each caption is cut into sentences, which become captions of their own. Phrases that open a
description ("the image depicts") are cut off. A sentence is dropped, for the first reason that holds,
if it is

    unfinished   the last of a caption that breaks off, as it does at a model's limit of tokens
    short        of fewer words than `shortest`
    guessed      not about what is seen: it seems, suggests, may be, gives a sense of
    told         it names an indicator, or another word that captions may not tell
    repeated     the same as one before it for the same image
    common       the same for more than the share `common` of the images: it says nothing of any
    unlike       less similar to the image than a threshold, by a model of images and texts

Published: captions are cleaned, and uninformative and hallucinated sentences dropped; the rules are
ours.

Dimensions: N samples, S sentences, E embedding.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from diptych.data.prefetch import ahead
from diptych.data.sample import BadSample, Source
from diptych.data.views import sentences
from diptych.errors import InputError
from diptych.methods.abilities import require
from diptych.methods.adapt.visualness.pages import Bar
from diptych.spec import Count, Share

Progress = Callable[[int, int], None]
REASONS = ("unfinished", "short", "guessed", "told", "repeated", "common", "unlike")
AT_ONCE = 64  # images that are embedded together
_OPENER = re.compile(
    r"(?:(?:in|on)\s+)?(?:this|the)\s+(?:(?:satellite|aerial)\s+)?(?:image|picture|photo|photograph|scene|tile|view)"
    r"(?:,|\s+(?:also\s+)?(?:depicts|shows|features|displays|captures|presents|includes|contains|is\s+of))\s*"
    r"(?:(?:we|you)\s+can\s+see\s+|there\s+(?:is|are)\s+(?:also\s+)?)?",
    re.IGNORECASE,
)
_GUESS = re.compile(
    r"\b(?:seem(?:s|ed|ingly)?|suggest(?:s|ed|ing)?|indicat(?:es?|ed|ing)|impl(?:y|ies|ying)|may|might|could|would|"
    r"possibl[ey]|probabl[ey]|perhaps|likely|presumably|appears?\s+to|gives?\s+(?:off\s+)?(?:a|an|the)\s+sense|"
    r"(?:a|the)\s+sense\s+of|impression)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The limits of the filter (`common=None` leaves that one out), and whether guesses and unfinished
    sentences are dropped, and openers cut off."""

    shortest: Count = 2
    common: Share | None = 0.3
    guessed: bool = True
    unfinished: bool = True
    openers: bool = True


@dataclass(kw_only=True)
class Refined:
    """The captions that are kept of each sample (N), the number of sentences, of those dropped by
    reason, and of samples that cannot be read by reason."""

    captions: list[list[str]] = field(default_factory=list)
    sentences: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)


def refined(
    source: Source,
    rules: Rules | None = None,
    *,
    role: str = "caption",
    given: Mapping[str, Sequence[str]] | None = None,
    without: Sequence[str] = (),
    model: Any = None,
    negative: str = "5%",
    whole: bool = False,
    progress: Progress | None = None,
) -> Refined:
    """The captions of a source without sentences that say nothing of their image.

    `given` are captions by the keys of samples, in place of the texts of `role`. Captions may not tell
    the names of labels with real values, and the words `without`, such as those of one aspect. With a
    `model`, sentences are dropped below the cosine `negative`, or of the bottom share "5%". With
    `whole` the sentences that are kept make one caption again.

    Raises InputError for a role that the source lacks, for captions of none of its samples, and if
    none is kept.

    >>> from diptych.data.sources import open_source
    >>> given = {"1-0_0_0": ["The image depicts many trees. It suggests a park. The GDP is high."]}
    >>> found = refined(open_source("tiles:count=1"), given=given)
    >>> found.captions, dict(found.dropped)
    ([['many trees']], {'guessed': 1, 'told': 1})
    """
    rules = rules or Rules()
    bar = Bar.of(negative)
    if model is not None:
        for ability in ("embed_images", "embed_texts"):
            require(model, ability, "a comparison of captions with images")
    words = [*_untold(source), *without]
    found = Refined()
    own = [_read(source, at, role, given, found.bad) for at in range(len(source))]
    if not any(own):
        what = "texts of role " + repr(role) if given is None else "captions by its keys"
        raise InputError(
            f"{source.name} has no {what}; name another role, or give captions with --by"
        )
    for texts in own:
        found.captions.append(_kept(texts, rules, words, found))
    _drop_common(found, rules)
    if model is not None:
        _drop_unlike(source, model, bar, found, progress)
    if whole:
        found.captions = [[". ".join(texts)] if texts else [] for texts in found.captions]
    if not any(found.captions):
        raise InputError(
            f"no sentence of {source.name} is kept ({dict(found.dropped)}); loosen the rules"
        )
    return found


def _untold(source: Source) -> list[str]:
    """The names of the labels with real values: the indicators."""
    return [
        name.removeprefix("labels.")
        for name, kind in source.schema().items()
        if name.startswith("labels.") and kind.kind == "float"
    ]


def _read(
    source: Source,
    at: int,
    role: str,
    given: Mapping[str, Sequence[str]] | None,
    bad: Counter[str],
) -> list[str]:
    """The captions of a sample."""
    if given is not None:
        return list(given.get(source.keys()[at], ()))
    try:
        return list(source[at].captions(role))
    except BadSample as error:
        bad[error.reason] += 1
        return []


def _kept(texts: Sequence[str], rules: Rules, untold: Sequence[str], found: Refined) -> list[str]:
    """The sentences of a sample's captions that pass the rules about single sentences."""
    kept: dict[str, str] = {}
    for text in texts:
        parts = sentences(text)
        breaks_off = len(parts) > 1 and not text.rstrip().endswith((".", "!", "?", '"', "”"))
        for number, part in enumerate(parts):
            found.sentences += 1
            said = opened(part) if rules.openers else part
            reason = reason_of(said, rules, untold)
            if breaks_off and number == len(parts) - 1 and rules.unfinished:
                reason = "unfinished"
            if not reason and _form(said) in kept:
                reason = "repeated"
            if reason:
                found.dropped[reason] += 1
            else:
                kept[_form(said)] = said
    return list(kept.values())


def opened(sentence: str) -> str:
    """A sentence without the phrase that opens a description.

    >>> opened("The image depicts a large field"), opened("In this image, there are several cars")
    ('a large field', 'several cars')
    """
    plain = " ".join(sentence.split())
    found = _OPENER.match(plain)
    return plain[found.end() :] if found else plain


def reason_of(sentence: str, rules: Rules, untold: Sequence[str] = ()) -> str:
    """Why a sentence is dropped, "" if it is kept, by the rules that look at it alone.

    >>> reason_of("Trees", Rules()), reason_of("a lake", Rules())
    ('short', '')
    """
    words = [word.casefold() for word in _WORD.findall(sentence)]
    if len(words) < rules.shortest:
        return "short"
    if rules.guessed and _GUESS.search(sentence):
        return "guessed"
    said = f" {' '.join(words)} "
    names = (" ".join(word.casefold() for word in _WORD.findall(name)) for name in untold)
    return "told" if any(name and f" {name} " in said for name in names) else ""


def _form(sentence: str) -> str:
    """The form in which equal sentences are identical."""
    return " ".join(word.casefold() for word in _WORD.findall(sentence))


def _drop_common(found: Refined, rules: Rules) -> None:
    """Drop the sentences of more than the share of images."""
    if rules.common is None:
        return
    count = Counter(_form(text) for texts in found.captions for text in texts)
    most = max(1.0, rules.common * sum(bool(texts) for texts in found.captions))
    for at, texts in enumerate(found.captions):
        found.captions[at] = [text for text in texts if count[_form(text)] <= most]
        found.dropped["common"] += len(texts) - len(found.captions[at])
    found.dropped += Counter()  # drops what is 0


def _drop_unlike(
    source: Source, model: Any, bar: Bar, found: Refined, progress: Progress | None
) -> None:
    """Drop the sentences that are less similar to their image than the threshold, and all of images that
    cannot be read."""

    def read(at: int) -> Any:
        sample = source[at]
        if "main" not in sample.images:
            raise BadSample("no-image", sample.key)
        return model.preprocess.read(sample.images["main"])

    rows = [at for at, texts in enumerate(found.captions) if texts]
    cosines: dict[int, np.ndarray] = {}
    for number, batch in enumerate(ahead(read, rows, AT_ONCE)):
        those = rows[number * AT_ONCE : number * AT_ONCE + len(batch)]
        cosines |= _cosines(model, found, those, batch)
        if progress is not None:
            progress(number * AT_ONCE + len(batch), len(rows))
    known = np.concatenate([*cosines.values(), np.zeros(0)])
    least = float(np.quantile(known, bar.value)) if bar.share and len(known) else bar.value
    for at in rows:
        texts = found.captions[at]
        if at in cosines:
            near = cosines[at] >= least
            found.captions[at] = [text for text, kept in zip(texts, near, strict=True) if kept]
        else:
            found.captions[at] = []
        if dropped := len(texts) - len(found.captions[at]):
            found.dropped["unlike"] += dropped


def _cosines(
    model: Any, found: Refined, rows: Sequence[int], batch: Sequence[Any]
) -> dict[int, np.ndarray]:
    """The cosines of the sentences of some samples with their images, by sample."""
    good = []
    for at, image in zip(rows, batch, strict=True):
        if isinstance(image, BadSample):
            found.bad[image.reason] += 1
        else:
            good.append((at, image))
    if not good:
        return {}
    x = torch.as_tensor(
        model.embed_images(torch.stack([image for _, image in good]), batch_size=AT_ONCE)
    )
    t = torch.as_tensor(model.embed_texts([text for at, _ in good for text in found.captions[at]]))
    parts = t.split([len(found.captions[at]) for at, _ in good])
    return {
        at: (own @ v).float().cpu().numpy() for (at, _), v, own in zip(good, x, parts, strict=True)
    }
