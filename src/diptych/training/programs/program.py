"""Programs of update rules: their text, their parts, and a hash that equal ones share.

    def train(weight, gradient, state1, state2, lr):
        state1 = interpolate(gradient, state1, 0.9)
        update = state1 * lr
        return update, state1, state2

The text is a small part of Python's grammar. It is read by `ast` and never executed: only
assignments of one call or of one operator, names, numbers, and a return at the end.
"""

import ast
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from diptych.errors import InputError, brief, nearest
from diptych.files import parsed
from diptych.training.programs.functions import ALL, CONSTANTS, OPERATORS, call

MOST = 1 << 16
"""The largest file, in bytes."""
MOST_STATEMENTS = 200
MOST_STATES = 8

_LARGEST = sys.float_info.max
_AST = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}
_REMEDY = "write a program such as docs/discover.md shows"


@dataclass(frozen=True)
class Statement:
    """`target = function(arguments)`; an argument is a name or a number."""

    target: str
    function: str
    arguments: tuple[str | float, ...]

    def __str__(self) -> str:
        words = [each if isinstance(each, str) else repr(each) for each in self.arguments]
        sign = OPERATORS.get(self.function)
        value = f" {sign} ".join(words) if sign else f"{self.function}({', '.join(words)})"
        return f"{self.target} = {value}"


@dataclass(frozen=True)
class Program:
    """A program: its inputs, its statements, and the names that it returns, the update and then
    each state."""

    inputs: tuple[str, ...]
    statements: tuple[Statement, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"def train({', '.join(self.inputs)}):", *map(str, self.statements)]
        return "\n    ".join([*lines, f"return {', '.join(self.outputs)}"]) + "\n"

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the states, of which each parameter has one."""
        return states_of(self.inputs)

    @property
    def functions(self) -> set[str]:
        """The names of the functions that it calls."""
        return {statement.function for statement in self.statements}


def states_of(inputs: Sequence[str]) -> tuple[str, ...]:
    """Return the inputs that are states.

    >>> states_of(("weight", "gradient", "state1", "lr"))
    ('state1',)
    """
    return tuple(name for name in inputs if name not in ("weight", "gradient", "step", "lr"))


def parse(text: str) -> Program:
    """Return the program of a text. Raises InputError with the line of what is not allowed.

    >>> parse("def train(weight, gradient, lr):\\n    x = gradient * lr\\n    return x").outputs
    ('x',)
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise InputError(f"it is not Python's grammar ({brief(error)})") from None
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        raise InputError("it must be one function, def train(weight, gradient, …, lr)")
    train = tree.body[0]
    *body, last = train.body
    inputs = _inputs(train)
    if body and isinstance(body[0], ast.Expr) and _is_text(body[0].value):
        del body[0]  # a docstring
    if len(body) > MOST_STATEMENTS:
        raise InputError(f"it has {len(body):,} statements; at most {MOST_STATEMENTS} are read")
    known = {*inputs, *CONSTANTS}
    statements = []
    for node in body:
        statements.append(_statement(node, known))
        known.add(statements[-1].target)
    outputs = _outputs(last, known)
    if len(outputs) != 1 + len(states_of(inputs)):
        raise InputError(
            f"it returns {len(outputs)} values; it must return the update and {len(states_of(inputs))} states"
        )
    return Program(inputs, tuple(statements), outputs)


def read(text: str) -> Program:
    """Return the program of a file, FILE.py, or of a text."""
    if is_text(text):
        return parse(text)
    path = Path(text).expanduser()
    try:
        return parsed(path, _REMEDY, partial(_located, path), MOST)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"--optimizer {text}: there is no such file; check the path") from None


def is_text(optimizer: str) -> bool:
    """Whether an optimiser is given as the text of a program, as in a run's config.yaml."""
    return optimizer.startswith("def train(")


def is_program(optimizer: str) -> bool:
    """Whether an optimiser is a program: its text, or a file."""
    return is_text(optimizer) or optimizer.endswith(".py")


def digest(program: Program) -> str:
    """Return a hash of what the outputs depend on, which the order of independent statements, the
    names of variables and statements without effect do not change.

    Numbers that follow from numbers are computed first, and the order of two terms or factors does
    not count.

    >>> one = parse("def train(weight, gradient, lr):\\n    x = gradient * lr\\n    return x")
    >>> two = parse("def train(weight, gradient, lr):\\n    y = lr * gradient\\n    z = y + y\\n    return y")
    >>> digest(one) == digest(two)
    True
    """
    known: dict[str, str | float] = {name: f"input {name}" for name in program.inputs}
    known |= CONSTANTS
    for statement in program.statements:
        values = [known[each] if isinstance(each, str) else each for each in statement.arguments]
        known[statement.target] = _combined(statement.function, values)
    return _hash([str(known[name]) for name in program.outputs])


def simplified(program: Program) -> Program:
    """Return the program without the statements that do not reach its outputs; its results have the
    same bits."""
    needed = set(program.outputs)
    kept = []
    for statement in reversed(program.statements):
        if statement.target in needed:
            needed.discard(statement.target)
            needed.update(each for each in statement.arguments if isinstance(each, str))
            kept.append(statement)
    return replace(program, statements=tuple(reversed(kept)))


def _combined(function: str, values: Sequence[str | float]) -> str | float:
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) == len(values) and function not in ("norm",):
        try:
            (found,) = call(function, [[value] for value in numbers])
            return float(found)
        except InputError:  # of tensors alone, which abstract execution refuses
            pass
    words = [str(value) for value in values]
    return _hash([function, *(sorted(words) if ALL[function].commutes else words)])


def _hash(words: Sequence[str]) -> str:
    return hashlib.sha256(repr(list(words)).encode()).hexdigest()[:32]


def _located(path: Path, text: str) -> Program:
    try:
        return parse(text)
    except InputError as error:
        raise InputError(f"{path}: {error}; {_REMEDY}") from None


def _refuse(node: ast.AST, what: str) -> NoReturn:
    raise InputError(f"line {getattr(node, 'lineno', 1)}: {what}")


def _inputs(train: ast.FunctionDef) -> tuple[str, ...]:
    arguments = train.args
    names = tuple(each.arg for each in arguments.args)
    train.body = [ast.Pass()]  # the statements have been taken out
    if ast.unparse(train) != f"def train({', '.join(names)}):\n    pass":
        _refuse(train, "it must be def train(weight, gradient, …, lr), without defaults or types")
    states = states_of(names)
    if not {"weight", "gradient", "lr"} <= set(names) or len(set(names)) < len(names):
        _refuse(train, "train takes weight, gradient and lr, each once")
    if len(states) > MOST_STATES or states != tuple(f"state{n + 1}" for n in range(len(states))):
        _refuse(
            train,
            f"beside weight, gradient, step and lr, train takes state1, state2, … in order, at most {MOST_STATES}",
        )
    return names


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _statement(node: ast.stmt, known: Mapping[str, object] | set[str]) -> Statement:
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        _refuse(node, "only assignments NAME = FUNCTION(…) are allowed, and one return at the end")
    target = node.targets[0]
    if not isinstance(target, ast.Name) or target.id in CONSTANTS or target.id in ALL:
        _refuse(node, "a value is assigned to one name, which is no constant and no function")
    value = node.value
    if isinstance(value, ast.BinOp) and type(value.op) in _AST:
        name = _AST[type(value.op)]
        given = [value.left, value.right]
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and not value.keywords:
        name = value.func.id
        given = value.args
    else:
        _refuse(node, "a value is one call, or two values with + - * or / between them")
    if name not in ALL or (name in OPERATORS and isinstance(value, ast.Call)):
        there = sorted({*ALL} - {*OPERATORS})
        close = nearest(name, there)
        _refuse(
            node,
            f"there is no function {name}; "
            + (f"did you mean {close}?" if close else f"there are {', '.join(there)}"),
        )
    if len(given) != ALL[name].arity:
        _refuse(node, f"{name} takes {ALL[name].arity} arguments, not {len(given)}")
    return Statement(target.id, name, tuple(_argument(each, known) for each in given))


def _argument(node: ast.expr, known: Mapping[str, object] | set[str]) -> str | float:
    if isinstance(node, ast.Name):
        if node.id not in known:
            _refuse(node, f"{node.id} is not defined before it is used")
        return node.id
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    inner = node.operand if isinstance(node, ast.UnaryOp) and negative else node
    value = inner.value if isinstance(inner, ast.Constant) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST:
        return -float(value) if negative else float(value)
    _refuse(node, "an argument is a name or a finite number; assign what is computed to a name")


def _outputs(node: ast.stmt, known: set[str]) -> tuple[str, ...]:
    if not isinstance(node, ast.Return) or node.value is None:
        _refuse(node, "the last line must return the update and the states")
    values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    for value in values:
        if not isinstance(value, ast.Name) or value.id not in known:
            _refuse(node, "what is returned must be names that are defined before")
    return tuple(value.id for value in values if isinstance(value, ast.Name))
