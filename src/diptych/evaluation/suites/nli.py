"""Natural language inference: whether a hypothesis follows from a premise, by a linear head on the
embeddings of both.

    x = [ u, v, |u - v|, u · v ],      p = softmax(W x + b)

u and v are the embeddings of premise and hypothesis. The head is a logistic regression on frozen
features, fitted on other pairs; its strength is chosen on a fifth of them. Chance is always
predicting the most common class.

Sources: Conneau et al. 2017 (InferSent), the features; Boecking et al. 2022 (BioViL), which transfers
from MedNLI to RadNLI, with the encoder fine-tuned.
"""

from collections import Counter
from typing import Any

import numpy as np

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, Texts, embed_texts, label_of, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._accuracy import hit_rates
from diptych.evaluation.suites._features import split
from diptych.linear import classifier, hits

card = {
    "title": "Natural language inference by a linear head",
    "needs": ["texts.caption", "texts.question", "labels.entailment"],
    "abilities": ["embed_texts"],
}


def ready(model: Any, source: Source, *, train: Source | str | None = None, seed: int = 0) -> None:
    """Raise InputError for training pairs of other classes."""
    halves = split(source, train, seed)
    for name in card["needs"]:
        if name not in halves.train.schema():
            raise InputError(f"nli needs {name}, which {halves.train.name} does not give")
    own, other = (
        each.schema()["labels.entailment"].classes for each in (halves.test, halves.train)
    )
    if own != other:
        raise InputError(
            f"{source.name} has the classes {', '.join(own)}, and {halves.train.name} {', '.join(other)}"
        )


def nli(
    model: Any,
    source: Source,
    *,
    train: Source | str | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `top1` and `mean_per_class` of the label entailment.

    A premise is the caption of a sample, a hypothesis its question. `train`, a source or its spec,
    trains the head, which is tested on `source`; without it `source` is split by the seed. Also
    returned: `n` pairs, `n_train`, C, the chance values, `bad` samples by reason, and the protocol.
    """
    ready(model, source, train=train, seed=seed)
    halves = split(source, train, seed)
    bad = Counter[str]()
    texts = Texts()

    def pair(sample: Sample) -> tuple[int, int, int]:
        premise = sample.captions()
        hypothesis = sample.captions("question")
        if not premise or not hypothesis:
            raise BadSample("no-pair", f"{sample.key} has no premise and hypothesis")
        return texts.add(premise[0]), texts.add(hypothesis[0]), int(label_of(sample, "entailment"))

    pairs = [np.array(read_texts(half, pair, bad)) for half in (halves.train, halves.test)]
    vectors = embed_texts(
        model, texts.written, batch_size=batch_size, steps=Steps(progress, len(texts))
    ).numpy()
    x, test_x = (features(vectors[own[:, 0]], vectors[own[:, 1]]) for own in pairs)
    y, test_y = (own[:, 2] for own in pairs)
    line, strength = classifier(x, y, seed=seed)
    protocol = protocol_of(
        "nli",
        source,
        model,
        field="entailment",
        rule="logistic regression on [u, v, |u - v|, u v], C by a fifth kept aside; ties lose",
        options=(*halves.options, f"seed={seed}"),
    )
    return {
        "n": len(test_y),
        "n_train": len(y),
        "C": strength,
        **hit_rates(hits(line, test_x, test_y), y, test_y),
        "bad": dict(bad),
    } | describe(protocol, model)


def features(premise: np.ndarray, hypothesis: np.ndarray) -> np.ndarray:
    """The features (N, 4 E) of embeddings (N, E) of premises and hypotheses.

    >>> features(np.array([[1.0, 0.5]]), np.array([[0.0, 0.5]]))
    array([[1.  , 0.5 , 0.  , 0.5 , 1.  , 0.  , 0.  , 0.25]])
    """
    difference = np.abs(premise - hypothesis)
    return np.concatenate([premise, hypothesis, difference, premise * hypothesis], axis=1)
