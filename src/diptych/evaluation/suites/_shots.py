"""Examples before a prompt: how many, which, and the model behind them."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from diptych.data.clips import stacked
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import clip_or_image
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.methods.abilities import require
from diptych.rng import generator


def number_of(shots: int | Sequence[int], suite: str) -> int:
    """The number of examples, which the command line gives as a list."""
    if isinstance(shots, int):
        return shots
    if len(shots) != 1:
        raise InputError(f"shots are {list(shots)}; {suite} has one number of examples")
    return shots[0]


def check_shots(model: Any, suite: str, count: int, examples: Source | None) -> None:
    """Raise InputError for examples without a source or not asked for, and for a model that reads
    none."""
    if count < 0 or (count > 0) != (examples is not None):
        raise InputError(
            f"{count} examples were asked for "
            + ("and no source of them given" if examples is None else "beside a source of them")
            + "; give the number of shots and their source together"
        )
    if count:
        require(model, "few_shot", f"{suite} behind examples")


def drawn(
    model: Any, source: Source, text_of: Callable[[Sample], str], count: int, seed: int
) -> tuple[Tensor, list[str]]:
    """The pixels (K, 3, H, W), of clips (K, V, 3, H, W), and the texts of `count` random samples; those
    that cannot be read are passed over. Raises InputError if there are fewer."""
    pixels: list[Tensor] = []
    texts: list[str] = []
    for index in generator(seed, "shots").permutation(len(source)).tolist():
        try:
            sample = source[index]
            text = text_of(sample)
            [image] = clip_or_image(sample)
            pixels.append(model.preprocess.read(image))
        except BadSample:
            continue
        texts.append(text)
        if len(texts) == count:
            return stacked(pixels), texts
    raise InputError(
        f"source {source.name!r} has {len(texts)} examples that can be read, {count} were asked for"
    )


def behind_captions(model: Any, source: Source, role: str | None, count: int, seed: int) -> Any:
    """The model behind `count` images of a source with a caption of each."""
    role = role_of("examples", source, role)
    return model.few_shot(
        *drawn(model, source, lambda sample: texts_of(sample, role)[0], count, seed)
    )
