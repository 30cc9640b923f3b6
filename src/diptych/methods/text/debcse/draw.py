"""The draw of the pairs of an epoch: candidates of every sentence, their probabilities, and the
columns of what was drawn.

Dimensions: N sentences, C candidates that are made of a sentence, E embedding, h negatives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.sample import Source
from diptych.data.surface import Numbered, Words, surface_similarity
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import TextView
from diptych.methods.text.debcse.candidates import (
    EPOCH,
    NEGATIVE,
    NEGATIVES,
    POSITIVE,
    POSITIVES,
    SEED,
    Lines,
    Own,
    draw_key,
    meaning,
    near,
)
from diptych.methods.text.debcse.sampler import PairSampler, Pool, Side, draw
from diptych.rng import generator
from diptych.towers.dual import DualEncoder

WORDS = 64
"""The words of a sentence by which the weights "ipw" compare surfaces; later ones are left out."""


@dataclass(frozen=True)
class Pairs:
    """What was drawn, as columns of the data, and from which candidates."""

    pool: Pool
    columns: dict[str, np.ndarray]


@dataclass(frozen=True)
class Made:
    """The candidates that are made of sentences: origins, meanings and surfaces (N, C), embeddings
    (N, C, E)."""

    origins: np.ndarray
    meaning: np.ndarray
    surface: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class Draw:
    """Draws pairs by a sampler, from candidates of `own` and near sentences; `config` is the
    method's."""

    sampler: PairSampler
    own: Own
    config: Any

    def of(self, run: Any, source: Source, encoder: DualEncoder, tokenizer: Tokenizer) -> Pairs:
        """Return the pairs of an epoch, by the embeddings of a teacher."""
        seed = run.at.seed
        epoch = run.at.epoch
        rng = generator(seed, "pairs", epoch)
        own = [
            self.own.of(source[row], self.config.role, *draw_key(seed, epoch, row))
            for row in range(len(source))
        ]
        texts = [each[0] for each in own]
        numbered = Numbered()
        words = numbered.words(texts)

        def embedded(texts: Source, role: str = "caption") -> np.ndarray:
            return _embedded(run, texts, role, encoder, tokenizer)

        vectors = embedded(source, self.config.role)
        further = [text for each in own for text in each[1:]]
        changed = embedded(Lines(further)) if further else vectors[:0]
        made = self._made(own, words, vectors, changed, numbered)
        positives, negatives = self._sides(run, source, vectors, words, made, rng)
        place = draw(positives.probability, 1, rng)
        chosen = np.take_along_axis(positives.origins, place, 1)[:, 0]
        places = draw(negatives.probability, self.config.negatives, rng)
        columns = {
            POSITIVES: chosen,
            SEED: np.full(len(texts), seed),
            EPOCH: np.full(len(texts), epoch),
            NEGATIVES: _taken(negatives.origins, places, -1),
            "negative_surface": _taken(negatives.surface, places, 0.0),
            "of_anchor": vectors,
            "of_positive": _chosen(chosen, vectors, made),
            "equal": _equal(texts),
        }
        if self.config.weight == "ipw":
            said = [
                texts[at] if at >= 0 else own[row][-1 - at]
                for row, at in enumerate(chosen.tolist())
            ]
            columns |= {
                "words_anchor": _padded(words),
                "words_positive": _padded(numbered.words(said)),
            }
        pool = Pool(
            texts=texts,
            own=own,
            kinds=self.own.names,
            positives=positives,
            negatives=negatives,
            drawn=columns[NEGATIVES],
        )
        return Pairs(pool, columns)

    def _sides(
        self,
        run: Any,
        source: Source,
        vectors: np.ndarray,
        words: Words,
        made: Made,
        rng: np.random.Generator,
    ) -> tuple[Side, Side]:
        """The candidates of positives, which are made or near, and those of negatives."""
        config = self.config
        found = near(
            run,
            source,
            vectors,
            words,
            np.sort(rng.permutation(len(source))[: config.corpus]),
            {POSITIVE: config.neighbours, NEGATIVE: config.pool},
            config.max_negative if config.guard else 1.0,
            config.surface,
        )
        by = found[POSITIVE]
        m = np.concatenate([made.meaning, by.meaning], 1)
        s = np.concatenate([made.surface, by.surface], 1)
        positives = Side(
            origins=np.concatenate([made.origins, by.rows], 1),
            meaning=m,
            surface=s,
            probability=self.sampler.positives(m, s),
        )
        other = found[NEGATIVE]
        negatives = Side(
            origins=other.rows,
            meaning=other.meaning,
            surface=other.surface,
            probability=self.sampler.negatives(other.meaning, other.surface),
        )
        return positives, negatives

    def _made(
        self,
        own: Sequence[Sequence[str]],
        words: Words,
        vectors: np.ndarray,
        further: np.ndarray,
        numbered: Numbered,
    ) -> Made:
        """The candidates that are made of sentences; `further` are the embeddings of all but the
        sentences themselves, one after another."""
        sizes = np.array([len(each) for each in own])
        shape = (len(own), int(sizes.max()))
        real = np.arange(shape[1]) < sizes[:, None]
        changed = real.copy()
        changed[:, 0] = False
        embeddings = np.zeros((*shape, vectors.shape[1]), vectors.dtype)
        embeddings[:, 0] = vectors
        embeddings[changed] = further
        cosine = np.einsum("nce,ne->nc", embeddings, vectors)
        m = np.where(real, meaning(cosine), -np.inf)
        m[:, 0] = 1.0  # exactly
        surface = np.zeros(shape)
        surface[:, 0] = 1.0
        anchors = [words[row] for row in np.nonzero(changed)[0].tolist()]
        others = numbered.words([text for each in own for text in each[1:]])
        surface[changed] = surface_similarity(anchors, others, self.config.surface)
        origins = np.broadcast_to(-1 - np.arange(shape[1]), shape)
        return Made(origins, m, surface, embeddings)


def _embedded(
    run: Any, source: Source, role: str, encoder: DualEncoder, tokenizer: Tokenizer
) -> np.ndarray:
    """The teacher's unit vectors (N, E) of the first texts of a role."""

    def embedded(batch: Batch) -> dict[str, Tensor]:
        return {"vector": encoder.embed_texts(*batch.text.flat)}

    return run.map(embedded, [TextView(tokenizer=tokenizer, role=role)], source)["vector"]


def _chosen(chosen: np.ndarray, vectors: np.ndarray, made: Made) -> np.ndarray:
    """The embeddings (N, E) of the positives that were drawn."""
    of_itself = made.vectors[np.arange(len(chosen)), (-1 - chosen).clip(0)]
    return np.where((chosen >= 0)[:, None], vectors[chosen.clip(0)], of_itself)


def _taken(values: np.ndarray, places: np.ndarray, absent: float) -> np.ndarray:
    """The values (N, K) at places (N, h), `absent` at -1."""
    if not places.size:
        return np.zeros(places.shape, values.dtype)
    taken = np.take_along_axis(values, places.clip(0), 1)
    return np.where(places >= 0, taken, np.array(absent, values.dtype))


def _equal(texts: Sequence[str]) -> np.ndarray:
    """A number for each text, the same for those that differ in case and outer spaces alone."""
    return np.unique([text.strip().lower() for text in texts], return_inverse=True)[1]


def _padded(words: Words) -> np.ndarray:
    """The first words of each text (N, WORDS), -1 behind them."""
    found = np.full((len(words), WORDS), -1)
    for row, each in enumerate(words):
        found[row, : len(each)] = each[:WORDS]
    return found
