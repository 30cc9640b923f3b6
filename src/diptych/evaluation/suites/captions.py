"""Captions that a model generates for images, compared with reference captions.

    accuracy            share of captions that equal one of the image's, word for word
    object_recall       share of an image's objects that its caption names
    object_precision    share of the named objects that are in the image
    bleu1 … bleu4       shares of n-grams of all captions together
    rouge_1, _2, _l     overlap with the nearest of the image's captions, the mean (`_rouge`)
    register            share of the words that mark a register, learnt from texts in it (`_register`)
    meteor_stem         METEOR by equal words and stems (`_meteor`), where it is asked for
    cider               CIDEr-D, the tf-idf similarity of 1- to 4-grams with the image's captions:

    10 / 4 sum_n mean_r exp(-(l_c - l_r)² / 72) <min(g_n(c), g_n(r)), g_n(r)> / (|g_n(c)| |g_n(r)|)

g_n holds count · log(N / df) of each n-gram, where df is the number of the N images whose captions
contain it; l counts words. Words are runs of letters and digits, in lower case; the original
tokenises by the rules of the Penn Treebank, which differs for abbreviations and the like. Objects
are those of an image's boxes, named by their classes if the source has class names, else by the
boxes' texts. Chance gives every image a caption of the next one, in the order of keys: fluent, but
unrelated to the image.

Source: Vedantam, Zitnick and Parikh 2015 (CIDEr); the clipped form with sigma 6 is that of the COCO
caption server.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.data.sample import Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, clip_or_image, clips_of, read_images
from diptych.evaluation.protocol import data_of, describe, protocol_of
from diptych.evaluation.suites import _meteor, _rouge
from diptych.evaluation.suites._features import opened
from diptych.evaluation.suites._register import register_share, register_words
from diptych.evaluation.suites._shots import behind_captions, check_shots, number_of
from diptych.evaluation.suites.retrieval import role_of, texts_of

card = {
    "title": "Captions that are written: accuracy, objects, CIDEr",
    "needs": ["images.main", "texts"],
    "abilities": ["preprocess", "generate"],
}

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_ENDS = {  # endings of nouns with irregular plurals
    "y": "ies", "f": "ves", "fe": "ves", "us": "i", "man": "men", "person": "people", "child": "children",
    "foot": "feet", "tooth": "teeth", "goose": "geese", "mouse": "mice",
}  # fmt: skip
LONGEST = 4  # n-grams
SIGMA = 6.0  # width of the Gaussian length penalty, in words


@dataclass(frozen=True, kw_only=True)
class Written:
    """A generated caption with the key, the reference captions and the objects of its image."""

    key: str
    text: str
    right: Sequence[str]
    objects: Sequence[str]


def ready(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    shots: int | Sequence[int] = 0,
    train: Source | str | None = None,
    register: Source | str | None = None,
    meteor: bool = False,
) -> None:
    """Raise InputError for a role that the source lacks, for examples that do not fit, for a
    `register` without texts, and for `meteor` without its library."""
    role_of("captions", source, role)
    if meteor:
        _meteor.stemmer()
    if register is not None:
        role_of("a register", opened(register), None)
    examples = None if train is None else opened(train)
    check_shots(model, "captions", number_of(shots, "captions"), examples)


def captions(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    shots: int | Sequence[int] = 0,
    train: Source | str | None = None,
    register: Source | str | None = None,
    meteor: bool = False,
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `accuracy`, `cider`, and if the source has boxes `object_recall` and
    `object_precision`, beside chance.

    `role` is the role of the reference captions: caption, or the first. `shots` images with captions
    from `train`, a source or its spec, stand before each image; the first seed draws them. With a
    `register`, a source of texts in it or its spec, `register` is the share of its words among those
    written, `register_texts` that among its own texts, and the reference captions are plain. With
    `meteor`, `meteor_stem` is added. Also returned: `n` images, `written`, the first ten captions by
    key, `bad` samples by reason, and the protocol.
    """
    role = role_of("captions", source, role)
    examples = None if train is None else opened(train)
    styled = None if register is None else opened(register)
    ready(model, source, role=role, shots=shots, train=examples, register=styled, meteor=meteor)
    options = list(clips_of(source))
    writer = model
    if examples is not None:
        count = number_of(shots, "captions")
        writer = behind_captions(model, examples, role, count, seeds[0])
        options += [f"shots={count}", f"examples={data_of(examples)}", f"seed={seeds[0]}"]
    made, bad = generated(
        writer, source, role, exact=exact, batch_size=batch_size, steps=Steps(progress, len(source))
    )
    written = [each.text for each in made]
    right = [each.right for each in made]
    objects = [each.objects for each in made]
    blind = [right[(at + 1) % len(right)][0] for at in range(len(right))]
    found = report(written, right, objects)
    chance = report(blind, right, objects)
    if meteor:
        found |= _meteor.report(written, right)
        chance |= _meteor.report(blind, right)
    of_texts = {}
    if styled is not None:
        options.append(f"register={data_of(styled)}")
        marks, own = _register_of(styled, right)
        found["register"] = register_share(map(words, written), marks)
        chance["register"] = register_share(map(words, blind), marks)
        of_texts["register_texts"] = own
    protocol = protocol_of(
        "captions",
        source,
        model,
        exact=exact,
        field=role,
        rule="lower case, letters and digits; CIDEr-D over the images that could be read",
        options=tuple(options),
    )
    return (
        {"n": len(made)}
        | found
        | of_texts
        | {f"chance_{name}": value for name, value in chance.items()}
        | {"written": {each.key: each.text for each in made[:10]}, "bad": dict(bad)}
        | describe(protocol, model)
    )


def generated(
    model: Any, source: Source, role: str, *, exact: bool, batch_size: int, steps: Steps
) -> tuple[list[Written], Counter[str]]:
    """Return the captions of a model by the keys of their images, and the reasons of images that
    were left out."""
    names = source.schema()["boxes"].classes if "boxes" in source.schema() else ()
    bad: Counter[str] = Counter()

    def facts(sample: Sample) -> tuple[str, list[str], list[str]]:
        """Return the key, the captions and the names of the objects of a sample."""
        boxes = [
            (names[box.label] if box.label >= 0 else "") if names else box.text
            for box in sample.boxes
        ]
        return sample.key, texts_of(sample, role), [name for name in boxes if name]

    made = []
    for pixels, kept in read_images(
        model,
        source,
        facts,
        bad,
        images=clip_or_image,
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    ):
        texts = model.generate(pixels, batch_size=batch_size)
        made += [
            Written(key=key, text=text, right=right, objects=objects)
            for text, (key, right, objects) in zip(texts, kept, strict=True)
        ]
    return sorted(made, key=lambda each: each.key), bad


def correct(text: str, right: Sequence[str]) -> bool:
    """Whether a caption equals one of the reference captions, word for word.

    >>> correct("A dog.", ["a cat", "a dog"])
    True
    """
    return words(text) in [words(each) for each in right]


def _register_of(styled: Source, right: Sequence[Sequence[str]]) -> tuple[frozenset[str], float]:
    """The words of the register of a source's texts beside reference captions, and their share among
    those of the texts. Raises InputError if there are none."""
    role = role_of("a register", styled, None)
    texts = [words(text) for at in range(len(styled)) for text in styled[at].captions(role)]
    marks = register_words(texts, (words(text) for texts in right for text in texts))
    if not marks:
        raise InputError(
            f"{styled.name} has no words that captions of the images lack; name texts in a register of their own"
        )
    return marks, register_share(texts, marks)


def report(
    written: Sequence[str], right: Sequence[Sequence[str]], objects: Sequence[Sequence[str]] = ()
) -> dict[str, float]:
    """Return all measures of one generated caption per image, its reference captions, and the names
    of its objects.

    >>> report(["A dog."], [["a cat", "a dog"]], [["dog", "ball"]])["object_recall"]
    0.5
    """
    equal = [correct(text, others) for text, others in zip(written, right, strict=True)]
    found = {"accuracy": float(np.mean(equal)), "cider": float(cider(written, right).mean())}
    found |= {f"bleu{n}": value for n, value in enumerate(bleu(written, right), 1)}
    found |= _rouge.report(written, right)
    if any(objects):
        recall, precision = object_rates(written, objects)
        found |= {"object_recall": recall, "object_precision": precision}
    return found


def words(text: str) -> list[str]:
    """Return the words of a text in lower case.

    >>> words("It's a T-shirt, size 4.")
    ["it's", 'a', 't', 'shirt', 'size', '4']
    """
    return _WORD.findall(text.lower())


def cider(written: Sequence[str], right: Sequence[Sequence[str]]) -> np.ndarray:
    """Return CIDEr-D of each generated caption (N,) against the one or more captions of its image,
    0 to 10.

    The weights of n-grams come from all of `right`: an n-gram in every image's captions has weight
    0, so the measure needs several images. It does not depend on their order.

    >>> cider(["a red dog runs", "two cats"], [["a red dog runs"], ["one black bird", "a bird"]]).round(4)
    array([10.,  0.])
    """
    grams = [[_grams(text) for text in texts] for texts in right]
    seen = Counter(gram for texts in grams for gram in set().union(*texts))
    log_count = math.log(max(len(right), 1))

    def weighted(counts: Counter) -> list[dict[tuple[str, ...], float]]:
        """Return one vector for each length of n-gram."""
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST)]
        for gram, count in counts.items():
            vectors[len(gram) - 1][gram] = count * (log_count - math.log(max(seen[gram], 1)))
        return vectors

    scores = []
    for text, texts in zip(written, grams, strict=True):
        counts = _grams(text)
        mine = weighted(counts)
        length = _length(counts)
        each = [_similar(mine, weighted(other), length - _length(other)) for other in texts]
        scores.append(10 * float(np.mean(each)))
    return np.array(scores)


def bleu(written: Sequence[str], right: Sequence[Sequence[str]]) -> list[float]:
    """Return BLEU-1 to BLEU-4 of all generated captions together, each against the captions of its
    image, 0 to 1.

        BLEU-n = min(1, e^(1 - r / c)) · (Π_k≤n p_k)^(1/n)

    p_k is the share of generated k-grams that are correct, each counted at most as often as in one
    reference caption; c is the number of generated words, r that of the reference captions that are
    closest in length, the shorter of two. Without smoothing, as it is reported for captions.
    Source: Papineni et al. 2002.

    >>> [round(value, 4) for value in bleu(["the the cat"], [["the cat sat"]])]
    [0.6667, 0.5774, 0.0, 0.0]
    """
    hits = np.zeros(LONGEST)
    counts = np.zeros(LONGEST)
    lengths = [0, 0]  # of the generated captions, and of the references
    for text, others in zip(written, right, strict=True):
        mine = _grams(text)
        theirs = [_grams(other) for other in others]
        most: Counter = Counter()
        for other in theirs:
            most |= other
        for gram, count in mine.items():
            counts[len(gram) - 1] += count
            hits[len(gram) - 1] += min(count, most[gram])
        length = _length(mine)
        lengths[0] += length
        lengths[1] += min(
            (_length(other) for other in theirs), key=lambda each: (abs(each - length), each)
        )
    if not hits[0]:
        return [0.0] * LONGEST
    brevity = min(1.0, math.exp(1 - lengths[1] / lengths[0]))
    found = []
    product = 1.0
    for n in range(LONGEST):
        product *= hits[n] / counts[n] if counts[n] else 0.0
        found.append(float(brevity * product ** (1 / (n + 1))))
    return found


def object_rates(written: Sequence[str], objects: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Return recall and precision of the objects that captions name, means over the images for
    which they are defined.

    A name is matched as whole words in order, the last of them in singular or plural. The possible
    names are those of all images.

    >>> object_rates(["two dogs and a cat"], [["dog", "red ball"]])
    (0.5, 1.0)
    """
    known = sorted({tuple(words(name)) for names in objects for name in names} - {()})
    recalls = []
    precisions = []
    for text, names in zip(written, objects, strict=True):
        there = {tuple(words(name)) for name in names} - {()}
        reported = {name for name in known if _names(words(text), name)}
        if there:
            recalls.append(len(there & reported) / len(there))
        if reported:
            precisions.append(len(there & reported) / len(reported))
    return float(np.mean(recalls)), float(np.mean(precisions)) if precisions else 0.0


def _names(text: list[str], name: tuple[str, ...]) -> bool:
    """Whether a text contains the words of a name in order, the last of them in singular or
    plural."""
    forms = either_number(name[-1])
    size = len(name)
    return any(
        tuple(text[at : at + size - 1]) == name[:-1] and text[at + size - 1] in forms
        for at in range(len(text) - size + 1)
    )


def either_number(noun: str) -> set[str]:
    """Return a noun and its possible plurals.

    >>> sorted(either_number("butterfly")), sorted(either_number("person"))
    (['butterflies', 'butterfly', 'butterflyes', 'butterflys'], ['people', 'person', 'persones', 'persons'])
    """
    found = {noun, f"{noun}s", f"{noun}es"}
    for end, several in _ENDS.items():
        if noun.endswith(end):
            found.add(noun.removesuffix(end) + several)
    return found


def _grams(text: str) -> Counter:
    said = words(text)
    return Counter(
        tuple(said[at : at + n]) for n in range(1, LONGEST + 1) for at in range(len(said) - n + 1)
    )


def _length(counts: Counter) -> int:
    """Return the number of words."""
    return sum(count for gram, count in counts.items() if len(gram) == 1)


def _similar(a: list[dict[Any, float]], b: list[dict[Any, float]], longer: int) -> float:
    """Return the mean over n-gram lengths of the clipped cosine, lowered by the length penalty."""
    total = 0.0
    for mine, other in zip(a, b, strict=True):
        product = sum(
            min(weight, other[gram]) * other[gram] for gram, weight in mine.items() if gram in other
        )
        norms = math.hypot(*mine.values()) * math.hypot(*other.values())
        total += product / norms if norms else 0.0
    return total / LONGEST * math.exp(-(longer**2) / (2 * SIGMA**2))
