"""The data set of COSMO: films as documents in which clips and the sentences of one text alternate.

    films --cut--> clips --captioner, regions, transcript--> facts --writer--> text of each clip --filter-->

Each clip has a caption, phrases of its regions and what is said in it. A writer, such as a language
model, goes on with the text for one clip after the other, and reads what it wrote before. Texts and
documents that break a rule are dropped. The result is a table of the published form (`howto_interlink`),
`video` and `clips`, which names parts of films.

The published set is of HowTo100M, with BLIP-2, GRIT, Whisper and GPT-4. [choice] Where films are cut, what
the writer is asked, one clip at a time, and the rules; the published ones are not known.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.data.answers import Question, Writer, describe, lines, whole
from diptych.data.clips import MiddleFrame
from diptych.data.decode import Span
from diptych.data.sample import BadSample, EncodedImage, Source
from diptych.data.sources.howto_interlink import CLIPS, VIDEO_COLUMNS
from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.methods.fuse.cosmo.interleave.films import Cuts, Film, clips_of, films_of
from diptych.methods.fuse.cosmo.interleave.transcripts import Cue, said_in, transcript_of
from diptych.spec import Count, Natural

PROMPT = """\
A film is told in one flowing text, clip by clip. Add the sentences of the next clip, in plain words, and
state nothing but what is given here.
The text so far: {before}
The next clip shows: {caption}
Things in it: {regions}
What is said: {speech}
The sentences of the next clip:"""
FIELDS = ("{before}", "{caption}", "{regions}", "{speech}")
TRIES = 3
"""Answers that a writer is asked for of a clip at the most."""
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")

Score = Callable[[Sequence[EncodedImage], Sequence[str]], Sequence[float]]
"""The similarities of clips with their texts."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which texts and documents are kept; None leaves a rule out.

    - a text has `min_words` to `max_words` words
    - no three words in sequence occur more than `repeats` times in it
    - it differs from all texts of the document before it
    - none of the words of the file `barred`, one a line, is in it
    - clip and text have a similarity of at least `similarity`, where there is a model for it
    - a document has at least `min_clips` clips that are kept
    """

    min_words: Count | None = 3
    max_words: Count | None = 200
    repeats: Count | None = 2
    barred: str | None = None
    similarity: float | None = None
    min_clips: Count = 2

    def barred_words(self) -> frozenset[str]:
        """The barred words. Raises InputError for a file that cannot be read, or has none."""
        if self.barred is None:
            return frozenset()
        try:
            found = Path(self.barred).expanduser().read_text("utf-8").lower().split()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--rules barred={self.barred}: no file of words ({error})") from None
        if not found:
            raise InputError(f"--rules barred={self.barred}: the file has no words; leave it out")
        return frozenset(found)


@dataclass(kw_only=True)
class Piece:
    """A clip of a film, by its key FILM#NUMBER, with what is known of it and the text that is written."""

    key: str
    film: Film
    span: Span
    caption: str = ""
    regions: tuple[str, ...] = ()
    speech: str = ""
    text: str = ""


@dataclass(kw_only=True)
class Interleaved:
    """What was written: the documents, the folder of their films, how many clips and films there were,
    films left out and the reasons for clips and documents that were dropped. `judged` are the facts that
    captions and texts of clips state and those that are true, if they can be judged."""

    documents: list[list[Piece]]
    root: str
    films: int
    clips: int = 0
    damaged: Mapping[str, str] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    judged: dict[str, tuple[int, int]] = field(default_factory=dict)


def interleave(
    source: Source,
    out: Path,
    writer: Writer | None,
    *,
    prompt: str = PROMPT,
    captions: Writer | None = None,
    regions: Writer | None = None,
    speech: str | None = None,
    role: str = "caption",
    frames: Count = 8,
    join: Count = 1,
    cuts: Cuts | None = None,
    rules: Rules | None = None,
    score: Score | None = None,
    tries: Count = TRIES,
    progress: Progress | None = None,
) -> Interleaved:
    """Write the films of a source as interleaved documents to the table `out` (.tsv).

    Captions of clips come from `captions`, which is shown `frames` frames of each, or with one frame its
    middle; without it they are the first texts of `role` that the source has. So are the phrases of
    regions, from `regions` or else the texts of boxes. Transcripts lie beside the films, or in the folder
    `speech`. `prompt` is what the writer is asked, with the FIELDS in it; without a writer it is itself the
    text. Answers are kept in OUT.answers.jsonl, so that a run that was stopped goes on.

    Raises InputError for a prompt without fields, a rule that needs `score`, a source without clips, and
    if nothing is left to write.
    """
    cuts = cuts or Cuts()
    rules = rules or Rules()
    if not any(name in prompt for name in FIELDS):
        raise InputError(f"the prompt has none of {', '.join(FIELDS)}; write one into it")
    if (rules.similarity is None) != (score is None):
        raise InputError(
            "similarity of --rules and --model go together: the least, and of what model"
        )
    barred = rules.barred_words()
    films = films_of(source, out.with_suffix(".films"), join)
    done = Interleaved(documents=[], root=films.root, films=len(films.films))
    documents, damaged = _cut(films.films, cuts, speech, progress)
    done.damaged = {**films.damaged, **damaged}
    pieces = [piece for document in documents for piece in document]
    done.clips = len(pieces)
    if not pieces:
        raise InputError(f"no film of {source.name} can be read; look at it with diptych check")
    ask = _Asked(out.with_suffix(".answers.jsonl"), frames, tries, progress)
    _caption(pieces, ask, captions, role)
    _phrase(pieces, ask, regions)
    _write(documents, ask, writer, prompt)
    kept = []
    for document in documents:
        good = _kept(document, rules, barred, done.dropped)
        kept.append(good)
    if score is not None:
        kept = _alike(kept, score, rules, frames, done.dropped)
    for document in kept:
        if len(document) >= rules.min_clips:
            done.documents.append(document)
        else:
            done.dropped["few clips"] += len(document)
    if not done.documents:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in done.dropped.most_common())
        raise InputError(
            f"no document of {source.name} is left ({reasons}); change --rules or the prompt"
        )
    done.judged = _judged(source, done.documents)
    _save(out, done.documents)
    return done


# ---- clips, and what is known of them


def _cut(
    films: Sequence[Film], cuts: Cuts, speech: str | None, progress: Progress | None
) -> tuple[list[list[Piece]], dict[str, str]]:
    """The clips of each film with what is said in them, and the films that cannot be read."""
    found = []
    damaged = {}
    for number, film in enumerate(films, 1):
        where = film.where if speech is None else str(Path(speech) / Path(film.where).name)
        cues: list[Cue] = transcript_of(where)
        try:
            clips = clips_of(film.path, cuts)
        except BadSample as bad:
            damaged[film.key] = bad.reason
            continue
        found.append(
            [
                Piece(key=f"{film.key}#{at}", film=film, span=span, speech=said_in(cues, span))
                for at, span in enumerate(clips, 1)
            ]
        )
        if progress is not None:
            progress(number, len(films))
    return found, damaged


@dataclass
class _Asked:
    """Questions about clips to a writer, whose answers are kept in a file."""

    cache: Path
    frames: int
    tries: int
    progress: Progress | None

    def __call__(
        self,
        writer: Writer,
        pieces: Sequence[Piece],
        prompts: Iterable[str],
        read: Callable[[str], Sequence[str]],
        shown: bool = True,
    ) -> list[tuple[str, ...]]:
        """The texts about each clip, none where no answer is one."""
        questions = [
            Question(key=piece.key, prompt=prompt, image=self.image(piece) if shown else None)
            for piece, prompt in zip(pieces, prompts, strict=True)
        ]
        found = describe(
            questions, writer, self.cache, read=read, tries=self.tries, progress=self.progress
        )
        return [found.texts.get(piece.key, ()) for piece in pieces]

    def image(self, piece: Piece) -> EncodedImage:
        """What is shown of a clip: its frames, or with one frame its middle."""
        return shown(piece, self.frames)


def shown(piece: Piece, frames: int) -> EncodedImage:
    """A clip of so many frames, or with one its middle frame."""
    clip = piece.film.clip(piece.span, frames)
    return MiddleFrame(clip) if frames == 1 else clip


def _caption(pieces: Sequence[Piece], ask: _Asked, writer: Writer | None, role: str) -> None:
    if writer is not None:
        for piece, texts in zip(
            pieces, ask(writer, pieces, [""] * len(pieces), whole), strict=True
        ):
            piece.caption = texts[0] if texts else ""
        return
    for piece in pieces:
        part = piece.film.part(piece.span)
        texts = [] if part is None else part.sample.captions(role)
        piece.caption = texts[0] if texts else ""
    if not any(piece.caption or piece.speech for piece in pieces):
        raise InputError(
            f"no clip has a text of role {role!r} or a transcript; name a model that writes about images with "
            "--captions, or another --role"
        )


def _phrase(pieces: Sequence[Piece], ask: _Asked, writer: Writer | None) -> None:
    if writer is not None:
        found = ask(writer, pieces, ["regions"] * len(pieces), lines)
        for piece, texts in zip(pieces, found, strict=True):
            piece.regions = texts
        return
    for piece in pieces:
        part = piece.film.part(piece.span)
        boxes = [] if part is None else part.sample.boxes
        piece.regions = tuple(dict.fromkeys(box.text for box in boxes if box.text))


# ---- the text


def _write(
    documents: Sequence[Sequence[Piece]], ask: _Asked, writer: Writer | None, prompt: str
) -> None:
    """Write the texts, the first ones of all documents, then the second ones, and so on."""
    for at in range(max(map(len, documents))):
        pieces = [document[at] for document in documents if len(document) > at]
        before = [document[:at] for document in documents if len(document) > at]
        prompts = [
            filled(prompt, piece, [each.text for each in told])
            for piece, told in zip(pieces, before, strict=True)
        ]
        if writer is None:
            found = [whole(text) for text in prompts]
        else:
            found = ask(writer, pieces, prompts, whole, shown=False)
        for piece, texts in zip(pieces, found, strict=True):
            piece.text = texts[0] if texts else ""


def filled(prompt: str, piece: Piece, before: Sequence[str]) -> str:
    """What the writer is asked about a clip, behind the texts `before`."""
    values = {
        "{before}": " ".join(text for text in before if text),
        "{caption}": piece.caption,
        "{regions}": ", ".join(piece.regions),
        "{speech}": piece.speech,
    }
    return re.sub("|".join(map(re.escape, FIELDS)), lambda found: values[found[0]], prompt).strip()


# ---- the filter


def fault(text: str, rules: Rules, barred: frozenset[str], before: Sequence[str]) -> str:
    """The rule that a text breaks; "" if it breaks none.

    >>> fault("a cat sleeps. a cat sleeps. a cat sleeps.", Rules(), frozenset(), [])
    'repeats itself'
    """
    words = _WORD.findall(text.lower())
    if not words:
        return "no text"
    if rules.min_words is not None and len(words) < rules.min_words:
        return "too short"
    if rules.max_words is not None and len(words) > rules.max_words:
        return "too long"
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    if rules.repeats is not None and max(triples.values(), default=0) > rules.repeats:
        return "repeats itself"
    if barred.intersection(words):
        return "barred words"
    return "as before" if text in before else ""


def _kept(
    document: Sequence[Piece], rules: Rules, barred: frozenset[str], dropped: Counter[str]
) -> list[Piece]:
    good: list[Piece] = []
    for piece in document:
        reason = fault(piece.text, rules, barred, [each.text for each in good])
        if reason:
            dropped[reason] += 1
        else:
            good.append(piece)
    return good


def _alike(
    documents: Sequence[Sequence[Piece]],
    score: Score,
    rules: Rules,
    frames: Natural,
    dropped: Counter[str],
) -> list[list[Piece]]:
    """The documents without clips that differ from their text."""
    assert rules.similarity is not None, "a score goes with a limit"
    kept = []
    for document in documents:
        if not document:
            kept.append([])
            continue
        found = score(
            [shown(piece, frames) for piece in document], [piece.text for piece in document]
        )
        good = [
            piece for piece, value in zip(document, found, strict=True) if value >= rules.similarity
        ]
        dropped["not alike"] += len(document) - len(good)
        kept.append(good)
    return kept


# ---- the result


def _judged(source: Any, documents: Sequence[Sequence[Piece]]) -> dict[str, tuple[int, int]]:
    """The facts that the captions and the texts of clips state, and those that are true, of a world that
    judges them (`World.judge`)."""
    world: Any = getattr(source, "world", None)
    if not hasattr(world, "judge"):
        return {}
    found = {"captions": [0, 0], "texts": [0, 0]}
    for piece in (piece for document in documents for piece in document):
        part = piece.film.part(piece.span)
        if part is None:
            continue
        facts = world.sample(source.seed, source.start + part.number)
        for name, text in (("captions", piece.caption), ("texts", piece.text)):
            stated, true = world.judge(text, facts)
            found[name][0] += stated
            found[name][1] += true
    return {name: (stated, true) for name, (stated, true) in found.items() if stated}


def _save(out: Path, documents: Sequence[Sequence[Piece]]) -> None:
    buffer = io.StringIO()
    table = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    table.writerow([VIDEO_COLUMNS[0], CLIPS])
    for document in documents:
        rows = [_row(piece) for piece in document]
        table.writerow([document[0].film.name, json.dumps(rows, ensure_ascii=False)])
    write_atomic(out, lambda at: at.write_text(buffer.getvalue(), "utf-8"))


def _row(piece: Piece) -> dict[str, Any]:
    """A clip with its text, and what the writer was given."""
    given = {"seen": piece.caption, "regions": list(piece.regions), "said": piece.speech}
    return {
        "clip": " - ".join(map(clock, piece.span)),
        "caption": piece.text,
        **{name: value for name, value in given.items() if value},
    }


def clock(seconds: float) -> str:
    """A time of a film.

    >>> clock(3723.5), clock(48)
    ('1:02:03.500', '0:00:48.000')
    """
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"
