"""Tests on the columns of a pyarrow table, of which `diptych.embeddings.where` makes a filter.

As in SQL, a comparison with null is null. A column of text that is compared with a number is read as
numbers, its blanks as null.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diptych.errors import InputError, brief


@dataclass(frozen=True, slots=True)
class Name:
    """A column in a filter."""

    name: str


Constant = int | float | str
Operand = Name | Constant
Test = Callable[[Any], Any]
"""From a pyarrow table to a pyarrow array of booleans, null where neither is known."""


def compute() -> Any:
    """Return pyarrow.compute, which is imported at the first filter."""
    import pyarrow.compute

    return pyarrow.compute


def joined(function: str, tests: Sequence[Test]) -> Test:
    """Return several tests as one, by `and_kleene` or `or_kleene`, SQL's and, or."""
    if len(tests) == 1:
        return tests[0]

    def all_joined(table: Any) -> Any:
        found = tests[0](table)
        for test in tests[1:]:
            found = getattr(compute(), function)(found, test(table))
        return found

    return all_joined


def inverted(test: Test, negated: bool) -> Test:
    """Return the opposite of a test if it is negated."""
    return (lambda table: compute().invert(test(table))) if negated else test


def is_null(operand: Operand) -> Test:
    """Return whether a value is null."""
    return lambda table: compute().is_null(_values(operand, table))


def comparison(function: str, left: Operand, right: Operand) -> Test:
    """Return the test of a function such as `less`."""

    def compare(table: Any) -> Any:
        pair = _alike(_values(left, table), _values(right, table), left, right)
        return getattr(compute(), function)(*pair)

    return compare


def among(left: Operand, values: Sequence[Constant]) -> Test:
    """Return whether a value is one of several, null for null."""
    return joined("or_kleene", [_one_of(left, each) for each in _by_type(values)])


def _by_type(values: Sequence[Constant]) -> list[list[Constant]]:
    texts: list[Constant] = [value for value in values if isinstance(value, str)]
    numbers: list[Constant] = [value for value in values if not isinstance(value, str)]
    return [group for group in (texts, numbers) if group]


def _one_of(left: Operand, values: Sequence[Constant]) -> Test:
    def one_of(table: Any) -> Any:
        import pyarrow

        library = compute()
        listed = pyarrow.array(
            [float(value) for value in values]
            if any(isinstance(value, float) for value in values)
            else values
        )
        own, listed = _alike(_values(left, table), listed, left, values[0])
        found = library.is_in(own, value_set=listed)
        return library.if_else(library.is_null(own), pyarrow.scalar(None, pyarrow.bool_()), found)

    return one_of


def like(left: Operand, pattern: str, ignore_case: bool) -> Test:
    """Return whether a text matches a pattern, in which % is any text and _ any character."""

    def is_like(table: Any) -> Any:
        import pyarrow

        values = _values(left, table)
        if not pyarrow.types.is_string(values.type):
            raise InputError(
                f"{_called(left)} holds numbers, which are not like {pattern!r}; compare it with < or ="
            )
        return compute().match_like(values, pattern, ignore_case=ignore_case)

    return is_like


def _values(operand: Operand, table: Any) -> Any:
    """Return a column, or a literal repeated for each row."""
    import pyarrow

    if isinstance(operand, Name):
        column = table.column(operand.name)
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return pyarrow.repeat(operand, table.num_rows)


def _called(operand: Operand) -> str:
    return f"column {operand.name!r}" if isinstance(operand, Name) else repr(operand)


def _alike(first: Any, second: Any, left: Operand, right: Operand) -> tuple[Any, Any]:
    """Return two arrays of one type: numbers if one of them has numbers.

    Raises InputError for a column of numbers compared with a text.
    """
    import pyarrow

    is_text = [pyarrow.types.is_string(values.type) for values in (first, second)]
    if all(is_text):
        return first, second
    operands = (left, right)
    for text, operand, other in zip(is_text, operands, operands[::-1], strict=True):
        if text and not isinstance(operand, Name):
            raise InputError(
                f"{_called(other)} holds numbers, and {operand!r} is a text; compare it with a number, without quotes"
            )
    arrays = [
        _as_numbers(values, operand) if text else values
        for text, values, operand in zip(is_text, (first, second), operands, strict=True)
    ]
    if any(pyarrow.types.is_floating(values.type) for values in arrays):
        arrays = [values.cast(pyarrow.float64(), safe=False) for values in arrays]
    return arrays[0], arrays[1]


def _as_numbers(values: Any, operand: Operand) -> Any:
    """Return a column of text as numbers, its blanks as null."""
    import pyarrow

    library = compute()
    trimmed = library.utf8_trim_whitespace(values)
    blank = library.equal(trimmed, "")
    trimmed = library.if_else(blank, pyarrow.scalar(None, pyarrow.string()), trimmed)
    try:
        return trimmed.cast(pyarrow.float64())
    except pyarrow.ArrowInvalid:
        number = library.match_substring_regex(trimmed, r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)$")
        odd = trimmed.filter(library.invert(number)).to_pylist()
        example = f", such as {brief(repr(odd[0]), 40)}" if odd else ""
        raise InputError(
            f"{_called(operand)} holds text{example}; compare it with a text in quotes, or give it numbers alone"
        ) from None
