"""Results that a notebook shows as a table, and that become a pandas table."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from diptych.errors import InputError


class Tabular:
    """A result with rows. A subclass implements `records`; its `title` stands above the table.

    >>> class Squares(Tabular):
    ...     def records(self):
    ...         return [{"n": n, "square": n * n} for n in (1, 2)]
    >>> Squares().to_pandas()["square"].tolist()
    [1, 4]
    """

    title: str = ""

    def records(self) -> Sequence[Mapping[str, Any]]:
        """The rows, each as column -> value."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`. Raises InputError if pandas is missing."""
        try:
            import pandas
        except ImportError:
            raise InputError(
                "to_pandas needs pandas; install it with pip install pandas, or use records()"
            ) from None
        return pandas.DataFrame.from_records(list(self.records()))

    def _repr_html_(self) -> str:
        return html_table(self.title, self.records())


class Markup(str):
    """Text of a cell that is HTML already."""


def html_table(title: str, records: Sequence[Mapping[str, Any]]) -> str:
    """A table with a caption, its text escaped; columns are those of all rows.

    >>> html_table("", [{"a": "<b>", "c": 0.123456}])
    '<table><thead><tr><th>a</th><th>c</th></tr></thead><tbody><tr><td>&lt;b&gt;</td><td>0.1235</td></tr></tbody></table>'
    """
    columns = list(dict.fromkeys(name for record in records for name in record))
    head = "".join(f"<th>{escape(str(name))}</th>" for name in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_cell(record.get(name))}</td>" for name in columns) + "</tr>"
        for record in records
    )
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, Markup):
        return value
    if value is None:
        return ""
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))
