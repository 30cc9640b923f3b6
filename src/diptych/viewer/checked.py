"""The sections on a source: what `diptych check` finds in it, its classes, and its fields."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from diptych.data.check import Classes, Report, check
from diptych.data.sample import Field, Source
from diptych.data.sources import DataLike, open_source
from diptych.data.worlds import cards
from diptych.front.checking import Checked
from diptych.lab import report as html
from diptych.viewer.cards import Links, Ref, swatch_of
from diptych.viewer.document import attribute, text
from diptych.viewer.pictures import colour
from diptych.viewer.subject import Progress, Section, Shelf, Subject, numbers

_DAMAGED = 40  # samples shown for each reason
_LARGEST = 60  # classes shown: the largest,
_SMALLEST = 20  # and the smallest
_CLASSES = 24  # class names shown for a field


def of_source(
    data: DataLike, *, val: DataLike | None = None, quick: bool = False, workers: int = 0
) -> Subject:
    """Return the subject of a source: what `check` finds, leakage from `val` included, its fields
    and its samples.

    With `quick` it is not checked, which reads every sample. Raises InputError as `open_source`.
    """
    source = open_source(data)
    other = None if val is None else open_source(val)
    sources = [source] if other is None else [source, other]

    def slow(progress: Progress) -> Sequence[Section]:
        # Opened again, since a server shows samples meanwhile.
        again = open_source(data)
        beside = None if val is None else open_source(val)
        found = check(again, val=beside, workers=workers, progress=progress)
        return sections(found, sources)

    return Subject(
        title=source.name,
        lead=f"{len(source):,} samples.",
        sources=sources,
        after=[fields(source)],
        slow=None if quick else slow,
    )


def of_world(source: Any) -> Subject:
    """Return the subject of a world: its samples and fields."""
    name = source.world.name
    return Subject(
        title=name.capitalize(),
        lead=f"{cards()[name]['title']}. Made by {source.name}.",
        sources=[source],
        after=[fields(source)],
    )


def sections(found: Report, sources: Sequence[Source]) -> list[Section]:
    """Return the sections on what `check` found in the first of the sources, and on what of the
    second one it found there."""
    parts = [_summary(found)]
    for part in (_damaged(found, sources[0]), _duplicates(found, sources[0])):
        parts += [part] if part else []
    if found.leakage is not None:
        parts.append(_leakage(found, sources))
    return [*parts, *_labels(found.labels, sources[0])]


def _summary(found: Report) -> Section:
    leakage = found.leakage
    leaks = 0 if leakage is None else leakage.same_image + leakage.alike_image
    most = [
        (f"{found.samples:,}", "samples"),
        (f"{len(found.damaged):,}", "damaged"),
        (f"{found.duplicates.images:,}", "exact duplicates"),
        (f"{found.alike.images:,}", "duplicates or nearly so"),
        *([] if leakage is None else [(f"{leaks:,}", "images of the validation in here")]),
    ]
    table = html.table(("what", "found", "such as"), Checked(found, None).rows())

    def write(shelf: Shelf, links: Links) -> str:
        return f'{html.figures(*most)}<div class="card">{table}</div>'

    return Section(id="check", title="Check", note="What diptych check finds.", html=write)


def _labels(found: Sequence[Classes], source: Source) -> list[Section]:
    return [_classes(each, source) for each in found]


def _classes(found: Classes, source: Source) -> Section:
    named = [(name, count, number) for number, (name, count) in enumerate(found.counts.items())]
    named.sort(key=lambda each: -each[1])
    total = sum(count for _, count, _ in named)
    largest = max((count for _, count, _ in named), default=0)
    left_out = max(0, len(named) - _LARGEST - _SMALLEST)
    shown = [*named[:_LARGEST], *named[max(_LARGEST, len(named) - _SMALLEST) :]]
    places = numbers(source, (key for keys, _ in found.twice for key in keys))

    def write(shelf: Shelf, links: Links) -> str:
        rows = []
        for at, (name, count, number) in enumerate(shown):
            if left_out and at == _LARGEST:
                rows.append(f'<tr><td colspan="3">{left_out:,} more</td></tr>')
            to = links.of_class(found.label, number)
            said = text(name) if to is None else f'<a href="{attribute(to)}">{text(name)}</a>'
            rows.append(
                f'<tr><td class="name">{said}</td><td class="bar">{_bar(count, largest)}</td>'
                f'<td class="n">{count:,}</td></tr>'
            )
        table = (
            f'<div class="card"><table class="classes"><tbody>{"".join(rows)}</tbody></table></div>'
        )
        twice = [(keys, ", ".join(names)) for keys, names in found.twice]
        if not twice:
            return table
        return f"{table}<h3>In two classes</h3>{_groups(twice, places, shelf, links)}"

    facts = [f"{len(named):,} classes, {total:,} samples"]
    facts += [f"classes without samples: {len(found.empty):,}"] if found.empty else []
    facts += [f"samples without a class: {found.without:,}"] if found.without else []
    facts += [f"images in two classes: {found.images:,}"] if found.images else []
    note = f"{'; '.join(facts)}."
    id = re.sub(r"\W+", "-", found.label)
    return Section(id=f"classes-{id}", title=f"Classes of {found.label}", note=note, html=write)


def _bar(count: int, largest: int) -> str:
    share = 100 * count / largest if largest else 0
    return (
        '<svg class="share" aria-hidden="true">'
        f'<rect width="{share:.2f}%" height="100%" rx="3"/></svg>'
    )


def _damaged(found: Report, source: Source) -> Section | None:
    if not found.damaged:
        return None
    reasons: dict[str, list[str]] = {}
    for key, reason in found.damaged.items():
        reasons.setdefault(reason, []).append(key)
    shown = {reason: keys[:_DAMAGED] for reason, keys in reasons.items()}
    places = numbers(source, (key for keys in shown.values() for key in keys))

    def write(shelf: Shelf, links: Links) -> str:
        parts = []
        for reason, keys in shown.items():
            total = len(reasons[reason])
            more = f", of which {len(keys):,} are shown" if total > len(keys) else ""
            cards = "".join(_mini(key, places, shelf, links) for key in keys)
            parts.append(_group(cards, f"{escape(reason)}: {total:,}{more}"))
        return f'<div class="groups">{"".join(parts)}</div>'

    note = f"{found.bad_share:.2%} of all samples. Training leaves them out, and counts them by reason."
    return Section(id="damaged", title="Damaged", note=note, html=write)


def _duplicates(found: Report, source: Source) -> Section | None:
    same = found.duplicates
    equal = {frozenset(group) for group in same.groups}
    alike = [group for group in found.alike.groups if frozenset(group) not in equal]
    often = found.false_negatives.captions
    if not (same.groups or alike or often):
        return None
    places = numbers(source, (key for group in [*same.groups, *alike] for key in group))

    def write(shelf: Shelf, links: Links) -> str:
        parts = []
        for title, groups in (("The same image", same.groups), ("Nearly the same image", alike)):
            if groups:
                shown = _groups([(group, "") for group in groups], places, shelf, links)
                parts.append(f"<h3>{title}</h3>{shown}")
        if often:
            rows = [(caption, f"{count:,}") for caption, count in often]
            table = html.table(("caption", "samples"), rows)
            parts.append(
                f'<h3>Captions of several samples</h3><div class="card quoted">{table}</div>'
            )
        return "".join(parts)

    note = (
        f"Images that repeat another byte for byte: {same.images:,}; these, and those that look "
        f"nearly the same: {found.alike.images:,}. At most 20 groups of each are shown."
    )
    return Section(id="duplicates", title="Duplicates", note=note, html=write)


def _leakage(found: Report, sources: Sequence[Source]) -> Section:
    leakage = found.leakage
    assert leakage is not None
    places = numbers(sources[0], (own for _, own, _ in leakage.pairs))
    others = numbers(sources[1], (key for key, _, _ in leakage.pairs))
    kinds = dict.fromkeys(what for _, _, what in leakage.pairs)

    def write(shelf: Shelf, links: Links) -> str:
        parts = []
        for kind in kinds:
            pairs = [(key, own) for key, own, what in leakage.pairs if what == kind]
            shown = "".join(
                _group(
                    _mini(key, others, shelf, links, "validation", 1)
                    + _mini(own, places, shelf, links, "here")
                )
                for key, own in pairs
            )
            parts.append(f'<h3>{kind.capitalize()}</h3><div class="groups">{shown}</div>')
        return "".join(parts)

    note = (
        f"Of {leakage.samples:,} samples of {sources[1].name}, {leakage.same_image:,} share their "
        f"image with a sample here, {leakage.alike_image:,} nearly so, and {leakage.same_caption:,} "
        "share a caption. At most 20 of each are shown."
    )
    return Section(id="leakage", title="Leakage", note=note, html=write)


def _groups(
    groups: Iterable[tuple[Sequence[str], str]],
    places: dict[str, int],
    shelf: Shelf,
    links: Links,
) -> str:
    shown = "".join(
        _group(
            "".join(_mini(key, places, shelf, links) for key in keys), text(said) if said else ""
        )
        for keys, said in groups
    )
    return f'<div class="groups">{shown}</div>'


def _group(minis: str, said: str = "") -> str:
    title = f"<p>{said}</p>" if said else ""
    return f'<div class="group">{title}<div class="minis">{minis}</div></div>'


def _mini(
    key: str, places: dict[str, int], shelf: Shelf, links: Links, note: str = "", source: int = 0
) -> str:
    """Return the small picture of a key; one that was lost when the source was indexed has none."""
    if key in places:
        return shelf.mini(Ref(source, places[key]), links, note)
    said = f'<span class="soft">{escape(note)}</span>' if note else ""
    return f'<span class="mini">{text(key)}{said}</span>'


def fields(source: Source) -> Section:
    """Return the section on what each sample holds, with the colours of masks."""

    def write(shelf: Shelf, links: Links) -> str:
        rows = "".join(
            f"<tr><td>{text(name)}</td><td>{escape(field.kind)}"
            f"{', not in all' if field.optional else ''}</td><td>{_names(field)}</td></tr>"
            for name, field in source.schema().items()
        )
        head = "<tr><th>field</th><th>kind</th><th>classes</th></tr>"
        return f'<div class="card"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'

    return Section(id="fields", title="Fields", note="What each sample holds.", html=write)


def _names(field: Field) -> str:
    names = []
    for number, name in enumerate(field.classes[:_CLASSES]):
        swatch = f"{swatch_of(colour(number))} " if field.kind == "mask" else ""
        names.append(f'<span class="named">{swatch}{text(name)}</span>')
    more = len(field.classes) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more > 0 else "")
