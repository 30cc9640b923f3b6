"""What type checkers of users see."""

import ast
import inspect
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from diptych import front
from diptych.methods import store


def test_the_package_says_that_it_is_typed():
    assert files("diptych").joinpath("py.typed").is_file()


def test_load_is_typed_as_it_is_called():
    """The types of `diptych.load` stand apart from the function: names and defaults are the
    same."""
    tree = ast.parse(Path(front.__file__).with_name("__init__.py").read_text(encoding="utf-8"))
    [typed] = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "load"
    ]
    own = inspect.signature(store.load).parameters
    assert [each.arg for each in (*typed.args.args, *typed.args.kwonlyargs)] == list(own)
    defaults = [
        value.default for value in own.values() if value.default is not inspect.Parameter.empty
    ]
    written = [*typed.args.defaults, *(each for each in typed.args.kw_defaults if each is not None)]
    assert [ast.literal_eval(each) for each in written] == defaults
    assert typed.returns is not None
    assert ast.unparse(typed.returns) == "Model | Any"
    assert "Model" in str(inspect.signature(front.train).return_annotation)


def test_importing_it_still_loads_no_torch():
    program = (
        "import sys, diptych; assert 'torch' not in sys.modules; assert callable(diptych.load)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
