"""Sentences with known meanings: slots in many wordings, independent of length, with twins of other
meanings.

`meaning` samples and compares meanings, `grammar` writes them, `parse` parses them, `noise`
shuffles, `words` is the vocabulary. docs/worlds/sentences.md shows samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from diptych.data import worlds
from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.typos import TYPOS, misspell
from diptych.data.worlds.sentences.grammar import Wordings, wordings, write
from diptych.data.worlds.sentences.meaning import (
    CORE,
    RELATIONS,
    VALUES,
    Draw,
    Meaning,
    relation,
    similarity,
    unseen,
)
from diptych.data.worlds.sentences.noise import RESERVED_TYPOS, SHUFFLES, shuffle
from diptych.data.worlds.sentences.parse import parse
from diptych.data.worlds.sentences.words import TOPICS
from diptych.errors import InputError, unknown
from diptych.rng import generator
from diptych.spec import several

card = {
    "title": "Sentences whose meaning is known: paraphrases, graded pairs, twins, entailment, typos"
}

SPLITS = ("train", "val", "test")
KINDS = ("visual", "abstract", "both")
ROLES = ("negated", "swapped", *RELATIONS, "typo", "shuffled")
PAIRS = ("graded", "inference")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the world; several values are joined by `+`.

    `split` is train, val or test, three streams; only test contains reserved pairs of values (in
    half of its sentences). `kind` is visual, abstract or both, which is half of each; `negative` is
    the share of negated sentences; `tail` is the exponent of the labels' long tail. `paraphrases`
    and `roles` (negated, swapped, entailment, neutral, contradiction, typo, shuffled) add texts to
    a sample's caption. `page` adds one of role page: that many sentences about the event of the
    caption, each of which states four of its facts in other words. `pair` adds a second sentence of
    role pair: "graded" for one that shares 0 to 7 facts, with equal frequency, "inference" for a
    hypothesis of each relation, with equal frequency. `typos` are the kinds of typos, `typo_rate`
    is the share of longer words with one; `shuffle` is all, or window for three words at a time.
    `pool` is the number of meanings, which recur in other words and lengths; 0 draws a new one for
    each sample. With `event` sentences express the event alone: agent, action, object and the two
    attributes. Without `synonyms` each value has one wording.
    """

    split: str = "train"
    kind: str = "visual"
    negative: float = 0.0
    tail: float = 1.0
    paraphrases: int = 0
    roles: str = ""
    page: int = 0
    pair: str = ""
    typos: str = "swap+drop+double"
    typo_rate: float = 0.3
    shuffle: str = "all"
    pool: int = 0
    event: bool = False
    synonyms: bool = True


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The meaning of a sentence, that of the second sentence of a pair, the seed of the wording,
    and the number of the meaning in a pool, -1 without one."""

    meaning: Meaning
    other: Meaning | None = None
    seed: int
    number: int = -1


class World(worlds.World[Facts]):
    """The world of a `Config`.

    >>> world = World(Config(roles="swapped"))
    >>> for text in world.captions(world.sample(0, 0)):
    ...     print(f"{text.role}: {text.text}")
    caption: At the playhouse, the one who is pilfering the graceful guitar for a pal is the beautiful jester.
    swapped: At the playhouse, the one who is pilfering the beautiful guitar for a pal is the graceful jester.
    """

    name = "sentences"
    kinds = ("negate", "swap")

    def __init__(self, config: Config):
        super().__init__(config)
        for option, choices in (
            ("split", SPLITS),
            ("kind", KINDS),
            ("pair", (*PAIRS, "")),
            ("shuffle", SHUFFLES),
        ):
            if (given := getattr(config, option)) not in choices:
                raise unknown(f"{option} of sentences", given, filter(None, choices))
        self.roles = several("role of sentences", config.roles, ROLES) if config.roles else ()
        self.typos = several("typo of sentences", config.typos, TYPOS)
        self.slots = [slot for slot in VALUES if slot != "stance" or config.kind != "visual"]
        if config.event:
            self.slots = list(CORE)
        self.draw = Draw(
            split=config.split,
            kind=config.kind,
            negative=config.negative,
            tail=config.tail,
            event=config.event,
        )
        self._refuse()

    def _refuse(self) -> None:
        """Raise InputError for options that are out of range or incompatible."""
        config = self.config
        for option, least, most in (
            ("negative", 0, 1),
            ("typo_rate", 0, 1),
            ("tail", 0, 10),
            ("paraphrases", 0, 100),
            ("pool", 0, 10**9),
            ("page", 0, 100),
        ):
            value = getattr(config, option)
            if not least <= value <= most:
                raise InputError(
                    f"{option} of sentences is {value}; it must be from {least} to {most}"
                )
        if config.split != "test" and (
            held := [kind for kind in self.typos if kind in RESERVED_TYPOS]
        ):
            raise InputError(
                f"typos {'+'.join(held)} are reserved for the test split; write split=test, or leave them out"
            )
        inferred = [role for role in self.roles if role in RELATIONS]
        inferred += ["pair=inference"] if config.pair == "inference" else []
        inferred += [f"page={config.page}"] if config.page else []
        if inferred and config.event:
            raise InputError(
                f"{inferred[0]} of sentences states a place, time or recipient, which event=true leaves out"
            )
        visual = [*inferred, *(["event=true"] if config.event else [])]
        if visual and config.kind != "visual":
            raise InputError(
                f"{visual[0]} of sentences describes visual sentences only; write kind=visual"
            )
        if inferred and config.negative:
            raise InputError(
                f"{inferred[0]} of sentences describes affirmative sentences only; write negative=0"
            )

    def key(self, seed: int, index: int) -> str:
        """The unique key of the sample (seed, index)."""
        return f"{self.config.split}-{super().key(seed, index)}"

    def sample(self, seed: int, index: int) -> Facts:
        """The facts of sample `index` of the stream `seed` of the config's split."""
        rng = generator(seed, self.name, self.config.split, index)
        words = int(rng.integers(2**63))
        number = -1
        if self.config.pool:
            number = int(rng.integers(self.config.pool))
            meaning = self.draw.meaning(
                generator(seed, self.name, self.config.split, "pool", number)
            )
        else:
            meaning = self.draw.meaning(rng)
        other = None
        if self.config.pair == "graded":
            other = self.draw.like(meaning, int(rng.integers(len(meaning.facts()) + 1)), rng)
        elif self.config.pair == "inference":
            other = self.draw.hypothesis(meaning, str(rng.choice(RELATIONS)), rng)
        return Facts(meaning=meaning, other=other, seed=words, number=number)

    def edit(self, facts: Facts, kind: str) -> Facts:
        """The facts of the negated twin ("negate"), or of the twin with exchanged attributes
        ("swap").

        Its caption has the same length and differs in nothing else; swapped twins have the same
        words.
        """
        if kind == "negate":
            return replace(
                facts, meaning=replace(facts.meaning, negative=not facts.meaning.negative)
            )
        if kind == "swap":
            return replace(facts, meaning=facts.meaning.swapped())
        return super().edit(facts, kind)

    def captions(self, facts: Facts) -> list[Text]:
        """The caption, and the other texts of the config."""
        return [Text(text=text, role=role) for role, text in self._texts(facts)]

    def _texts(self, facts: Facts) -> Iterator[tuple[str, str]]:
        """Yield (role, text) in order. Paraphrases use the turns 1, 2, … of the wordings, other new
        texts a random one."""
        words = wordings(generator(facts.seed, "words"))
        words = replace(words, synonyms=self.config.synonyms)

        def caption(meaning: Meaning) -> str:
            return write(meaning, words, generator(facts.seed, "caption"))

        def text(meaning: Meaning, role: str) -> str:
            rng = generator(facts.seed, role)
            return write(meaning, replace(words, turn=int(rng.integers(6))), rng)

        first = caption(facts.meaning)
        yield "caption", first
        yield from (("paraphrase", other) for other in self._paraphrases(facts, first, words))
        for role in self.roles:
            rng = generator(facts.seed, "noise", role)
            if role == "negated":
                yield role, caption(self.edit(facts, "negate").meaning)
            elif role == "swapped":
                yield role, caption(self.edit(facts, "swap").meaning)
            elif role in RELATIONS:
                yield role, text(self.draw.hypothesis(facts.meaning, role, rng), role)
            elif role == "typo":
                yield role, misspell(first, self.typos, self.config.typo_rate, rng)
            else:
                yield role, shuffle(first, self.config.shuffle, rng)
        if facts.other is not None:
            yield "pair", text(facts.other, "pair")
        if self.config.page:
            yield "page", " ".join(self._page(facts, words))

    def _page(self, facts: Facts, words: Wordings) -> Iterator[str]:
        """Different sentences about an event, in any order of its facts."""
        found: dict[str, None] = {}
        number = 0
        while len(found) < self.config.page:
            rng = generator(facts.seed, "page", number)
            part = self.draw.hypothesis(facts.meaning, "entailment", rng)
            found[write(part, replace(words, turn=int(rng.integers(6))), rng)] = None
            number += 1
        yield from found

    def _paraphrases(self, facts: Facts, caption: str, words: Wordings) -> list[str]:
        """Different texts of the same meaning."""
        found = [caption]
        for number in range(1, self.config.paraphrases + 1):
            rng = generator(facts.seed, "paraphrase", number)
            while (text := write(facts.meaning, replace(words, turn=number), rng)) in found:
                pass
            found.append(text)
        return found[1:]

    def example(self, facts: Facts, key: str) -> Sample:
        """The sample of some facts: texts, and the labels of slots, topic, label (the object),
        visual, negative, unseen, meaning (of a pool) and pair."""
        meaning = facts.meaning
        other = facts.other
        labels: dict[str, int | float] = {slot: meaning.number(slot) for slot in self.slots}
        labels["label"] = labels["object"]
        labels["topic"] = list(TOPICS).index(meaning.topic or "")
        labels |= {
            "visual": meaning.visual,
            "negative": meaning.negative,
            "unseen": unseen(meaning),
        }
        if self.config.pool:
            labels["meaning"] = facts.number
        labels = {name: int(value) for name, value in labels.items()}
        if other is not None:
            labels["similarity"] = similarity(meaning, other)
            if self.config.pair == "inference":
                labels["relation"] = RELATIONS.index(relation(meaning, other))
        return Sample(key=key, source=self.name, texts=self.captions(facts), labels=labels)

    def schema(self) -> Schema:
        """The texts of the config, and the labels with their class names."""
        asked: dict[str, object] = {
            "caption": True,
            "paraphrase": self.config.paraphrases,
            **dict.fromkeys(self.roles, True),
        }
        asked |= {"pair": self.config.pair, "page": self.config.page}
        roles = [role for role, some in asked.items() if some]
        classes = {
            **{slot: VALUES[slot] for slot in self.slots},
            "label": VALUES["object"],
            "topic": tuple(TOPICS),
            "visual": ("abstract", "visual"),
            "negative": ("affirmed", "denied"),
            "unseen": ("seen", "unseen"),
        }
        pair: dict[str, Field] = {}
        if self.config.pool:
            pair["labels.meaning"] = Field(kind="int")
        if self.config.pair:
            pair["labels.similarity"] = Field(kind="float")
            if self.config.pair == "inference":
                pair["labels.relation"] = Field(kind="int", classes=RELATIONS)
        return {
            **{f"texts.{role}": Field(kind="text") for role in roles},
            **{
                f"labels.{name}": Field(kind="int", classes=names)
                for name, names in classes.items()
            },
            **pair,
        }


__all__ = ["Config", "Facts", "Meaning", "World", "parse", "relation", "similarity", "unseen"]
