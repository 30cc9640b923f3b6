"""Random changes of programs: one statement inserted, deleted or modified, or one number scaled."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diptych.errors import InputError
from diptych.training.programs.execute import check
from diptych.training.programs.functions import ALL, CONSTANTS
from diptych.training.programs.program import Program, Statement, digest

LONGEST = 40
"""Statements from which on none is inserted."""
_TRIES = 1000
_LARGEST = 1e10


def mutated(program: Program, rng: np.random.Generator) -> Program:
    """Return a program that is one change away from `program`, can train, and has another hash.

    Raises InputError if a thousand changes give none.
    """
    before = digest(program)
    changes = [_insert, _delete, _modify, _scale]
    if len(program.statements) >= LONGEST:
        changes.remove(_insert)
    for _ in range(_TRIES):
        found = changes[rng.integers(len(changes))](program, rng)
        if found is not None and digest(found) != before and can_train(found):
            return found
    raise InputError("no change of the program can train; begin from another")


def can_train(program: Program) -> bool:
    """Whether a program passes the checks of shapes and of numbers."""
    try:
        check(program)
    except InputError:
        return False
    return True


def names_at(program: Program, at: int) -> list[str]:
    """Return the names that are defined before statement `at`."""
    targets = [statement.target for statement in program.statements[:at]]
    return list(dict.fromkeys([*program.inputs, *CONSTANTS, *targets]))


def _insert(program: Program, rng: np.random.Generator) -> Program | None:
    at = int(rng.integers(len(program.statements) + 1))
    names = names_at(program, at)
    function = _one(list(ALL), rng)
    arguments = tuple(_argument(names, rng) for _ in range(ALL[function].arity))
    targets = [*(name for name in names if name not in CONSTANTS), _new_name(program)]
    statement = Statement(_one(targets, rng), function, arguments)
    return _with(program, at, at, [statement])


def _delete(program: Program, rng: np.random.Generator) -> Program | None:
    if not program.statements:
        return None
    at = int(rng.integers(len(program.statements)))
    return _with(program, at, at + 1, [])


def _modify(program: Program, rng: np.random.Generator) -> Program | None:
    """Replace one argument of a statement by a name or a number."""
    if not program.statements:
        return None
    at = int(rng.integers(len(program.statements)))
    statement = program.statements[at]
    which = int(rng.integers(len(statement.arguments)))
    arguments = list(statement.arguments)
    arguments[which] = _argument(names_at(program, at), rng)
    return _with(program, at, at + 1, [replace(statement, arguments=tuple(arguments))])


def _scale(program: Program, rng: np.random.Generator) -> Program | None:
    """Multiply one number by 2^a, where a is normal."""
    places = [
        (at, which)
        for at, statement in enumerate(program.statements)
        for which, each in enumerate(statement.arguments)
        if isinstance(each, float)
    ]
    if not places:
        return None
    at, which = places[rng.integers(len(places))]
    statement = program.statements[at]
    arguments = list(statement.arguments)
    scaled = float(arguments[which]) * 2.0 ** rng.standard_normal()
    arguments[which] = float(np.clip(scaled, -_LARGEST, _LARGEST))
    return _with(program, at, at + 1, [replace(statement, arguments=tuple(arguments))])


def _with(
    program: Program, begin: int, end: int, statements: Sequence[Statement]
) -> Program | None:
    """Return the program with other statements in place of some; None if a name is then used before
    it is defined."""
    changed = (*program.statements[:begin], *statements, *program.statements[end:])
    found = replace(program, statements=changed)
    for at, statement in enumerate(changed):
        known = names_at(found, at)
        if any(isinstance(each, str) and each not in known for each in statement.arguments):
            return None
    known = names_at(found, len(changed))
    return found if all(name in known for name in found.outputs) else None


def without(program: Program, at: int) -> list[Program]:
    """Return the programs in which statement `at` is left out: alone, if its target is defined
    before, and with each of its arguments in place of its target."""
    statement = program.statements[at]
    arguments = dict.fromkeys(statement.arguments)
    found = [_with(program, at, at + 1, []), *(_bypassed(program, at, each) for each in arguments)]
    return [each for each in found if each is not None]


def _bypassed(program: Program, at: int, value: str | float) -> Program | None:
    """Return the program with `value` read in place of the target of statement `at`, up to the next
    assignment of the target; None if `value` is a number where a name is returned, or is assigned
    anew before it is read."""
    target = program.statements[at].target
    rest = []
    replaced = True
    changed = False  # whether `value` is no longer what it was
    for statement in program.statements[at + 1 :]:
        if replaced and target in statement.arguments:
            if changed:
                return None
            arguments = tuple(value if each == target else each for each in statement.arguments)
            statement = replace(statement, arguments=arguments)
        replaced = replaced and statement.target != target
        changed = changed or statement.target == value
        rest.append(statement)
    outputs = program.outputs
    if replaced and target in outputs:
        if changed or not isinstance(value, str):
            return None
        outputs = tuple(value if name == target else name for name in outputs)
    return _with(replace(program, outputs=outputs), at, len(program.statements), rest)


def _argument(names: Sequence[str], rng: np.random.Generator) -> str | float:
    """A name, or with the weight of one name a new number."""
    at = int(rng.integers(len(names) + 1))
    return names[at] if at < len(names) else float(rng.standard_normal())


def _new_name(program: Program) -> str:
    taken = set(names_at(program, len(program.statements)))
    number = 1
    while f"v{number}" in taken:
        number += 1
    return f"v{number}"


def _one(items: Sequence[str], rng: np.random.Generator) -> str:
    return items[int(rng.integers(len(items)))]
