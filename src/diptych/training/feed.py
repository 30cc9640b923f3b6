"""The data of a run: a stage's loaders, the columns that stages computed, and the damaged
samples."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor

from diptych import collectives
from diptych.data.batch import Batch
from diptych.data.loader import Loader, require
from diptych.data.sample import Source, damage_summary, keys_digest
from diptych.errors import InputError
from diptych.methods.base import Batches, Method, Recipe, Stage
from diptych.training.options import Options
from diptych.training.prepare import with_columns
from diptych.training.state import Position

log = logging.getLogger(__name__)


class Copies:
    """Copies batches to a device.

    On a GPU the copies have a stream of their own, and each is begun before the step on the batch
    ahead of it: the two overlap, and only kernels that read a batch wait for it.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def of(self, batches: Iterable[Batches]) -> Iterator[Batches]:
        """Yield the batches on the device."""
        if self.stream is None:
            yield from (on_each(batch, self._copy) for batch in batches)
            return
        for now, _ in pairwise(chain(map(self._begin, batches), [None])):
            assert now is not None, "None ends the pairs"
            batch, done = now
            reader = torch.cuda.current_stream(self.device)
            reader.wait_event(done)

            def keep(tensor: Tensor, reader: torch.cuda.Stream = reader) -> Tensor:
                tensor.record_stream(reader)  # else its memory is free for a later copy too early
                return tensor

            yield on_each(batch, lambda part, keep=keep: part.map(keep))

    def _begin(self, batch: Batches) -> tuple[Batches, Any]:
        assert self.stream is not None
        with torch.cuda.stream(self.stream):
            return on_each(batch, self._copy), self.stream.record_event()

    def _copy(self, batch: Batch) -> Batch:
        return batch.to(self.device)


def on_each(batch: Batches, change: Callable[[Batch], Batch]) -> Batches:
    """Apply a function to a batch, or to that of each stream."""
    if isinstance(batch, Batch):
        return change(batch)
    return {name: change(part) for name, part in batch.items()}


class Feed:
    """The data that the engine reads: sources as `given`, `columns` of each stream, and the reason
    for each `damaged` sample."""

    def __init__(
        self, method: Method, sources: Mapping[str, Source], options: Options, device: torch.device
    ):
        self.method = method
        self.given = dict(sources)
        self.options = options
        self.device = device
        self.columns: dict[str, dict[str, Any]] = {}
        self.damaged: dict[str, str] = {}
        self._told: set[str] = set()  # sources of whose small batches the user was told

    @cached_property
    def identity(self) -> dict[str, dict[str, Any]]:
        """Identifies the data of each stream: the number of samples, and a hash of their keys."""
        return {
            stream: {"samples": len(source), "keys": keys_digest(source)}
            for stream, source in self.given.items()
        }

    def check_same(self, before: Mapping[str, Any]) -> None:
        """Raise InputError if the data are not those of `before`, an `identity`: other samples, or
        another order."""
        for stream, was in before.items():
            now = self.identity.get(stream)
            if now == was:
                continue
            reported = "is not given"
            if now is not None and now["samples"] != was["samples"]:
                reported = f"had {was['samples']:,} samples and has {now['samples']:,}"
            elif now is not None:
                reported = (
                    f"has {now['samples']:,} samples as before, but others or in another order"
                )
            raise InputError(
                f"cannot resume with other data: the stream {stream!r} {reported}; put the data back as they "
                "were, or begin a new run with another --out"
            )

    @property
    def sources(self) -> dict[str, Source]:
        """The streams' sources with their columns."""
        return with_columns(self.given, self.columns)

    def streams(self, stage: Stage) -> dict[str, Source]:
        """Return the sources of a stage by stream. Raises InputError if one is missing or lacks a
        field."""
        found = {}
        for stream in stage.streams:
            if stream not in self.given:
                raise InputError(
                    f"stage {stage.name!r} of {self.method.name} reads the stream {stream!r}; "
                    f"give it with --data {stream}=SOURCE"
                )
            found[stream] = self.method.samples(stage, stream, self.sources[stream])
            require(found[stream], self.method.needs(stage, stream), self.method.name)
        return found

    def loaders(self, stage: Stage, recipe: Recipe) -> dict[str, Loader]:
        """Return a loader for each stream of a stage. Raises InputError for missing data."""
        loaders = {}
        for stream, source in self.streams(stage).items():
            asked = stage.batch_size(stream, recipe.batch_size)
            if asked < stage.batch_size(stream, stage.min_batch):
                raise InputError(
                    f"batch size {recipe.batch_size} is below the {stage.min_batch} that "
                    f"{self.method.name} needs; raise --batch-size"
                )
            if stage.max_batch is not None and asked > stage.max_batch[0]:
                most, option = stage.max_batch
                raise InputError(
                    f"batch size {asked} is above the {most} of {option}; lower --batch-size, or raise {option}"
                )
            loaders[stream] = Loader(
                source,
                self.method.views(stage, stream),
                stage.plan_of(stream),
                self._batch(stage, source, asked),
                seed=self.options.seed,
                workers=self.options.workers,
                rank=collectives.rank(),
                ranks=collectives.world_size(),
                pin=self.device.type == "cuda",
                least=max(collectives.world_size(), stage.batch_size(stream, stage.min_batch)),
                told=self._told,
            )
        steps = self.steps(stage, recipe, loaders)
        for loader in loaders.values():
            loader.steps = -(-steps // len(loaders)) if stage.turns else steps
        return loaders

    def steps(self, stage: Stage, recipe: Recipe, loaders: Mapping[str, Loader]) -> int:
        """Return the number of steps of a stage."""
        return recipe.steps or max(1, round(recipe.epochs * self.length(stage, loaders, 0)))

    def length(self, stage: Stage, loaders: Mapping[str, Loader], epoch: int) -> int:
        """Return the number of steps of an epoch: one for each batch of the first stream, and as
        many again for each other stream if they take turns."""
        batches = len(loaders[stage.streams[0]].batches(epoch))
        return batches * len(stage.streams) if stage.turns else batches

    def _batch(self, stage: Stage, source: Source, size: int) -> int:
        """Return the batch size.

        A preset's batch size is reduced to the number of samples if there are fewer and the loss of
        a sample depends on no other.
        """
        of_presets = [preset.recipe.batch_size for preset in self.method.presets.values()]
        if stage.min_batch > 1 or size <= len(source) or size not in of_presets:
            return size
        if not collectives.rank():
            log.warning(
                "batch size %d of the preset is more than the %d samples of %s: batches hold all of them",
                size,
                len(source),
                source.name,
            )
        return len(source)

    def epoch(self, stage: Stage, loaders: Mapping[str, Loader], at: Position) -> Iterator[Batches]:
        """Yield the rest of this epoch's batches, on the device; the first stream sets the epoch,
        the others repeat."""
        batches = self._in_turn if stage.turns else self._together
        return Copies(self.device).of(batches(stage, loaders, at))

    def _together(
        self, stage: Stage, loaders: Mapping[str, Loader], at: Position
    ) -> Iterator[Batches]:
        """Yield batches of all streams at once."""
        first, *others = stage.streams
        rounds = {name: loaders[name].endless(at.step) for name in others}
        for batch in loaders[first].epoch(at.epoch, at.batch, at.step):
            if others:
                yield {first: batch, **{name: next(each) for name, each in rounds.items()}}
            else:
                yield batch

    def _in_turn(
        self, stage: Stage, loaders: Mapping[str, Loader], at: Position
    ) -> Iterator[Batches]:
        """Yield batches of one stream each, in the order of the streams."""
        count = len(stage.streams)
        rounds: dict[str, Iterator[Any]] = {}
        for number in range(at.batch, self.length(stage, loaders, at.epoch)):
            name = stage.streams[number % count]
            if name not in rounds:
                done = (at.step + number - at.batch) // count  # of the stream's own batches
                loader = loaders[name]
                first = number % count == 0
                rounds[name] = (
                    loader.epoch(at.epoch, number // count, done) if first else loader.endless(done)
                )
            yield {name: next(rounds[name])}

    def note(self, loaders: Mapping[str, Loader]) -> bool:
        """Record the samples that this rank's loaders could not read; return whether there are new
        ones."""
        before = len(self.damaged)
        for loader in loaders.values():
            self.damaged.update(loader.damage.seen)
        return len(self.damaged) > before

    def check(self) -> None:
        """Count each damaged sample once and stop if there are too many. All ranks must call it."""
        for (
            source
        ) in self.given.values():  # samples that could not be indexed, such as in a truncated tar
            self.damaged.update(getattr(source, "damage", {}))
        for seen in collectives.gather_objects(self.damaged):
            self.damaged.update(seen)
        total = sum(
            len(source) + len(getattr(source, "damage", ())) for source in self.given.values()
        )
        if len(self.damaged) <= self.options.max_bad * total:
            return
        raise InputError(
            f"{len(self.damaged)} of {total} samples are damaged so far ({damage_summary(self.damaged)}), more than "
            f"--max-bad {self.options.max_bad:g} allows; mend the data (`diptych check` lists all) or raise --max-bad"
        )
