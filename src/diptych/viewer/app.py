"""The pages of a server that shows a subject: an overview with its sections, its samples by page and
class, and one page for each sample.

Samples are named by the numbers of their source and their place in it, and pictures by their number
in the sample, so that no request holds a path. Everything is read only, and passes the guard of
`diptych.serve`.
"""

import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from threading import BoundedSemaphore, Lock
from typing import Annotated
from urllib.parse import urlencode

import numpy as np
from fastapi import FastAPI, Path, Query, Response

from diptych.data.sample import BadSample, Sample, Source, labels_of
from diptych.errors import InputError
from diptych.serve.app import guarded_app
from diptych.serve.encoder import Recent
from diptych.serve.limits import Limits, Refused
from diptych.serve.service import Service
from diptych.viewer.cards import CARD, Links, Ref
from diptych.viewer.document import attribute, document, style
from diptych.viewer.file import spread
from diptych.viewer.pictures import Picture, pictures
from diptych.viewer.subject import Section, Shelf, Subject, framed, grid, section_html

PAGE = 48
"""Samples on a page."""

LARGE = 1280
"""The side in pixels of the picture on the page of a sample."""

_FIRST = 24  # samples on the overview
_OPTIONS = 500  # classes of a label that can be chosen; the others by their addresses
_CACHE = 64_000_000  # bytes of pictures
_SIZES = (128, CARD, LARGE)
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)

_Number = Annotated[int, Path(ge=0, lt=2**48)]
_Size = Annotated[int, Query(ge=1, lt=2**16)]
_Page = Annotated[int, Query(ge=1, lt=2**48)]
_Class = Annotated[str, Query(max_length=400)]

_log = logging.getLogger("diptych.viewer")


class Addresses:
    """Links between the pages of a server."""

    def sample(self, ref: Ref) -> str:
        """Return the address of a sample's page."""
        return f"/sample/{ref.source}/{ref.number}"

    def picture(self, ref: Ref, at: int, picture: Picture, size: int) -> str:
        """Return the address of a picture."""
        return f"/picture/{ref.source}/{ref.number}/{at}?size={size}"

    def of_class(self, label: str, number: int) -> str | None:
        """Return the address of the samples of a class."""
        return f"/samples?{urlencode({'of': f'{number}:{label}'})}"


class _Locked(Shelf):
    """Samples for several threads: sources may read through one open file, and few images are decoded
    at once."""

    def __init__(self, sources: Sequence[Source], decoding: BoundedSemaphore):
        super().__init__(sources)
        self.lock = Lock()
        self.decoding = decoding

    def sample(self, ref: Ref) -> Sample | BadSample:
        with self.lock:
            return super().sample(ref)

    def card(self, ref: Ref, links: Links, size: int = CARD) -> str:
        with self.decoding:  # for the sizes of images with boxes
            return super().card(ref, links, size)


class _Stopped(Exception):
    """The server ends before all samples are read."""


class Site:
    """What a server shows of a subject. Its slow sections are made in a thread, by `reading`, while
    the pages that are there already can be looked at."""

    def __init__(self, subject: Subject, limits: Limits | None = None):
        self.subject = subject
        self.service = Service([], limits or Limits())
        self.shelf = _Locked(subject.sources, BoundedSemaphore(self.service.limits.decoders))
        self.links = Addresses()
        self.sections: list[Section] = []
        self.waiting = subject.slow is not None
        self.problem = ""
        self.done = (0, 0)
        self._stop = threading.Event()
        self._drawn: Recent[bytes] = Recent(_CACHE, len)
        self._style = style()
        self._chosen: Recent[np.ndarray] = Recent(64)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Context in which the slow sections are made."""
        thread = threading.Thread(target=self._read, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(10)

    def _read(self) -> None:
        slow = self.subject.slow
        if slow is None:
            return
        try:
            self.sections = [*slow(self._report)]
        except _Stopped:
            return
        except InputError as error:
            self.problem = str(error)
        except Exception:
            _log.exception("the samples could not be read")
            self.problem = "this failed; the log of the server says more"
        self.waiting = False

    def _report(self, done: int, total: int) -> None:
        self.done = (done, total)
        if self._stop.is_set():
            raise _Stopped

    # ---- pages

    def overview(self) -> str:
        """Return the first page: the sections, and some samples."""
        sections = [*self.sections, *self.subject.sections]
        parts = [self._progress()]
        parts += [section_html(section, self.shelf, self.links) for section in sections]
        source = self.subject.sources[0]
        refs = [Ref(0, number) for number in spread(len(source), _FIRST)]
        cards = grid(self.shelf.card(ref, self.links) for ref in refs)
        more = '<p class="pages"><a href="/samples">All samples</a></p>'
        note = f"{len(refs):,} of {len(source):,}."
        parts.append(framed("samples", "Samples", note, cards + more))
        after = self.subject.after
        parts += [section_html(section, self.shelf, self.links) for section in after]
        named = [(section.id, section.title) for section in sections]
        named += [("samples", "Samples"), *((section.id, section.title) for section in after)]
        return self._page(
            self.subject.title,
            self.subject.lead,
            *parts,
            links=[(f"#{id}", title) for id, title in named],
            refresh=self.waiting,
        )

    def _progress(self) -> str:
        if self.problem:
            return framed("check", "Check", self.problem, "")
        if not self.waiting:
            return ""
        done, total = self.done
        so_far = f"{done:,} of {total:,} samples so far." if total else ""
        note = f"Every sample is being read, and what is found will be here. {so_far}"
        return framed(
            "check", "Check", note, f'<progress max="{total or 1}" value="{done}"></progress>'
        )

    def samples(self, page: int = 1, of: str = "") -> str:
        """Return a page of samples, or of those of a class. Raises Refused for a class or a page
        that is not there."""
        source = self.subject.sources[0]
        chosen = self._of_class(of) if of else None
        total = len(source) if chosen is None else len(chosen)
        pages = max(1, -(-total // PAGE))
        if page > pages:
            raise Refused(404, f"there are {pages:,} pages")
        rows = range((page - 1) * PAGE, min(page * PAGE, total))
        refs = [Ref(0, row if chosen is None else int(chosen[row])) for row in rows]
        cards = grid(self.shelf.card(ref, self.links) for ref in refs)
        turn = _pages(page, pages, of)
        here = (
            f"{rows.start + 1:,} to {rows.stop:,} of {total:,}" if pages > 1 else f"All {total:,}"
        )
        note = f"{here}." if total else "There are none."
        inside = self._filter(of) + turn + cards + turn
        part = framed("samples", "Samples", note, inside)
        return self._page(self.subject.title, "", part, links=[("/", "Overview")])

    def sample(self, ref: Ref) -> str:
        """Return the page of a sample. Raises Refused if it is not there."""
        self._check(ref)
        steps = [("/", "Overview"), ("/samples", "Samples")]
        if ref.number:
            steps.append((self.links.sample(Ref(ref.source, ref.number - 1)), "Previous"))
        if ref.number + 1 < len(self.subject.sources[ref.source]):
            steps.append((self.links.sample(Ref(ref.source, ref.number + 1)), "Next"))
        card = grid([self.shelf.card(ref, self.links, size=LARGE)])
        name = self.subject.sources[ref.source].name
        note = f"Sample {ref.number + 1:,} of {len(self.subject.sources[ref.source]):,} of {name}."
        return self._page(
            self.shelf.key(ref), note, f'<div class="alone">{card}</div>', links=steps
        )

    def picture(self, ref: Ref, at: int, size: int) -> bytes:
        """Return a picture of a sample as a WebP file. Raises Refused if there is none, and BadSample
        for a damaged one."""
        self._check(ref)
        size = min((side for side in _SIZES if side >= size), default=_SIZES[-1])
        kept = self._drawn.get((ref, at, size))
        if kept is not None:
            return kept
        sample = self.shelf.sample(ref)
        if isinstance(sample, BadSample):
            raise sample
        shown = pictures(sample, self.shelf.schemas[ref.source])
        if at >= len(shown):
            raise Refused(404, "there is no such picture")
        with self.shelf.decoding:
            drawn = shown[at].draw(size)
        self._drawn.put((ref, at, size), drawn)
        return drawn

    def _check(self, ref: Ref) -> None:
        sources = self.subject.sources
        if ref.source >= len(sources) or ref.number >= len(sources[ref.source]):
            raise Refused(404, "there is no such sample")

    def _page(
        self,
        title: str,
        lead: str,
        *parts: str,
        links: Sequence[tuple[str, str]],
        refresh: bool = False,
    ) -> str:
        again = '<meta http-equiv="refresh" content="3">' if refresh else ""
        head = (
            '<link rel="stylesheet" href="/style.css">'
            f'<link rel="icon" href="/icon.svg" type="image/svg+xml">{again}'
        )
        return document(title, lead, *parts, head=head, links=links)

    # ---- classes

    def _labels(self) -> dict[str, tuple[str, ...]]:
        return {
            name.removeprefix("labels."): field.classes
            for name, field in self.shelf.schemas[0].items()
            if name.startswith("labels.") and field.classes
        }

    def _of_class(self, of: str) -> np.ndarray:
        """Return the numbers of the samples of a class, named as 'NUMBER:LABEL'."""
        kept = self._chosen.get(of)
        if kept is not None:
            return kept
        number, _, label = of.partition(":")
        if label not in self._labels() or not number.isdecimal():
            raise Refused(404, "there is no such class")
        with self.shelf.lock:
            values = labels_of(self.subject.sources[0], label)
        found = np.flatnonzero(values == int(number[:9]))
        self._chosen.put(of, found)
        return found

    def _filter(self, of: str) -> str:
        """Return the form that chooses a class."""
        labels = self._labels()
        if not labels:
            return ""
        groups = []
        for label, names in labels.items():
            options = "".join(
                f'<option value="{attribute(f"{number}:{label}")}"'
                f"{' selected' if of == f'{number}:{label}' else ''}>{attribute(name)}</option>"
                for number, name in enumerate(names[:_OPTIONS])
            )
            groups.append(f'<optgroup label="{attribute(label)}">{options}</optgroup>')
        return (
            '<form class="filter" action="/samples"><label for="of">Class</label>'
            f'<select id="of" name="of"><option value="">all</option>{"".join(groups)}</select>'
            "<button>Show</button></form>"
        )

    # ---- the application

    def app(self, service: Service, *, hosts: Collection[str] | None) -> FastAPI:
        """Return the application of the pages."""
        app = guarded_app(
            service, hosts, title="diptych view", description="Look at data.", openapi_url=None
        )
        icon = files("diptych.serve").joinpath("page/icon.svg").read_text("utf-8")

        @app.get("/")
        async def overview() -> Response:
            return _html(await service.call(self.overview))

        @app.get("/samples")
        async def samples(page: _Page = 1, of: _Class = "") -> Response:
            return _html(await service.call(lambda: self.samples(page, of)))

        @app.get("/sample/{source}/{number}")
        async def sample(source: _Number, number: _Number) -> Response:
            return _html(await service.call(lambda: self.sample(Ref(source, number))))

        @app.get("/picture/{source}/{number}/{at}")
        async def picture(
            source: _Number, number: _Number, at: _Number, size: _Size = CARD
        ) -> Response:
            ref = Ref(source, number)
            try:
                drawn = await service.call(lambda: self.picture(ref, at, size))
            except BadSample as error:  # browsers show the image of a reply that is an error, too
                return Response(_lost(error), 404, media_type="image/svg+xml")
            headers = {"cache-control": "private, max-age=600"}
            return Response(drawn, media_type="image/webp", headers=headers)

        @app.get("/style.css")
        async def stylesheet() -> Response:
            return Response(self._style, media_type="text/css")

        @app.get("/icon.svg")
        async def picture_of_tab() -> Response:
            return Response(icon, media_type="image/svg+xml")

        return app


def _html(page: str) -> Response:
    headers = {"content-security-policy": _POLICY}
    return Response(page.encode("utf-8", "replace"), media_type="text/html", headers=headers)


def _lost(error: BadSample) -> str:
    """Return a picture that says why there is none."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 120" font-family="sans-serif" '
        'font-size="13" text-anchor="middle" fill="#c0563c">'
        f'<text x="60" y="56">cannot be read:</text><text x="60" y="74">{attribute(error.reason)}</text></svg>'
    )


def _pages(page: int, pages: int, of: str) -> str:
    """Return links to the pages around one."""
    if pages == 1:
        return ""

    def to(number: int, name: str) -> str:
        if not 1 <= number <= pages or number == page:
            return ""
        address = urlencode({"page": number, **({"of": of} if of else {})})
        return f'<a href="/samples?{attribute(address)}">{name}</a>'

    around = [to(1, "First"), to(page - 1, "Previous"), f"<span>{page:,} of {pages:,}</span>"]
    around += [to(page + 1, "Next"), to(pages, "Last")]
    return f'<nav class="pages" aria-label="Pages">{"".join(around)}</nav>'
