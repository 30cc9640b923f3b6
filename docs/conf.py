"""Sphinx: Markdown pages by MyST, the reference from docstrings.

Docstrings here are plain text with `code` in single backticks, as in Markdown, with indented
equations and `>>>` examples. `_to_rst` turns them into reStructuredText, so that no one has to
write roles in a docstring.
"""

import posixpath
import re
import sys
from functools import cache
from importlib.metadata import version as version_of
from pathlib import Path

import latex2mathml.converter
from docutils.nodes import Element, SkipNode, Text, strong
from docutils.statemachine import StringList
from sphinx.addnodes import toctree
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective, SphinxRole

from diptych.lab import league

sys.path.insert(0, str(Path(__file__).parent))
import page_parts  # beside this file
import reference_pages

project = "diptych"
author = "the diptych authors"
version = release = version_of("diptych")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["diptych.css"]
html_math_renderer = "mathml"
html_title = "diptych"
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100

_CODE = re.compile(r"``.+?``|`[^`]+`", re.DOTALL)
_ITEM = re.compile(r"(\s*)([-*]|\d{1,2}\.) ")


def _inline(text: str) -> str:
    """Code spans as reStructuredText literals, all else as plain characters."""
    pieces, end = [], 0
    for code in _CODE.finditer(text):
        pieces += [_plain(text[end : code.start()]), f"``{code[0].strip('`')}``"]
        end = code.end()
        if end < len(text) and (text[end].isalnum() or text[end] in "_("):
            pieces.append("\\ ")  # a literal must end a word: an escaped blank shows as nothing
    return "".join([*pieces, _plain(text[end:])])


def _plain(text: str) -> str:
    return re.sub(r"([*|_\\`])", r"\\\1", text)


def _item(line: str) -> str:
    head = _ITEM.match(line)
    return f"{head[1]}- {_inline(line[head.end() :])}" if head else _inline(line)


def _block(lines: list[str]) -> list[str]:
    """One block between blank lines: an example, a list, an equation, lines that hang, or a
    paragraph."""
    if lines[0].lstrip().startswith(">>>"):
        return lines
    items = [i for i, line in enumerate(lines) if _ITEM.match(line)]
    if items:
        before = _inline("\n".join(lines[: items[0]])).split("\n")
        return [*before, "", *(_item(line) for line in lines[items[0] :])]
    indents = [len(line) - len(line.lstrip()) for line in lines]
    if min(indents) > 0:
        return ["::", "", *(f"    {line}" for line in lines)]
    if max(indents) > 0:
        return [
            f"| {' ' * indent}{_inline(line.strip())}"
            for indent, line in zip(indents, lines, strict=True)
        ]
    return _inline("\n".join(lines)).split("\n")


def _to_rst(app, what, name, obj, options, lines: list[str]) -> None:
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    lines[:] = [line for block in blocks if block for line in (*_block(block), "")]


def _mathml(display: str):
    """Equations as MathML, which browsers draw themselves: no script, no font from elsewhere."""

    def visit(translator, node) -> None:
        translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
        raise SkipNode

    return visit, None


class _Python(PythonDomain):
    """Links a type that is written without its module (`"State"`) only where one module alone has
    that name."""

    def find_obj(self, *args, **options):
        found = super().find_obj(*args, **options)
        return found if len(found) == 1 else []


_RESULTS = Path(__file__).parents[1] / "results" / "claims"


class _Generated(SphinxDirective):
    """Markdown made from stored verdicts or from the code, set where the directive stands; the page
    is read anew in each build."""

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[Element]:
        self.env.note_reread()
        node = Element()
        self.state.nested_parse(StringList(self.lines(), "generated"), self.content_offset, node)
        return node.children


class _League(_Generated):
    """All methods with the verdicts on their claims."""

    def lines(self) -> list[str]:
        return league.league(_RESULTS, self.link)

    def link(self, name: str) -> str:
        page = f"methods/{name}.md"
        if not (Path(__file__).parent / page).exists():
            return f"`{name}`"
        return f"[`{name}`]({posixpath.relpath(page, posixpath.dirname(self.env.docname) or '.')})"


class _Claim(_Generated):
    """The stored result of one claim."""

    required_arguments = 1

    def lines(self) -> list[str]:
        return league.result(self.arguments[0], _RESULTS)


class _Command(_Generated):
    """The summary and the help of a command; without a name the help of the program."""

    optional_arguments = 1

    def lines(self) -> list[str]:
        return page_parts.command(*self.arguments)


class _Augmentations(_Generated):
    """The settings of `Augment` that presets have."""

    def lines(self) -> list[str]:
        return page_parts.augmentations()


class _Verdict(SphinxRole):
    """The stored verdict on a method's claim in a few words, within a line."""

    def run(self) -> tuple[list, list]:
        self.env.note_reread()
        pieces = page_parts.verdict(self.text).split("**")  # every second one is bold
        return [strong("", piece) if at % 2 else Text(piece) for at, piece in enumerate(pieces)], []


def _titles(contents: Element) -> Element:
    """A page's contents without its sections: titles, and what is listed under them."""
    kept = contents.copy()
    for entry in contents.children:
        title = entry.copy()
        title += [part.deepcopy() for part in entry.children[:1]]
        if lists := list(entry.findall(toctree)):
            below = entry.children[1].copy()
            below += [one.deepcopy() for one in lists]
            title += below
        kept += title
    return kept


@cache
def _all_titles(env: BuildEnvironment) -> dict[str, Element]:
    return {page: _titles(contents) for page, contents in env.tocs.items()}


_BESIDE_CONTENTS: dict[tuple, str] = {}
"""The navigation of pages that no list of contents has, such as source code, by their depth."""


def _navigate_by_titles(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Make the navigation, which shows titles alone, from titles alone, and for pages of source code
    once: otherwise it takes nine tenths of a build."""
    make = context.get("toctree")
    if make is None:
        return

    def by_titles(**options) -> str:
        whole = app.env.tocs
        app.env.tocs = _all_titles(app.env)
        try:
            return make(**options)
        finally:
            app.env.tocs = whole

    def navigation(**options) -> str:
        if not options.get("titles_only"):
            return make(**options)
        if pagename in app.env.all_docs:
            return by_titles(**options)
        place = (pagename.count("/"), *sorted(options.items()))
        if place not in _BESIDE_CONTENTS:
            _BESIDE_CONTENTS[place] = by_titles(**options)
        return _BESIDE_CONTENTS[place]

    context["toctree"] = navigation


def setup(app) -> dict[str, bool]:
    app.add_domain(_Python, override=True)
    app.connect("builder-inited", lambda app: reference_pages.write())
    app.add_directive("league", _League)
    app.add_directive("claim", _Claim)
    app.add_directive("command", _Command)
    app.add_directive("augmentations", _Augmentations)
    app.add_role("verdict", _Verdict())
    app.connect("autodoc-process-docstring", _to_rst)
    app.connect("html-page-context", _navigate_by_titles, priority=400)  # before the theme's
    app.add_html_math_renderer(
        "mathml", inline_renderers=_mathml("inline"), block_renderers=_mathml("block")
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
