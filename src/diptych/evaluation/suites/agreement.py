"""Emotions that a model says an image evokes, and whether its explanations agree with them.

    accuracy        share of images whose written emotion is that of most people, of the images of which
                    more than half of the people agree
    agreement       share of images whose explanation a classifier of texts gives the written emotion
    bleu1 … bleu4, rouge_l    of the explanations, against those that people gave of the same image
    meteor_stem     METEOR by equal words and stems (`_meteor`), of the same, where it is asked for
    unique          share of different explanations among all

The classifier is a logistic regression on the tf-idf of words and pairs of words, fitted on explanations
with their emotions: of `train`, or of the judged source itself. `classifier` is its accuracy on the judged
source's explanations, what the best agreement of people's own would be. A written text is "EMOTION because
EXPLANATION". Chance writes to each image the most frequent emotion, and the explanation that was written
to the next image, in the order of keys.

Source: Achlioptas et al. 2021 (ArtEmis), whose classifier is a recurrent network; Zhang et al. 2024.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from diptych.data.emotions import EMOTION, EXPLANATION, felt, majority, split
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, read_images
from diptych.evaluation.protocol import data_of, describe, protocol_of
from diptych.evaluation.suites import _meteor
from diptych.evaluation.suites._features import opened
from diptych.evaluation.suites._rouge import report as rouge
from diptych.evaluation.suites.captions import bleu, words
from diptych.metrics import lab

card = {
    "title": "Emotions with explanations: accuracy and agreement",
    "needs": ["images.main", "texts.emotion", "texts.explanation"],
    "abilities": ["preprocess", "generate"],
}


@dataclass(frozen=True, kw_only=True)
class Said:
    """What people feel of an image and why, one explanation an emotion."""

    key: str
    emotions: Sequence[str]
    explanations: Sequence[str]

    @property
    def majority(self) -> str | None:
        """The emotion of more than half of the people, None if there is none."""
        return majority(self.emotions)


def ready(
    model: Any, source: Source, *, train: Source | str | None = None, meteor: bool = False
) -> None:
    """Raise InputError for a `train` without emotions and explanations, and without scikit-learn or the
    library of `meteor`."""
    if meteor:
        _meteor.stemmer()
    with lab("the agreement of explanations"):
        import sklearn  # noqa: F401
    if train is not None:
        given = opened(train)
        for role in (EMOTION, EXPLANATION):
            if f"texts.{role}" not in given.schema():
                raise InputError(
                    f"{given.name} has no texts of role {role}, from which the classifier of explanations learns; "
                    "name another --train"
                )


def agreement(
    model: Any,
    source: Source,
    *,
    train: Source | str | None = None,
    joint: str = "because",
    meteor: bool = False,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures above beside chance.

    `joint` is the word between emotion and explanation; with `meteor` explanations are also compared by
    METEOR. Also returned: `n` images, `judged` of which
    have an emotion of most people, `unsaid` texts without a joint, `written`, the first ten texts by key,
    `bad` samples by reason, and the protocol. Raises InputError for explanations of fewer than two
    emotions.
    """
    ready(model, source, train=train, meteor=meteor)
    fitted = None if train is None else opened(train)
    steps = Steps(progress, len(source))
    bad: Counter[str] = Counter()
    made: list[tuple[Said, str]] = []
    for pixels, said in read_images(
        model, source, said_of, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        texts = model.generate(pixels, batch_size=batch_size)
        made += zip(said, texts, strict=True)
    made.sort(key=lambda each: each[0].key)
    people = [said for said, _ in made]
    learnt = people if fitted is None else every(fitted)
    tell = classifier(learnt)
    parts = [split(text, joint) for _, text in made]
    found = report(people, parts, tell, meteor)
    emotions = Counter(emotion for said in people for emotion in said.emotions)
    [(frequent, _)] = emotions.most_common(1)
    following = [parts[(at + 1) % len(parts)][1] for at in range(len(parts))]
    others = [(emotion, text) for (emotion, _), text in zip(parts, following, strict=True)]
    blind = report(people, others, tell, meteor)
    blind["accuracy"] = accuracy(people, [frequent] * len(people))
    own = [pair for said in people for pair in zip(said.emotions, said.explanations, strict=True)]
    protocol = protocol_of(
        "agreement",
        source,
        model,
        exact=exact,
        field=EMOTION,
        classes=tuple(sorted(emotions)),
        rule="lower case, letters and digits; logistic regression on tf-idf of 1- and 2-grams",
        options=(f"joint={joint}", *([] if fitted is None else [f"train={data_of(fitted)}"])),
    )
    return (
        {"n": len(made), "judged": sum(said.majority is not None for said in people)}
        | found
        | {f"chance_{name}": value for name, value in blind.items() if name != "unique"}
        | {"classifier": agreed(own, tell), "unsaid": sum(not text for _, text in parts)}
        | {"written": {said.key: text for said, text in made[:10]}, "bad": dict(bad)}
        | describe(protocol, model)
    )


def said_of(sample: Sample) -> Said:
    """What people feel of the image of a sample. Raises BadSample as `felt` does."""
    emotions, explanations = zip(*felt(sample), strict=True)
    return Said(
        key=sample.key, emotions=[plain(text) for text in emotions], explanations=explanations
    )


def every(source: Source) -> list[Said]:
    """What people feel of all samples of a source that can be read; no image is."""
    found = []
    for at in range(len(source)):
        try:
            found.append(said_of(source[at]))
        except BadSample:
            continue
    return found


def classifier(learnt: Sequence[Said]) -> Any:
    """Return a function from texts to emotions, fitted on explanations.

    Raises InputError for explanations of fewer than two emotions.
    """
    with lab("the agreement of explanations"):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    texts = [text for said in learnt for text in said.explanations]
    emotions = [emotion for said in learnt for emotion in said.emotions]
    if len(set(emotions)) < 2:
        raise InputError(
            f"the explanations are of {len(set(emotions))} emotions, and agreement needs two at least; name a source "
            "with more, or another --train"
        )
    vectors = TfidfVectorizer(analyzer=grams)  # type: ignore[arg-type]  # its stub names strings alone
    fitted = make_pipeline(vectors, LogisticRegression(max_iter=1000, C=10.0))
    fitted.fit(texts, emotions)
    return fitted.predict


def grams(text: str) -> list[str]:
    """Return the words of a text, and its pairs of words.

    >>> grams("So calm!")
    ['so', 'calm', 'so calm']
    """
    said = words(text)
    return [*said, *(" ".join(pair) for pair in pairwise(said))]


def report(
    people: Sequence[Said], parts: Sequence[tuple[str, str]], tell: Any, meteor: bool = False
) -> dict[str, float]:
    """Return all measures of an emotion and an explanation for each image."""
    written = [text for _, text in parts]
    references = [said.explanations for said in people]
    found = {
        "accuracy": accuracy(people, [emotion for emotion, _ in parts]),
        "agreement": agreed(parts, tell),
    }
    found |= {f"bleu{n}": value for n, value in enumerate(bleu(written, references), 1)}
    found["rouge_l"] = rouge(written, references)["rouge_l"]
    if meteor:
        found |= _meteor.report(written, references)
    found["unique"] = len({" ".join(words(text)) for text in written}) / len(written)
    return found


def accuracy(people: Sequence[Said], emotions: Sequence[str]) -> float:
    """Return the share of emotions that are those of most people, NaN if there are none.

    >>> felt = Said(key="0", emotions=["awe", "awe", "fear"], explanations=["", "", ""])
    >>> accuracy([felt, felt], ["awe", "fear"])
    0.5
    """
    right = [
        plain(emotion) == said.majority
        for said, emotion in zip(people, emotions, strict=True)
        if said.majority is not None
    ]
    return float(np.mean(right)) if right else float("nan")


def agreed(parts: Sequence[tuple[str, str]], tell: Any) -> float:
    """Return the share of explanations that a classifier gives their emotion; one without words agrees
    with none."""
    told = tell([text for _, text in parts])
    equal = [
        bool(words(text)) and plain(emotion) == found
        for (emotion, text), found in zip(parts, told, strict=True)
    ]
    return float(np.mean(equal))


def plain(emotion: str) -> str:
    """Return an emotion in lower case, its words apart by one space."""
    return " ".join(words(emotion))
