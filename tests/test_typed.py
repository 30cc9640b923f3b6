"""What type checkers of users see."""

import ast
import inspect
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import diptych
from diptych.front.loading import load


def test_the_package_says_that_it_is_typed():
    assert files("diptych").joinpath("py.typed").is_file()


def test_load_is_typed_as_it_is_called():
    """The overloads of `diptych.load` and the function have the same names and defaults."""
    tree = ast.parse(Path(inspect.getfile(load)).read_text(encoding="utf-8"))
    overloads = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "load"
    ]
    own = inspect.signature(load).parameters
    defaults = [
        value.default for value in own.values() if value.default is not inspect.Parameter.empty
    ]
    assert len(overloads) == 5
    for typed in overloads:
        assert [each.arg for each in (*typed.args.args, *typed.args.kwonlyargs)] == list(own)
        written = [
            *typed.args.defaults,
            *(each for each in typed.args.kw_defaults if each is not None),
        ]
        assert [ast.literal_eval(each) for each in written] == defaults


def test_what_type_checkers_see_is_there():
    """`tests/typed/script.py` is checked by pyright in `make lint`; here each of its names is."""
    assert sorted(diptych.__all__) == diptych.__all__
    assert {*diptych._WHERE, "objectives", "testing"} == {*diptych.__all__}
    for name in diptych.__all__:
        assert getattr(diptych, name) is not None
    assert inspect.isfunction(diptych.search)


def test_importing_it_still_loads_no_torch():
    program = (
        "import sys, diptych; assert 'torch' not in sys.modules; assert callable(diptych.load)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
