"""ProAPO: Progressively Automatic Prompt Optimization for Visual Classification (Qu et al., CVPR
2025).

An evolutionary search, without gradients, for prompts in natural language that classify a few
labelled images well: first templates for the task, then sentences that describe each class. The
sentences come from a language model, and some are wrong or useless.

    t_c = unit( mean_k unit(text(p_ck)) ),    F = 0.5 top1(%) - 10 CE      (`fitness.py`)

Stage `templates`: templates that cost the top1 of two classes or more, compared with `template`,
leave the library. The search starts from four single templates and runs for `generations`
(`evolution.py`). Stage `descriptions`, where there are sentences or synonyms: the search starts
from the fittest of all sentences, the names alone and 32 random samples. In each of `rounds` it
selects groups of classes, and searches the names and sentences of each group for 4 generations
(`descriptions.py`). The fitness on the training images decides everything. Every string is encoded
once; candidates are computed from stored embeddings. Inference: zero-shot classification with the
prompts that were found; a new class name is used with the templates alone.

The published code sets the weights of the fitness for each data set, and evaluates on the test
images every epoch. Here one setting serves all data sets, and only training images are used. The
published code uses positions in a sorted list as class labels, and groups begin with the class of
the lowest cross-entropy; here they are labels, and groups begin with the highest [ours].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.descriptions import of_classes
from diptych.data.sample import Source
from diptych.data.templates import filled, templates, with_types
from diptych.methods.adapt.proapo.descriptions import DescriptionSearch
from diptych.methods.adapt.proapo.evolution import Archive, Operators, SearchSpace, evolve
from diptych.methods.adapt.proapo.fitness import (
    PromptScorer,
    Scores,
    Weights,
    class_embeddings,
    tolerance,
)
from diptych.methods.adapt.proapo.groups import require_scikit_learn
from diptych.methods.adapt.proapo.prompt_sets import PromptSets
from diptych.methods.adapt.proapo.units import unit_masks, units_of
from diptych.methods.base import Stage
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
from diptych.methods.make import Make
from diptych.models.class_prompts import Unit, cut, prompts
from diptych.rng import generator
from diptych.spec import Count
from diptych.towers.dual import DualEncoder

card = {
    "title": "ProAPO: Progressively Automatic Prompt Optimization for Visual Classification",
    "year": 2025,
    "kind": "method",
    "entry": "ProAPO",
    "provenance": "code",
}

GROUP_GENERATIONS = 4  # of the search in one group of classes


@dataclass(frozen=True, kw_only=True)
class Config(ClassifyConfig):
    """`templates` is the library: a bank or a file (`data.templates`). `types` are words for what
    the classes are, such as "pet"; each adds variants of every template. `max_templates` limits the library
    to the fittest templates (None: no limit). `descriptions` and `synonyms` are JSON files
    (`data.descriptions`). `w1`, `w5`, `w_r` and `w_ce` are the weights of the fitness.
    """

    templates: str = "imagenet"
    types: tuple[str, ...] = ()
    max_templates: Count | None = None
    descriptions: str | None = None
    synonyms: str | None = None
    generations: Count = 8
    rounds: Count = 3
    groups: Count = 4
    w1: float = 0.5
    w5: float = 0.0
    w_r: float = 0.0
    w_ce: float = 10.0


class ProAPO(Classify):
    """Templates and sentences chosen by evolution.

    Two buffers hold the choice as bits: `of_templates` (T,) of the library, `of_units` (C, K) of
    each class's units.
    """

    Config = Config
    test_options: ClassVar = {
        "descriptions": str(Path(__file__).parents[3] / "testing" / "toy.json")
    }
    model: PromptSets
    of_templates: Tensor
    of_units: Tensor

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return "info {run}", *super().next_steps(options)

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.weights = Weights(
            top1=config.w1, top5=config.w5, similarity=config.w_r, cross_entropy=config.w_ce
        )
        self.operators = Operators()
        self.library: tuple[str, ...] = ()
        self.units: tuple[tuple[Unit, ...], ...] = ()
        self.register_buffer("of_templates", torch.zeros(0, dtype=torch.bool))
        self.register_buffer("of_units", torch.zeros(0, 0, dtype=torch.bool))

    def build(self, encoder: DualEncoder) -> PromptSets:
        return PromptSets(encoder, self.make.tokenizer, self.config.template.lower())

    @property
    def describes(self) -> bool:
        """Whether there is more than the class names to choose from for each class."""
        return bool(self.config.descriptions or self.config.synonyms)

    def stages(self) -> Sequence[Stage]:
        stages = [Stage(name="templates", prepare=self.search_templates, optimize=False)]
        if self.describes:
            stages.append(
                Stage(name="descriptions", prepare=self.search_descriptions, optimize=False)
            )
        return stages

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Read the class names, the templates, and the sentences and synonyms of each class.

        A loaded model reads none of these files. Raises InputError where a file lacks a class, and
        where the search for descriptions lacks scikit-learn.
        """
        super().setup(sources)
        names = self.model.classes
        if not names:
            return  # the source lacks the label; the engine reports all missing fields together
        if self.describes:
            require_scikit_learn()
        config = self.config
        library = with_types([config.template, *templates(config.templates)], config.types)
        self.library = tuple(
            dict.fromkeys(template.lower() for template in library)
        )  # `template` comes first
        self.of_templates = torch.zeros(len(self.library), dtype=torch.bool)
        none = ((),) * len(names)
        sentences = of_classes(config.descriptions, names) if config.descriptions else none
        synonyms = of_classes(config.synonyms, names) if config.synonyms else none
        self.units = tuple(map(units_of, names, sentences, synonyms))
        self.of_units = torch.zeros(unit_masks(self.units)[0].shape, dtype=torch.bool)

    def deliver(self) -> PromptSets:
        """The classifier with the chosen prompts; a resumed run reads the choice from the
        buffers."""
        if self.of_templates.any():
            chosen = [
                template
                for template, bit in zip(self.library, self.of_templates, strict=True)
                if bit
            ]
            units = {}
            for name, own, bits in zip(
                self.model.classes, self.units, self.of_units.tolist(), strict=True
            ):
                if any(bits):
                    units[name] = [unit for unit, bit in zip(own, bits, strict=False) if bit]
            self.model.choose(chosen, units)
        return self.model

    # ---- the search

    @torch.no_grad()
    def search_templates(self, run: Any) -> None:
        """Select templates from the library."""
        scorer = self._scorer(run)
        names = self.model.classes
        embeddings = self._embed(
            run, [[filled(template, name) for template in self.library] for name in names]
        )

        def score(rows: np.ndarray) -> Scores:
            return scorer.score(
                class_embeddings(torch.from_numpy(rows).to(embeddings.device), embeddings)
            )

        single = np.eye(len(self.library), dtype=bool)
        scores = score(single)
        free = scores.top1[0] - scores.top1 < tolerance(len(names))
        order = np.argsort(-scores.fitness, kind="stable")
        free[order[free[order]][self.config.max_templates or len(order) :]] = False
        rng = generator(run.at.seed, "proapo", "templates")
        first = rng.permutation(np.flatnonzero(free))[: self.operators.parents]
        archive = Archive(single[first], scores.fitness[first])
        space = SearchSpace(free=free, start=np.zeros_like(free), owner=np.zeros(len(free), int))
        generations = self.config.generations
        best = evolve(
            archive,
            lambda rows, origin: score(rows).fitness,
            space,
            self.operators,
            rng,
            generations,
            _fitness_callback(run, archive, 0, generations),
        )
        self.of_templates.copy_(torch.from_numpy(best))
        self.deliver()

    @torch.no_grad()
    def search_descriptions(self, run: Any) -> None:
        """Select names and sentences of each class, with the templates that were selected
        before."""
        chosen = self.deliver().templates
        exists, name_only = unit_masks(self.units)
        texts = [prompts(unit, chosen) for units in self.units for unit in units]
        embeddings = torch.zeros(*exists.shape, self.model.encoder.embed_dim, device=run.device)
        embeddings[torch.from_numpy(exists)] = self._embed(run, texts).mean(1)
        search = DescriptionSearch(self._scorer(run), embeddings, exists, name_only, run.at.seed)
        operators = replace(self.operators, mutate=self.operators.mutate // 2)
        most = GROUP_GENERATIONS * self.config.rounds * self.config.groups
        done = 0
        for _ in range(self.config.rounds):
            for group in self.select_groups(search):
                search.evolve(
                    group,
                    operators,
                    GROUP_GENERATIONS,
                    _fitness_callback(run, search.archive, done, most),
                )
                done += GROUP_GENERATIONS
        self.of_units.copy_(torch.from_numpy(search.best))
        self.deliver()

    def select_groups(self, search: DescriptionSearch) -> list[np.ndarray]:
        """Return the first `groups` groups of two classes or more; salient and confused groups
        alternate [ours]."""
        pairs = zip_longest(search.salient(), search.confused(), fillvalue=())
        groups = [group for pair in pairs for group in pair if len(group) > 1]
        return groups[: self.config.groups]

    def _scorer(self, run: Any) -> PromptScorer:
        """Return the scorer of candidates on all training images."""

        def read(batch: Batch) -> dict[str, Tensor]:
            labels: Any = batch.fields["class"]
            return {"image": self.model.image_features(batch.image.flat), "label": labels}

        columns = run.map(read, self.views(self.stages()[0]), run.sources["train"])
        images = torch.from_numpy(columns["image"]).to(run.device)
        labels = torch.from_numpy(columns["label"]).to(run.device).long()
        return PromptScorer(images, labels, float(self.model.encoder.logit_scale()), self.weights)

    def _embed(self, run: Any, texts: Sequence[Sequence[str]]) -> Tensor:
        """Return the embeddings (R, T, E) of R rows of T texts, unit vectors; each different text
        is encoded once."""
        flat = [text for row in texts for text in row]
        index = {text: number for number, text in enumerate(dict.fromkeys(flat))}
        if note := cut(self.make.tokenizer, list(index)):
            run.warn(note)
        embeddings = self.model.embed(list(index))
        return embeddings[[index[text] for text in flat]].unflatten(0, (len(texts), -1))


def _fitness_callback(run: Any, archive: Archive, before: int, total: int) -> Callable[[int], None]:
    """Return a callback that logs the best fitness after a generation, as step `before` +
    generation of `total`."""

    def log(generation: int) -> None:
        best = float(archive.fitness.max())
        run.note(before + generation, total, -best, fitness=best, sets=float(len(archive.rows)))

    return log


ProAPO.presets = {
    "small": replace(SMALL, config={"templates": "images", "descriptions": None}),
    "paper": replace(
        PAPER,
        config={"descriptions": None},
        image="vit:image_size=224:patch=32:width=768:depth=12:heads=12:pre_norm=true",
    ),
}
