"""The frame of a page: head, style, title, and links to its sections.

The style is that of reports, in the colours of the search page, with rules for cards.
"""

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from diptych.data.sample import whole

_COLOURS = re.compile(r"^:root \{.*?^\}", re.DOTALL | re.MULTILINE)


def text(value: str) -> str:
    """Return a text of the data as HTML, isolated from the direction of what is around it.

    >>> text("<b>")
    '<bdi>&lt;b&gt;</bdi>'
    """
    return f"<bdi>{attribute(value)}</bdi>"


def attribute(value: str) -> str:
    """Return a text of the data for an attribute of HTML, without its quotes.

    >>> attribute('a "b"')
    'a &quot;b&quot;'
    """
    return escape(whole(value))


def style() -> str:
    """Return the style sheet of all pages."""
    page = files("diptych.serve").joinpath("page/style.css").read_text("utf-8")
    colours = _COLOURS.search(page)
    assert colours, "style.css of the search page begins with its colours"
    report = files("diptych.lab").joinpath("report.css").read_text("utf-8")
    own = files("diptych.viewer").joinpath("view.css").read_text("utf-8")
    return f"{report}\n{colours[0]}\n{own}"


def document(
    title: str, lead: str, *parts: str, head: str, links: Sequence[tuple[str, str]] = ()
) -> str:
    """Return a page: a title, a sentence under it, and the parts (HTML).

    `head` is HTML for its head, such as the style; `links` are the addresses and names of its
    sections or of other pages.
    """
    named = "".join(f'<a href="{attribute(to)}">{escape(name)}</a>' for to, name in links)
    nav = f'<nav aria-label="Sections">{named}</nav>' if named else ""
    sentence = f"<p>{text(lead)}</p>" if lead else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{attribute(title)}</title>{head}</head>\n"
        f"<body>{nav}<main><h1>{text(title)}</h1>{sentence}\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )
