"""What is said in a film, by the times of a transcript: WebVTT (.vtt) and SubRip (.srt)."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych.data.decode import Span
from diptych.errors import InputError

ENDINGS = (".vtt", ".srt")
MOST_BYTES = 1 << 24
_TIME = r"(?:(\d{1,3}):)?(\d{1,2}):(\d{2})[.,](\d{3})"
_TIMING = re.compile(rf"\s*{_TIME}\s+-->\s+{_TIME}(?:\s.*)?")
_TAG = re.compile(r"<[^<>]{0,200}>|\{\\[^{}]{0,200}\}")


@dataclass(frozen=True, kw_only=True)
class Cue:
    """What is said in a part of a film."""

    span: Span
    text: str


def transcript_of(where: str) -> list[Cue]:
    """The transcript beside a film, FILM.vtt or FILM.srt, for the film's path without its ending; empty
    if there is none. Raises InputError as `read`."""
    for ending in ENDINGS:
        path = Path(where + ending)
        if path.is_file():
            return read(path)
    return []


def read(path: Path) -> list[Cue]:
    """The cues of a transcript, in order of their times. Raises InputError for a file that is too large,
    is not UTF-8 or has no cue."""
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: a transcript of more than {MOST_BYTES:,} bytes; cut it")
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: a transcript that is not UTF-8 text ({error}); save it so"
        ) from error
    cues = parsed(text)
    if not cues:
        raise InputError(
            f"{path}: no cue such as 00:00:01.000 --> 00:00:04.000; give WebVTT or SubRip, or remove it"
        )
    return cues


def parsed(text: str) -> list[Cue]:
    """The cues of WebVTT or SubRip: lines of text behind a line of times, to the next empty line.

    Marks such as <i> are dropped, and so are lines that the cue before has too, as in captions that
    roll up.

    >>> parsed("1\\n00:00:01,000 --> 00:00:02,500\\nhello\\n<i>you</i>\\n")
    [Cue(span=(1.0, 2.5), text='hello you')]
    """
    found = []
    lines = text.splitlines()
    before: list[str] = []
    at = 0
    while at < len(lines):
        timing = _TIMING.fullmatch(lines[at])
        at += 1
        if timing is None:
            continue
        said = []
        while at < len(lines) and lines[at].strip():
            line = " ".join(html.unescape(_TAG.sub("", lines[at])).split())
            said += [line] if line else []
            at += 1
        start, end = (_seconds(timing.groups()[part : part + 4]) for part in (0, 4))
        new = [line for line in said if line not in before]
        before = said or before
        if new and end >= start:
            found.append(Cue(span=(start, end), text=" ".join(new)))
    return sorted(found, key=lambda cue: cue.span)


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, thousandths = (int(part or 0) for part in parts)
    return hours * 3600 + minutes * 60 + seconds + thousandths / 1000


def said_in(cues: Sequence[Cue], span: Span) -> str:
    """What is said in a part of a film: the cues whose middle is in it.

    >>> cues = [Cue(span=(0, 2), text="one"), Cue(span=(2, 5), text="two")]
    >>> said_in(cues, (0, 3)), said_in(cues, (3, 9))
    ('one', 'two')
    """
    return " ".join(cue.text for cue in cues if span[0] <= sum(cue.span) / 2 < span[1])
