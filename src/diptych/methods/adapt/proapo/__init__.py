"""ProAPO: Progressively Automatic Prompt Optimization for Visual Classification (Qu et al., CVPR 2025).

Prompts in plain words are searched, by evolution and without gradients, on a few labelled pictures: first templates for
the task, then the sentences that describe each class, of which a language model has written wrong and useless ones too.

    t_c = unit( mean_k unit(text(p_ck)) ),    F = 0.5 top1(%) - 10 CE      (`prompt_search.fitness`)

Stage `templates`: a library, less what costs two classes' pictures or more against `template`; from 4 single ones on,
`generations` of `prompt_search.evolution`. Stage `descriptions`, where sentences are given: the fittest of all
sentences, the names alone and 32 random samples; then `rounds` over `groups` of classes, each searched for 4
generations among the names and sentences of its classes (`prompt_search.descriptions`). All is chosen by the fitness on
the training pictures.
Every string is encoded once; candidates are sums of what was encoded.
Inference: zero-shot with the prompts that were found; a new name stands in the templates alone.

The published code weighs the fitness anew for each data set and looks at the test pictures every epoch; here one
setting serves all, and nothing but the training pictures is looked at. Where it takes places in a sorted list for
labels of classes, labels are meant, and groups begin with the class that is told worst [ours].
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diptych import collectives
from diptych.data.batch import Batch
from diptych.data.descriptions import of_classes
from diptych.data.sample import Source
from diptych.data.templates import filled, templates, with_types
from diptych.methods.adapt.proapo.descriptions import Descriptions
from diptych.methods.adapt.proapo.evolution import Operators, Record, Room, evolve
from diptych.methods.adapt.proapo.fitness import Judge, Scores, Weights, directions, tolerance
from diptych.methods.adapt.proapo.prompt_sets import PromptSets, Unit, prompts
from diptych.methods.adapt.proapo.units import table, units_of
from diptych.methods.base import Stage
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
from diptych.methods.make import Make
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

log = logging.getLogger(__name__)
INNER = 4  # generations of each search of a group


@dataclass(frozen=True, kw_only=True)
class Config(ClassifyConfig):
    """`templates` is the library, a bank or a file (`data.templates`); `types` are words for what the classes are, such
    as "pet", each of which makes more templates; `most` of them are searched, the fittest (None: all that are kept).
    `descriptions` and `synonyms` are JSON files (`data.descriptions`). `w1`, `w5`, `w_r` and `w_ce` weigh the fitness.
    """

    templates: str = "imagenet"
    types: tuple[str, ...] = ()
    most: Count | None = None
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
    """Templates and sentences chosen by evolution. What was chosen stands in buffers: bits of the library, and of the
    units of each class."""

    Config = Config
    test_options: ClassVar = {"descriptions": str(Path(__file__).parents[2] / "testing" / "toy.json")}
    model: PromptSets
    of_templates: Tensor
    of_units: Tensor

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return "info {run}", *super().next_steps(options)

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.weights = Weights(top1=config.w1, top5=config.w5, alike=config.w_r, entropy=config.w_ce)
        self.operators = Operators()
        self.library: tuple[str, ...] = ()
        self.units: tuple[tuple[Unit, ...], ...] = ()
        self.register_buffer("of_templates", torch.zeros(0, dtype=torch.bool))
        self.register_buffer("of_units", torch.zeros(0, 0, dtype=torch.bool))

    def build(self, encoder: DualEncoder) -> PromptSets:
        return PromptSets(encoder, self.make.tokenizer, self.config.template.lower())

    def stages(self) -> Sequence[Stage]:
        found = [Stage(name="templates", prepare=self.search_templates, optimize=False)]
        if self.config.descriptions or self.config.synonyms:
            found.append(Stage(name="descriptions", prepare=self.search_descriptions, optimize=False))
        return found

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Take the class names, the templates, and what the files say of the classes: a model that is loaded needs none
        of them. Raises InputError where a file lacks a class."""
        super().setup(sources)
        names = self.model.classes
        if not names:
            return  # there is no label, which is told with all that is missing
        given = with_types([self.config.template, *templates(self.config.templates)], self.config.types)
        self.library = tuple(dict.fromkeys(template.lower() for template in given))  # `template` is the first
        self.of_templates = torch.zeros(len(self.library), dtype=torch.bool)
        nothing = ((),) * len(names)
        files = self.config.descriptions, self.config.synonyms
        told, called = (of_classes(path, names) if path else nothing for path in files)
        self.units = tuple(map(units_of, names, told, called))
        self.of_units = torch.zeros(table(self.units)[0].shape, dtype=torch.bool)

    def deliver(self) -> PromptSets:
        """The classifier with what was chosen, which a resumed run finds in the buffers."""
        if self.of_templates.any():
            chosen = [template for template, bit in zip(self.library, self.of_templates, strict=True) if bit]
            held = {
                name: [unit for unit, bit in zip(units, bits, strict=False) if bit]
                for name, units, bits in zip(self.model.classes, self.units, self.of_units.tolist(), strict=True)
                if any(bits)
            }
            self.model.choose(chosen, held)
        return self.model

    # ---- the search

    @torch.no_grad()
    def search_templates(self, run: Any) -> None:
        """Choose among the templates."""
        judge, names = self._judge(run), self.model.classes
        vectors = self._embed([[filled(template, name) for template in self.library] for name in names])
        single = np.eye(len(self.library), dtype=bool)

        def score(rows: np.ndarray) -> Scores:
            return judge.whole(directions(torch.from_numpy(rows).to(vectors.device), vectors))

        alone = score(single)
        free = alone.top1[0] - alone.top1 < tolerance(len(names))
        order = np.argsort(-alone.fitness, kind="stable")
        free[order[free[order]][self.config.most or len(order) :]] = False
        rng = generator(run.at.seed, "proapo", "templates")
        first = rng.permutation(np.flatnonzero(free))[: self.operators.parents]
        record = Record(single[first], alone.fitness[first])
        room = Room(free=free, start=np.zeros_like(free), owner=np.zeros(len(free), int))
        steps = self.config.generations
        best = evolve(
            record, lambda rows, origin: score(rows).fitness, room, self.operators, rng, steps,
            partial(_tell, run, record, 0, steps),
        )  # fmt: skip
        self.of_templates.copy_(torch.from_numpy(best))
        self.deliver()

    @torch.no_grad()
    def search_descriptions(self, run: Any) -> None:
        """Choose among the names and sentences of each class, under the templates that were chosen."""
        chosen = self.deliver().templates
        there, named = table(self.units)
        vectors = torch.zeros(*there.shape, self.model.encoder.embed_dim, device=run.device)
        texts = [prompts(unit, chosen) for units in self.units for unit in units]
        vectors[torch.from_numpy(there)] = self._embed(texts).mean(1)
        search = Descriptions(self._judge(run), vectors, there, named, run.at.seed)
        operators = replace(self.operators, mutate=self.operators.mutate // 2)
        steps, done = INNER * self.config.rounds * self.config.groups, 0  # at most
        for _ in range(self.config.rounds):
            for group in self.groups(search):
                search.evolve(group, operators, INNER, partial(_tell, run, search.record, done, steps))
                done += INNER
        self.of_units.copy_(torch.from_numpy(search.best))
        self.deliver()

    def groups(self, search: Descriptions) -> list[np.ndarray]:
        """Groups of two classes or more to search: salient ones and confused ones in turn [ours], so many at most."""
        by_kind = (search.salient(), search.confused())
        lots = [group for pair in zip_longest(*by_kind, fillvalue=()) for group in pair if len(group) > 1]
        return lots[: self.config.groups]

    def _judge(self, run: Any) -> Judge:
        """What scores against the training pictures, all of them."""

        def read(batch: Batch) -> dict[str, Tensor]:
            labels: Any = batch.fields["class"]
            return {"image": self.model.image_features(batch.image.flat), "label": labels}

        found = run.map(read, self.views(self.stages()[0]), run.sources["train"])
        images, labels = (torch.from_numpy(found[name]).to(run.device) for name in ("image", "label"))
        return Judge(images, labels.long(), float(self.model.encoder.logit_scale()), self.weights)

    def _embed(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Rows of texts, equally many in each -> unit vectors (rows, texts, E), each text encoded once."""
        flat = [text for row in texts for text in row]
        places = {text: at for at, text in enumerate(dict.fromkeys(flat))}
        words = self.make.tokenizer
        lost = sum(words.lost(text) > 0 for text in places)
        if lost and not collectives.rank():
            log.warning(
                "%d of %d prompts are longer than the context of %d and are cut", lost, len(places), words.context
            )
        vectors = self.model.embed(list(places))
        return vectors[[places[text] for text in flat]].unflatten(0, (len(texts), -1))


def _tell(run: Any, record: Record, before: int, steps: int, step: int) -> None:
    """Log the best fitness so far."""
    best = float(record.fitness.max())
    run.note(before + step, steps, -best, fitness=best, sets=float(len(record.rows)))


ProAPO.presets = {
    "small": replace(SMALL, config={"templates": "pictures", "descriptions": None}),
    "paper": replace(
        PAPER,
        config={"descriptions": None},
        image="vit:image_size=224:patch=32:width=768:depth=12:heads=12:pre_norm=true",
    ),
}
