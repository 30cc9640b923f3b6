"""Update rules as programs: their language, their functions, their hash, and training by them."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.helpers import HEAD, rule
from torch import nn

from diptych.errors import InputError
from diptych.lab.discover.mutate import mutated
from diptych.methods.base import Recipe
from diptych.rng import generator
from diptych.training import optim
from diptych.training.optim.lion import Lion
from diptych.training.programs.execute import check, execute
from diptych.training.programs.functions import FUNCTIONS
from diptych.training.programs.known import adamw, lion
from diptych.training.programs.optimizer import ProgramOptimizer
from diptych.training.programs.program import MOST_STATEMENTS, digest, parse, read, simplified

SHAPES = ((7, 5), (3,), ())


def weights(dtype=torch.float32):
    draws = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=draws).to(dtype)) for shape in SHAPES]


def trained(optimizer, parameters, steps=30, seed=1, scale=0.1):
    """Take steps by random gradients, which are 0 at some places, and return the weights."""
    draws = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in parameters:
            gradient = scale * torch.randn(parameter.shape, generator=draws)
            parameter.grad = gradient.where(gradient > -0.1, 0).to(parameter.dtype)
        optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


def equal(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


KNOWN = {
    "adamw": (
        lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1),
        adamw((0.9, 0.98), 1e-6),
    ),
    "lion": (lambda p: Lion(p, lr=0.01, weight_decay=0.1), lion()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", KNOWN)
def test_known_rules_have_the_bits_of_the_librarys(name, dtype):
    build, program = KNOWN[name]
    theirs, ours = weights(dtype), weights(dtype)
    expected = trained(build(theirs), theirs)
    assert equal(trained(ProgramOptimizer(ours, program, 0.01, 0.1), ours), expected)


@pytest.mark.parametrize("second", [-0.04, -0.043])
def test_anchors_of_lion(second):
    """The sheet's anchors 1 and 7; the second gradient of 7 tells a momentum that is updated first."""
    w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer = ProgramOptimizer([w], lion(), lr=0.1, weight_decay=0.01)
    seen = []
    for gradient in ((0.5, -1.0, 0.0), (second, 0.2, 0.1), (-0.2, 0.3, 0.0)):
        w.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        seen.append((w.detach().clone(), optimizer.state[w]["state1"].clone()))
    near = {"rtol": 0, "atol": 1e-12}
    assert seen[0][0].tolist() == pytest.approx([0.899, -1.898, 0.4995], abs=1e-12)
    assert seen[1][0][0].item() == pytest.approx(0.798101, abs=1e-12)
    if second == -0.04:
        last = torch.tensor([0.897302899, -2.094105898, 0.2986014995], dtype=torch.float64)
        momentum = torch.tensor([0.0025045, -0.004821, 0.00099], dtype=torch.float64)
        torch.testing.assert_close(seen[2][0], last, **near)
        torch.testing.assert_close(seen[2][1], momentum, **near)


def test_one_step_of_adamw_by_hand():
    """A loop in float64 of Loshchilov and Hutter's equations."""
    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = ProgramOptimizer([w], adamw((0.9, 0.99), 1e-8), lr=0.1, weight_decay=0.01)
    expected, m, v = [1.0, -2.0], [0.0, 0.0], [0.0, 0.0]
    for t, gradient in enumerate(((0.3, -0.2), (-0.1, 0.4), (0.2, 0.0)), 1):
        w.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        for i, g in enumerate(gradient):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.99 * v[i] + 0.01 * g * g
            step = m[i] / (1 - 0.9**t) / (math.sqrt(v[i] / (1 - 0.99**t)) + 1e-8)
            expected[i] = expected[i] - 0.1 * 0.01 * expected[i] - 0.1 * step
        assert w.tolist() == pytest.approx(expected, abs=1e-12)


def test_parameters_without_a_gradient_stay_and_groups_have_their_rates():
    first, second, third = (nn.Parameter(torch.ones(2)) for _ in range(3))
    groups = [{"params": [first, third]}, {"params": [second], "lr": 0.2}]
    optimizer = ProgramOptimizer(groups, lion(), lr=0.1, weight_decay=0.5)
    first.grad = second.grad = torch.ones(2)
    optimizer.step()
    assert third.tolist() == [1.0, 1.0]
    assert first.tolist() == pytest.approx([0.85, 0.85])
    assert second.tolist() == pytest.approx([0.7, 0.7])
    assert third not in optimizer.state


def test_what_is_returned_as_it_came_is_copied():
    """States change places, and the update is the weight itself."""
    program = parse(
        "def train(weight, gradient, state1, state2, lr):\n    state1 = state1 + 1.0\n"
        "    return weight, state2, state1"
    )
    w = nn.Parameter(torch.ones(2))
    optimizer = ProgramOptimizer([w], program, lr=0.1)
    seen = []
    for _ in range(4):
        w.grad = torch.ones(2)
        optimizer.step()
        seen.append(
            (optimizer.state[w]["state1"][0].item(), optimizer.state[w]["state2"][0].item())
        )
    assert seen == [(0.0, 1.0), (1.0, 1.0), (1.0, 2.0), (2.0, 2.0)]
    assert w.tolist() == [0.0, 0.0]


def test_functions_of_all_tensors_see_all_parameters():
    x = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    y = [torch.tensor([1.0, 2.0]), torch.tensor([[2.0]])]

    def run(line):
        inputs = {"weight": x, "gradient": y, "state1": y, "lr": [0.1, 0.1]}
        return [torch.as_tensor(value).tolist() for value in execute(rule(line), inputs)[0]]

    assert run("update = global_norm(weight)") == [5.0, 5.0]
    assert run("update = norm(weight)") == [3.0, 4.0]
    assert run("update = dot(weight, gradient)") == [11.0, 11.0]
    assert run("update = cosine(weight, gradient)") == pytest.approx([11 / 15] * 2)
    (long, short) = run("update = clip_by_global_norm(weight, 1.0)")
    assert long == pytest.approx([0.6, 0.0])
    assert short[0] == pytest.approx([0.8])
    assert run("update = clip_by_global_norm(weight, 9.0)") == [[3.0, 0.0], [[4.0]]]


@pytest.mark.parametrize(
    "name", [name for name, function in FUNCTIONS.items() if function.arity == 1]
)
def test_functions_agree_on_numbers_and_tensors(name):
    """NumPy computes them on numbers, torch on tensors."""
    values = [0.3, 0.75] if name in ("arccos", "arcsin", "arctanh") else [0.3, -1.5, 2.0]
    values = [abs(value) + 1 for value in values] if name == "arccosh" else values
    for value in values:
        alone = FUNCTIONS[name].call(np, np.float64(value))
        tensor = FUNCTIONS[name].call(torch, torch.tensor(value, dtype=torch.float64))
        assert tensor.item() == pytest.approx(alone, rel=1e-12)


def test_guarded_functions():
    x = torch.tensor(-8.0, dtype=torch.float64)
    call = {
        name: FUNCTIONS[name].call(torch, x).item() for name in ("sqrt", "log2", "cbrt", "log1p")
    }
    expected = {"sqrt": math.sqrt(8), "log2": 3, "cbrt": -2, "log1p": math.log(7)}
    assert call == pytest.approx(expected)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9, 0.0, 1.0, -2.0])
def test_interpolate(weight):
    x, y = torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = {"weight": [x], "gradient": [y], "state1": [x], "lr": [weight]}
    for square in (False, True):  # the product is formed in the sum
        lines = ["x = square(weight)" if square else "x = weight - 0.0"]
        ((found,), _) = execute(rule(*lines, "update = interpolate(x, gradient, lr)"), inputs)
        torch.testing.assert_close(found, (1 - weight) * (x * x if square else x) + weight * y)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x = weight.data", "a value is one call"),
        ("x = open('a')", "there is no function open"),
        ("x = __import__('os')", "there is no function __import__"),
        ("x = (lambda: gradient)()", "a value is one call"),
        ("x = [g for g in gradient]", "a value is one call"),
        ("x = gradient ** 9999999", "a value is one call"),
        ("x = power(gradient, 9999**9999)", "an argument is a name or a finite number"),
        ("x = power(gradient, 1e999)", "an argument is a name or a finite number"),
        ("x = power(gradient, True)", "an argument is a name or a finite number"),
        ("x = gradient[0] + 1.0", "an argument is a name or a finite number"),
        ("x = abs(gradient, out=weight)", "a value is one call"),
        ("x = abs(*gradient)", "an argument is a name or a finite number"),
        ("x = add(gradient, lr)", "there is no function add"),
        ("x = sine(gradient)", "did you mean sin"),
        ("x = abs(gradient, lr)", "abs takes 1 arguments, not 2"),
        ("x = abs(later)", "later is not defined"),
        ("pi = gradient * lr", "which is no constant"),
        ("abs = gradient * lr", "which is no constant and no function"),
        ("x, y = gradient * lr", "assigned to one name"),
        ("x.y = gradient * lr", "assigned to one name"),
        ("x: float = gradient * lr", "only assignments"),
        ("x += gradient", "only assignments"),
        ("import os", "only assignments"),
        ("for x in gradient: pass", "only assignments"),
        ("global lr", "only assignments"),
        ("del gradient", "only assignments"),
        ("return gradient, state1", "only assignments"),
    ],
)
def test_other_python_is_refused_by_its_line(line, message):
    with pytest.raises(InputError, match=message) as refused:
        parse(f"{HEAD}update = gradient * lr\n    {line}\n    return update, state1")
    assert str(refused.value).startswith("line 3: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "one function"),
        ("import os\n", "one function"),
        ("def train(weight", "not Python's grammar"),
        ("def train(weight, gradient, lr):\n    return " + "(" * 5000, "not Python's grammar"),
        ("def train(weight, gradient, lr):\n    x = " + "-" * 100_000 + "1\n    return x", "grammar|finite"),
        ("x = 1" + "0" * 5000, "Python's grammar|one function"),
        ("def other(weight, gradient, lr):\n    return gradient", "def train"),
        ("@exit\ndef train(weight, gradient, lr):\n    return gradient", "def train"),
        ("def train(weight, gradient, lr=exit()):\n    return gradient", "def train"),
        ("def train(weight, gradient, *lr):\n    return gradient", "def train"),
        ("def train(weight, gradient, lr) -> exit():\n    return gradient", "def train"),
        ("def train(weight, gradient):\n    return gradient", "each once"),
        ("def train(weight, gradient, momentum, lr):\n    return gradient, momentum", "state1"),
        ("def train(weight, gradient, state2, lr):\n    return gradient, state2", "state1"),
        ("def train(weight, gradient, lr):\n    return gradient, weight", "update and 0 states"),
        ("def train(weight, gradient, lr):\n    return gradient * lr", "must be names"),
        ("def train(weight, gradient, lr):\n    x = gradient * lr", "must return"),
        (
            "def train(weight, gradient, lr):\n" + "    x = gradient * lr\n" * (MOST_STATEMENTS + 1) + "    return x",
            "at most 200",
        ),
    ],
)  # fmt: skip
def test_other_texts_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["update = norm(gradient)"], "the update has the shape"),
        (["update = gradient * lr", "state1 = lr * 2.0"], "state1 has the shape that of a number"),
        (["update = interpolate(gradient, weight, state1)"], "must be a number, not a tensor"),
        (["update = dot(gradient, lr)"], "must be a tensor, not a number"),
        (["update = gradient / 0.0"], "the update is not finite at step 1"),
        (["update = gradient / gradient"], "not finite"),
        (["x = log(lr)", "x = power(x, 0.5)", "update = gradient * x"], "not finite"),
        (["update = gradient * lr", "x = state1 + 9.0", "x = exp10(x)", "state1 = exp10(x)"], "state1 is not finite"),
    ],
)  # fmt: skip
def test_programs_that_cannot_train_are_refused(lines, message):
    with pytest.raises(InputError, match=message):
        check(rule(*lines))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_text_goes_there_and_back_and_simplifying_keeps_hash_and_bits(seed, changes):
    program = adamw()
    for number in range(changes):
        program = mutated(program, generator(seed, number))
    assert parse(str(program)) == program
    short = simplified(program)
    assert len(short.statements) <= len(program.statements)
    assert digest(short) == digest(program)
    one, two = weights(), weights()
    expected = trained(ProgramOptimizer(one, program, 0.01, 0.1), one, steps=3)
    found = trained(ProgramOptimizer(two, short, 0.01, 0.1), two, steps=3)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_order_names_and_idle_statements_do_not_change_the_hash(seed, random):
    """Statements in another order that keeps every value, under other names."""
    program = mutated(adamw(), generator(seed))
    known = {name: name for name in (*program.inputs, "pi", "e", "eps")}
    assigned = []  # (target, function, arguments), each name assigned once
    for number, statement in enumerate(program.statements):
        arguments = [known[a] if isinstance(a, str) else a for a in statement.arguments]
        known[statement.target] = f"z{number}"
        assigned.append((f"z{number}", statement.function, arguments))
    done: list = []
    while assigned:
        there = {*program.inputs, "pi", "e", "eps", *(each[0] for each in done)}
        ready = [s for s in assigned if all(a in there for a in s[2] if isinstance(a, str))]
        chosen = random.choice(ready)
        assigned.remove(chosen)
        done.append(chosen)
    other = type(program)(
        program.inputs,
        tuple(type(program.statements[0])(t, f, tuple(a)) for t, f, a in done),
        tuple(known[name] for name in program.outputs),
    )
    idle = parse(str(other).replace("    return", "    idle = cos(weight)\n    return"))
    assert digest(program) == digest(other) == digest(idle)


def test_the_hash_tells_programs_apart_and_computes_numbers():
    one = rule("update = gradient * lr")
    same = [
        rule("update = lr * gradient"),
        rule("x = 2.0 - 1.0", "y = lr / x", "update = gradient * lr", "state1 = state1 - 0.0"),
    ]
    assert digest(one) == digest(same[0])
    assert digest(one) != digest(same[1])
    assert digest(rule("x = 1.0 - 0.9", "update = gradient * x")) == digest(
        rule(f"update = gradient * {1.0 - 0.9!r}")
    )
    assert digest(rule("update = weight - gradient")) != digest(rule("update = gradient - weight"))
    assert digest(one) != digest(rule("update = gradient * lr", returned="update, gradient"))


@pytest.mark.parametrize("name", KNOWN)
def test_the_state_goes_on_bit_by_bit(name):
    program = KNOWN[name][1]
    whole = weights()
    first = ProgramOptimizer(whole, program, 0.01)
    trained(first, whole, 6)
    rest = [nn.Parameter(parameter.detach().clone()) for parameter in whole]
    second = ProgramOptimizer(rest, program, 0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.state[rest[0]]["step"] == 6
    assert equal(trained(second, rest, 3, seed=2), trained(first, whole, 3, seed=2))
    assert optim.state_bytes(first) == 4 * len(program.states) * sum(p.numel() for p in whole)


def test_a_file_is_an_optimizer(tmp_path):
    """Of a recipe: with the groups' decay, none for biases."""
    path = tmp_path / "rule.py"
    path.write_text(
        f'# a comment\n{HEAD}"""A docstring."""\n    update = gradient * lr\n    return update, state1\n'
    )
    layer = nn.Linear(2, 2)
    nn.init.ones_(layer.weight)
    nn.init.ones_(layer.bias)
    optimizer = optim.build(layer, Recipe(optimizer=str(path), lr=0.1, weight_decay=0.5), {})
    layer(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    assert layer.weight.flatten().tolist() == pytest.approx([0.95] * 4)
    assert layer.bias.tolist() == pytest.approx([0.9] * 2)
    text = optim.recorded(str(path))
    assert text == str(read(str(path))) == optim.recorded(text)
    assert optim.title(text).startswith("program ")
    assert optim.title("adamw") == "adamw"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "rule.py is damaged"),
        (b"#" * 70_000, "at most 65,536 are read"),
        (b"import os", "rule.py: it must be one function"),
        (b"def train(weight, gradient, lr):\n    x = norm(weight)\n    return x", "rule.py: the update has the shape"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "rule.py"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        optim.recorded(str(path))
    assert "\n" not in str(refused.value)
    for missing in (path.with_name("no.py"), path / "x.py"):
        with pytest.raises(InputError, match="there is no such file"):
            optim.recorded(str(missing))
