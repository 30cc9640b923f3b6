"""One self-contained file: pictures are inside it, and findings lead to cards below."""

from pathlib import Path

import numpy as np

from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.viewer.cards import Ref
from diptych.viewer.document import document, style
from diptych.viewer.pictures import Picture, data_url
from diptych.viewer.subject import Progress, Shelf, Subject, framed, grid, section_html

COUNT = 200
"""Samples on the page, beside those that a section shows."""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Inside:
    """Links within a page that holds its pictures; `named` are the samples that they lead to."""

    def __init__(self) -> None:
        self.named: set[Ref] = set()

    def sample(self, ref: Ref) -> str:
        """Return the address of a card of this page."""
        self.named.add(ref)
        return f"#{ref.id}"

    def picture(self, ref: Ref, at: int, picture: Picture, size: int) -> str:
        """Return a picture as an address that holds it. Raises BadSample."""
        return data_url(picture.draw(size))

    def of_class(self, label: str, number: int) -> str | None:
        """Return None: the page has only some samples of a class."""
        return None


def spread(total: int, count: int) -> list[int]:
    """Return `count` numbers below `total`, or all, at equal distances.

    >>> spread(9, 3)
    [0, 4, 8]
    """
    places = np.linspace(0, total - 1, min(total, count)).round().astype(int)
    return sorted({int(place) for place in places})


def page(subject: Subject, *, count: int = COUNT, progress: Progress | None = None) -> str:
    """Return the page of a finished subject: `count` samples spread over its source, and all those
    that a section shows.

    `progress(done, total)` is called as samples are drawn.
    """
    shelf = Shelf(subject.sources)
    links = Inside()
    parts = [section_html(section, shelf, links) for section in subject.sections]
    wanted = {Ref(0, number) for number in spread(len(subject.sources[0]), count)} | links.named
    steps = 0
    names = [(section.id, section.title) for section in subject.sections]
    for number, source in enumerate(subject.sources):
        refs = sorted((ref for ref in wanted if ref.source == number), key=lambda ref: ref.number)
        if not refs:
            continue
        cards = []
        for ref in refs:
            cards.append(shelf.card(ref, links))
            steps += 1
            if progress:
                progress(steps, len(wanted))
        id = f"samples-{number}" if number else "samples"
        title = "Samples of the validation" if number else "Samples"
        some = len(refs) < len(source)
        note = f"{len(refs):,} of {len(source):,}." if some else f"All {len(source):,}."
        parts.append(framed(id, title, note, grid(cards)))
        names.append((id, title))
    after = [section_html(section, shelf, links) for section in subject.after]
    names += [(section.id, section.title) for section in subject.after]
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    return document(
        subject.title,
        subject.lead,
        *parts,
        *after,
        head=f"{policy}<style>{style()}</style>",
        links=[(f"#{id}", title) for id, title in names],
    )


def refuse_folder(out: Path) -> None:
    """Raise InputError if the page would be written to a folder."""
    if out.is_dir():
        raise InputError(
            f"{out} is a folder; give a file for the page, such as {out / 'page.html'}"
        )


def write(html: str, out: Path) -> None:
    """Write a page, and the folders above it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, lambda at: at.write_text(html, "utf-8", errors="replace"))
