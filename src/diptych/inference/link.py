"""Record linkage with a loaded model: the exemplar that a record belongs to, and clusters of records.

Dimensions: N records, E embedding.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from diptych.data.sample import Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps
from diptych.evaluation.suites._links import best_cut, best_threshold, link, split, tree
from diptych.evaluation.suites._records import (
    Records,
    by_model,
    label_of_entities,
    read_records,
)
from diptych.evaluation.suites.retrieval import role_of
from diptych.methods.abilities import require
from diptych.metrics import nearest
from diptych.rng import generator
from diptych.spec import Cosine, CosineDistance, check_value
from diptych.towers.dual import pooled


@dataclass(frozen=True)
class Link:
    """A record by its key, the nearest exemplar, or None if none is similar enough, and the
    similarity."""

    source: str
    target: str | None
    similarity: float


@dataclass(frozen=True)
class Cluster:
    """A record by its key, and the number of its cluster."""

    key: str
    cluster: int


@dataclass
class Linker:
    """A model that links records, images with a text each.

    - `weight` is that of images, by default the model's own (`record_weight`).
    - `role` is the role of the texts: caption, or the first of a source.
    - `threshold` is the least similarity of a link, `distance` the largest distance in a cluster.
      `tune` sets both, and for clusters the weight.

    `bad` are samples that could not be used, by reason.
    """

    model: Any
    weight: float | None = None
    role: str | None = None
    threshold: float = -np.inf
    distance: float | None = None
    batch_size: int = 64
    exact: bool = False
    progress: Progress | None = None
    bad: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for ability in ("embed_images", "embed_texts"):
            require(self.model, ability, "linking records", getattr(self.model, "name", None))
        if self.weight is not None and not 0 <= self.weight <= 1:
            raise InputError(f"weight is {self.weight}; it is the share of the image, from 0 to 1")
        if self.threshold != -np.inf:
            check_value("threshold", float(self.threshold), Cosine)
        if self.distance is not None:
            check_value("distance", float(self.distance), CosineDistance)
        own = getattr(self.model, "record_weight", 0.5)
        self.link_weight = own if self.weight is None else self.weight
        self.cluster_weight = self.link_weight
        self._targets: tuple[np.ndarray, Tensor] | None = None

    def index(self, targets: Source) -> None:
        """Embed the exemplars."""
        records = self._read(targets)
        self._targets = records.keys, self._embedded(records)

    def link(self, queries: Source) -> list[Link]:
        """Return the nearest exemplar of each query that could be read, in order."""
        assert self._targets is not None, "index comes first"
        keys, exemplars = self._targets
        records = self._read(queries)
        rows, scores = nearest(self._embedded(records), exemplars, 1)
        return [
            Link(str(key), str(keys[row]) if score >= self.threshold else None, float(score))
            for key, row, score in zip(records.keys, rows[:, 0], scores[:, 0], strict=True)
        ]

    def cluster(self, records: Source) -> list[Cluster]:
        """Return the cluster of each record that could be read, numbered in order of appearance.

        Raises InputError if the distance is neither given nor tuned.
        """
        if self.distance is None:
            raise InputError(
                "clusters have no largest distance; give one, or records to tune it on"
            )
        read = self._read(records)
        found = tree(read, by_model(self.cluster_weight)).cut(self.distance)
        number = {each: at for at, each in enumerate(dict.fromkeys(found.tolist()))}
        return [
            Cluster(str(key), number[each])
            for key, each in zip(read.keys, found.tolist(), strict=True)
        ]

    def tune(self, records: Source, *, label: str | None = None, trials: int = 32) -> None:
        """Choose `threshold` by the accuracy of links, and `distance` with the weight of images in
        clusters, unless one was given, by the adjusted Rand index, on records with an entity.

        Raises InputError if no entity has two records.
        """
        read = self._read(records, label_of_entities(records, label))
        exemplars, queries = split(read)
        links = link(read.at(queries), read.at(exemplars), by_model(self.link_weight))
        if not links.known.any():
            raise InputError(
                f"{records.name} has no entity with two records, so it tells no threshold; name other records"
            )
        self.threshold = best_threshold(links)
        random = generator(0, "weights").random(trials).tolist()
        weights = random if self.weight is None else [self.weight]
        cut = best_cut(read, by_model, weights, progress=self.progress)
        self.distance = cut.distance
        self.cluster_weight = cut.weight

    def _read(self, source: Source, label: str | None = None) -> Records:
        role = role_of("linking records", source, self.role)
        steps = Steps(self.progress, 2 * len(source))
        return read_records(
            self.model,
            source,
            role,
            label,
            self.bad,
            exact=self.exact,
            batch_size=self.batch_size,
            steps=steps,
        )

    def _embedded(self, records: Records) -> Tensor:
        return pooled(records.image, records.text, self.link_weight)


def as_rows(found: Sequence[Link] | Sequence[Cluster]) -> list[dict[str, Any]]:
    """Return links as rows of `source_path`, `target_path`, `similarity`, which `ocr.json:links=`
    reads, and clusters as rows of `key`, `cluster`."""
    return [
        {"source_path": each.source, "target_path": each.target, "similarity": each.similarity}
        if isinstance(each, Link)
        else {"key": each.key, "cluster": each.cluster}
        for each in found
    ]
