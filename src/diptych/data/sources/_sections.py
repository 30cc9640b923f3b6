"""Sections of reports of radiology."""

import re

ROLES = ("findings", "impression")
_NAMES = {
    "FINDINGS": "findings",
    "FINDING": "findings",
    "IMPRESSION": "impression",
    "CONCLUSION": "impression",
}
_HEADING = re.compile(r"^[ \t]*(?P<name>[A-Z][A-Z /,()&-]+):", re.MULTILINE)


def sections(report: str) -> dict[str, str]:
    """The findings and the impression of a report, of which it may lack either, without line breaks.

    A section begins with a heading in capitals at the start of a line, and ends at the next one.

    >>> sections("EXAM: Chest.\\n\\nFINDINGS:  Clear lungs.\\nNo effusion.\\n\\nIMPRESSION: Normal.")
    {'findings': 'Clear lungs. No effusion.', 'impression': 'Normal.'}
    """
    found: dict[str, str] = {}
    headings = list(_HEADING.finditer(report))
    ends = [heading.start() for heading in headings[1:]] + [len(report)]
    for heading, end in zip(headings, ends, strict=True):
        name = _NAMES.get(heading["name"].strip())
        text = " ".join(report[heading.end() : end].split())
        if name is not None and text:
            found.setdefault(name, text)
    return found
