"""What a page is about: sources whose samples it shows, and sections on them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape

from diptych.data.sample import BadSample, Sample, Source
from diptych.viewer.cards import CARD, Links, Ref, card, damaged_card, mini
from diptych.viewer.document import attribute, text

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page; `html(shelf, links)` writes what stands under its title."""

    id: str
    title: str
    note: str
    html: Callable[["Shelf", Links], str]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a page shows.

    - `sources`: the samples of the first are the page's own; sections may also show those of others.
    - `sections`: what is known without reading all samples.
    - `slow(progress)`: sections that stand before these, and need all samples; None if there are
      none.
    - `after`: sections that stand behind the samples.
    """

    title: str
    lead: str
    sources: Sequence[Source]
    sections: Sequence[Section] = ()
    slow: Callable[[Progress], Sequence[Section]] | None = None
    after: Sequence[Section] = ()

    def finished(self, progress: Progress) -> "Subject":
        """Return the subject with its slow sections among the others."""
        if self.slow is None:
            return self
        return replace(self, sections=[*self.slow(progress), *self.sections], slow=None)


class Shelf:
    """The samples of a page's sources, as HTML."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = sources
        self.schemas = [source.schema() for source in sources]

    def sample(self, ref: Ref) -> Sample | BadSample:
        """Return a sample, or the error that keeps it from being read."""
        try:
            return self.sources[ref.source][ref.number]
        except BadSample as error:
            return error

    def key(self, ref: Ref) -> str:
        """Return the key of a sample."""
        return self.sources[ref.source].keys()[ref.number]

    def card(self, ref: Ref, links: Links, size: int = CARD) -> str:
        """Return the card of a sample, with pictures of at most `size` pixels."""
        sample = self.sample(ref)
        if isinstance(sample, BadSample):
            return damaged_card(ref, self.key(ref), sample, links)
        return card(ref, sample, self.schemas[ref.source], links, size=size)

    def mini(self, ref: Ref, links: Links, note: str = "") -> str:
        """Return a small picture that leads to a sample's card."""
        sample = self.sample(ref)
        return mini(ref, self.key(ref), sample, self.schemas[ref.source], links, note)


def section_html(section: Section, shelf: Shelf, links: Links) -> str:
    """Return a section with its title."""
    return framed(section.id, section.title, section.note, section.html(shelf, links))


def framed(id: str, title: str, note: str, inside: str) -> str:
    """Return a part of a page with its title and a sentence on it."""
    said = f'<p class="note">{text(note)}</p>' if note else ""
    return f'<section id="{attribute(id)}"><h2>{escape(title)}</h2>{said}\n{inside}</section>'


def grid(cards: Iterable[str]) -> str:
    """Return cards side by side, with a switch for their boxes."""
    shown = "".join(cards)
    switch = (
        '<label class="switch"><input type="checkbox" class="show-boxes" checked> Boxes</label>'
        if '<svg class="boxes' in shown
        else ""
    )
    return f'{switch}<div class="samples">{shown}</div>'


def numbers(source: Source, keys: Iterable[str]) -> dict[str, int]:
    """Return the numbers of the samples with these keys; keys that the source lacks are left out."""
    wanted = set(keys)
    found: dict[str, int] = {}
    for number, key in enumerate(source.keys()):
        if len(found) == len(wanted):
            break
        if key in wanted:
            found[key] = number
    return found
