"""Tests on the columns of a pyarrow table, of which `diptych.embeddings.where` makes a filter.

As in SQL, a comparison with null is null. A column of text that is compared with a number is read as
numbers, its blanks as null.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from diptych.errors import InputError, brief


@dataclass(frozen=True, slots=True)
class Name:
    """A column in a filter."""

    name: str


Constant = int | float | str
Operand = Name | Constant


def compute() -> Any:
    """Return pyarrow.compute, which is imported at the first filter."""
    import pyarrow.compute

    return pyarrow.compute


class Test(Protocol):
    """From a pyarrow table to a pyarrow array of booleans, null where neither is known."""

    def __call__(self, table: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Joined:
    """Several tests as one, by `and_kleene` or `or_kleene`, SQL's and, or."""

    function: str
    tests: Sequence[Test]

    def __call__(self, table: Any) -> Any:
        found = self.tests[0](table)
        for test in self.tests[1:]:
            found = getattr(compute(), self.function)(found, test(table))
        return found


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of a test."""

    test: Test

    def __call__(self, table: Any) -> Any:
        return compute().invert(self.test(table))


@dataclass(frozen=True, slots=True)
class IsNull:
    """Whether a value is null."""

    operand: Operand

    def __call__(self, table: Any) -> Any:
        return compute().is_null(_values(self.operand, table))


@dataclass(frozen=True, slots=True)
class Comparison:
    """A function such as `less` of two values."""

    function: str
    left: Operand
    right: Operand

    def __call__(self, table: Any) -> Any:
        pair = _alike(_values(self.left, table), _values(self.right, table), self.left, self.right)
        return getattr(compute(), self.function)(*pair)


@dataclass(frozen=True, slots=True)
class OneOf:
    """Whether a value is one of several, which are all texts or all numbers; null for null."""

    left: Operand
    values: Sequence[Constant]

    def __call__(self, table: Any) -> Any:
        import pyarrow

        library = compute()
        listed = pyarrow.array(
            [float(value) for value in self.values]
            if any(isinstance(value, float) for value in self.values)
            else self.values
        )
        own, listed = _alike(_values(self.left, table), listed, self.left, self.values[0])
        found = library.is_in(own, value_set=listed)
        return library.if_else(library.is_null(own), pyarrow.scalar(None, pyarrow.bool_()), found)


@dataclass(frozen=True, slots=True)
class Like:
    """Whether a text matches a pattern, in which % is any text and _ any character."""

    left: Operand
    pattern: str
    ignore_case: bool

    def __call__(self, table: Any) -> Any:
        import pyarrow

        values = _values(self.left, table)
        if not pyarrow.types.is_string(values.type):
            raise InputError(
                f"{_called(self.left)} holds numbers, which are not like {self.pattern!r}; compare it with < or ="
            )
        return compute().match_like(values, self.pattern, ignore_case=self.ignore_case)


def joined(function: str, tests: Sequence[Test]) -> Test:
    """Return several tests as one; one alone as it is."""
    return tests[0] if len(tests) == 1 else Joined(function, tests)


def inverted(test: Test, negated: bool) -> Test:
    """Return the opposite of a test if it is negated."""
    return Not(test) if negated else test


def among(left: Operand, values: Sequence[Constant]) -> Test:
    """Return whether a value is one of several, null for null."""
    texts: list[Constant] = [value for value in values if isinstance(value, str)]
    numbers: list[Constant] = [value for value in values if not isinstance(value, str)]
    groups = [group for group in (texts, numbers) if group]
    return joined("or_kleene", [OneOf(left, group) for group in groups])


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
