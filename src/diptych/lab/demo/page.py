"""The demo's report as one HTML page: the measurements and the search results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from diptych.data.drawings import concepts
from diptych.lab import report
from diptych.lab.demo.trial import LOOKUP, TARGETS, Placed, Trial
from diptych.rng import generator


class Found(Protocol):
    """One image that a search returned."""

    @property
    def score(self) -> float: ...

    @property
    def position(self) -> int: ...

    @property
    def caption(self) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class Queries:
    """The queries of the report: names and drawings of concepts (by index), and words that are not
    names."""

    names: tuple[int, ...]
    words: tuple[str, ...]
    drawings: tuple[int, ...]

    @classmethod
    def draw(cls, trial: Trial, seed: int, count: int = 5) -> "Queries":
        """Sample concepts at random, independent of results; the words were fixed before any
        result."""
        gallery = trial.source(trial.learnt, trial.held_out)
        lot = (
            generator(seed, "shown")
            .permutation(np.unique(gallery.labels("concept")))[: 2 * count]
            .tolist()
        )
        words = (
            "something sweet to eat",
            "rainy weather",
            "musical instrument",
            "animal in the sea",
            "very angry",
        )
        return cls(names=tuple(lot[:count]), words=words, drawings=tuple(lot[count:]))

    def asked(self, trial: Trial) -> list[str | Image.Image]:
        """Return the queries in order: names, words, drawings by the first training design."""
        names = [concepts()[index]["name"] for index in self.names]
        return [
            *names,
            *self.words,
            *(drawing(trial, trial.designs[0], index) for index in self.drawings),
        ]


def drawing(trial: Trial, design: str, concept: int) -> Image.Image:
    """Return one drawing of a training concept."""
    source = trial.source(trial.learnt, design)
    return (
        source[int(np.flatnonzero(source.labels("concept") == concept)[0])].images["main"].decode()
    )


_CREDITS = {
    "noto": ("Noto Emoji", "Google", "Apache-2.0", "github.com/googlefonts/noto-emoji"),
    "fluent-flat": ("Fluent Emoji", "Microsoft", "MIT", "github.com/microsoft/fluentui-emoji"),
    "emojione": ("EmojiOne 2", "EmojiOne", "CC-BY-4.0", "github.com/joypixels/emojione"),
    "twemoji": (
        "Twemoji",
        "Twitter, Inc. and other contributors",
        "CC-BY-4.0",
        "github.com/twitter/twemoji",
    ),
}


def compose(
    trial: Trial,
    metrics: Mapping[str, Any],
    losses: Sequence[tuple[float, float]],
    queries: Queries,
    found: Sequence[Sequence[Found]],
) -> str:
    """The whole report."""
    design = metrics["unseen_design"]
    unseen = metrics["unseen_concepts"]
    lead = (
        f"A dual encoder learnt from scratch in {metrics['seconds_train']:.0f} seconds which images belong to which "
        f"words, from emoji of {len(trial.designs)} designs ({', '.join(trial.designs)}). Here it meets a design that "
        f"it never saw, {trial.held_out}, and concepts that it never saw."
    )
    numbers = report.figures(
        (
            report.share(design["placed"]["t2i_r5"]),
            "of names find their image among the first 5, moved and recoloured",
        ),
        (report.share(design["plain"]["t2i_r5"]), "the same, on white"),
        (report.share(unseen["t2i_r5"]), "the same, for concepts it never saw"),
        (
            f"{metrics['steps']:,}",
            f"steps in {metrics['seconds_train']:.0f} s, seed {metrics['seed']}",
        ),
    )
    return report.page(
        "Words and images, on one hinge",
        lead,
        numbers,
        _tests(trial, metrics),
        _examples(trial, metrics["seed"]),
        *_searches(trial, queries, found),
        _training(trial, losses),
        _credits(trial),
    )


def _training(trial: Trial, losses: Sequence[tuple[float, float]]) -> str:
    drawings = trial.source(trial.learnt, *trial.designs)
    many = f"{len(drawings):,} drawings of {len(set(drawings.labels('concept'))):,} concepts."
    note = f"{many} The contrastive loss of each step, and its running mean."
    return report.section("Training", note, report.curve(losses, x="step", y="loss"))


def _tests(trial: Trial, metrics: Mapping[str, Any]) -> str:
    def group(title: str, values: Mapping[str, Any], target: float) -> tuple[str, list[report.Bar]]:
        n = values["n"]
        ways = (("t2i_r1", "name → image, R@1"), ("t2i_r5", "name → image, R@5"))
        ways += (("i2t_r1", "image → name, R@1"), ("i2t_r5", "image → name, R@5"))
        rows = [
            report.Bar(label=label, value=values[key], chance=int(key[-1]) / n)
            for key, label in ways
        ]
        looked_up = values.get("pixel_lookup_r5")
        rows[1] = report.Bar(
            label=ways[1][1], value=values["t2i_r5"], chance=5 / n, lookup=looked_up, target=target
        )
        return f"{title} ({n:,} names, {n:,} images)", rows

    design = metrics["unseen_design"]
    note = (
        "R@k: the share of queries whose one right answer is among the first k; a tie counts as a miss. The look-up "
        f"uses no learning: it takes the images nearest in {LOOKUP} × {LOOKUP} pixels to a training drawing of the "
        "name."
    )
    return report.section(
        "Does it know things by name, whoever drew them?",
        note,
        report.bars(
            [
                group(
                    f"{trial.held_out}, placed: moved, shrunk, on a random colour",
                    design["placed"],
                    TARGETS["placed"],
                ),
                group(f"{trial.held_out}, plain: on white", design["plain"], TARGETS["plain"]),
                group(
                    f"Concepts never seen, by {trial.designs[0]}",
                    metrics["unseen_concepts"],
                    TARGETS["concepts"],
                ),
            ]
        ),
    )


def _examples(trial: Trial, seed: int, count: int = 4) -> str:
    plain = trial.source(trial.learnt, trial.held_out)
    placed = Placed(plain, seed)
    common = set(plain.labels("concept"))
    for design in trial.designs:
        common &= set(trial.source(trial.learnt, design).labels("concept"))
    rows = []
    for concept in generator(seed, "examples").permutation(sorted(common))[:count].tolist():
        at = int(np.flatnonzero(plain.labels("concept") == concept)[0])
        shown = [
            report.Shown(image=drawing(trial, design, concept), caption=design)
            for design in trial.designs
        ]
        shown += [
            report.Shown(
                image=source[at].images["main"].decode(),
                caption=f"{trial.held_out}, {source_name}",
                hit=True,
            )
            for source, source_name in ((plain, "plain"), (placed, "placed"))
        ]
        rows.append((concepts()[concept]["name"], shown))
    return report.section(
        "What it learnt from, and what it is asked",
        f"Some names with their training drawings, and ringed the drawings of {trial.held_out}, which it never saw.",
        report.finds(rows),
    )


def _searches(trial: Trial, queries: Queries, found: Sequence[Sequence[Found]]) -> list[str]:
    gallery = trial.source(trial.learnt, trial.held_out)
    labels = gallery.labels("concept")

    def shown(hits: Sequence[Found], right: int | None) -> list[report.Shown]:
        return [
            report.Shown(
                image=gallery[hit.position].images["main"].decode(),
                caption=f"{hit.caption}\n{hit.score:.2f}",
                hit=bool(labels[hit.position] == right),
            )
            for hit in hits
        ]

    asked = queries.asked(trial)
    rights = [*queries.names, *[None] * len(queries.words), *queries.drawings]
    rows: list[tuple[str | report.Shown, list[report.Shown]]] = []
    for query, right, hits in zip(asked, rights, found, strict=True):
        if not isinstance(query, str):
            assert right is not None
            query = report.Shown(
                image=query, caption=f"{concepts()[right]['name']}, by {trial.designs[0]}"
            )
        rows.append((query, shown(hits, right)))
    texts = len(queries.names) + len(queries.words)
    return [
        report.section(
            "Search by text",
            f"The nearest of {len(gallery):,} images by {trial.held_out}, with their cosines. The first "
            f"{len(queries.names)} texts are names drawn by lot, their images ringed; the others are nobody's name.",
            report.finds(rows[:texts]),
        ),
        report.section(
            "Search by image",
            f"The same images, nearest to a drawing by {trial.designs[0]}, drawn by lot; the same concept is ringed.",
            report.finds(rows[texts:]),
        ),
    ]


def _credits(trial: Trial) -> str:
    rows = [_CREDITS[design] for design in (*trial.designs, trial.held_out)]
    rows.append(
        (
            "Names and tags",
            "Unicode CLDR, by way of emojibase-data",
            "MIT",
            "github.com/milesj/emojibase",
        )
    )
    return report.section(
        "Credits",
        "Changes: the drawings are rasterised and, in the tests, shrunk, moved and laid on colours. Licences: "
        "apache.org/licenses/LICENSE-2.0, opensource.org/license/mit, creativecommons.org/licenses/by/4.0.",
        report.table(("drawings", "by", "licence", "from"), rows),
    )
