"""Emotions with explanations: how samples hold them, and texts that say both; and the dimensions of affect.

A sample has texts of the roles emotion and explanation, one explanation an emotion, in the same order.
"""

from collections import Counter
from collections.abc import Sequence

from diptych.data.sample import BadSample, Sample

EMOTION = "emotion"
EXPLANATION = "explanation"
FIELDS = (f"texts.{EMOTION}", f"texts.{EXPLANATION}")
DIMENSIONS = ("valence", "arousal", "dominance")
"""The labels of texts that people rated."""


def felt(sample: Sample) -> list[tuple[str, str]]:
    """The emotions of a sample with their explanations, in order.

    Raises BadSample("unpaired") if their numbers differ, or there are none.
    """
    emotions = sample.captions(EMOTION)
    explanations = sample.captions(EXPLANATION)
    if len(emotions) != len(explanations) or not emotions:
        raise BadSample(
            "unpaired",
            f"{sample.key} has {len(emotions)} emotions and {len(explanations)} explanations",
        )
    return list(zip(emotions, explanations, strict=True))


def majority(emotions: Sequence[str]) -> str | None:
    """The emotion of more than half of the people; None if there is none.

    >>> majority(["awe", "awe", "fear"]), majority(["awe", "fear"])
    ('awe', None)
    """
    [(emotion, count)] = Counter(emotions).most_common(1)
    return emotion if 2 * count > len(emotions) else None


def split(text: str, joint: str) -> tuple[str, str]:
    """The emotion and the explanation of a text; without a joint all of it is the emotion.

    >>> split("awe because it is vast", "because"), split("awe", "because")
    (('awe', 'it is vast'), ('awe', ''))
    """
    emotion, _, explanation = f" {text.strip()} ".partition(f" {joint.strip()} ")
    return emotion.strip(), explanation.strip()
