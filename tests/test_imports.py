"""What a shell prompt waits for: the package, its help and its lists come up without the heavy
libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
HEAVY = ("torch", "torchvision", "transformers", "open_clip", "timm", "accelerate", "pyarrow")

_REPORT = f"""
import runpy, sys
arguments = sys.argv[1:]
if arguments:
    sys.argv = ["diptych", *arguments]
    try:
        runpy.run_module("diptych", run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, stop.code
else:
    import diptych
print("LOADED:", *[name for name in {HEAVY!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--help",),
        ("list",),
        ("list", "suites"),
        *(
            (verb, "--help")
            for verb in ("train", "evaluate", "reproduce", "compare", "generate", "data")
        ),
    ],
    ids=" ".join,
)
def test_loads_no_torch(arguments: tuple[str, ...]) -> None:
    """RELIABILITY 29."""
    done = subprocess.run(
        [sys.executable, "-c", _REPORT, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == "LOADED:"


@pytest.mark.parametrize(
    "code",
    [
        "import diptych.training.run",
        "from diptych import load; from PIL import Image; "
        "load('tiny').embed_images([Image.new('RGB', (64, 64))])",
    ],
    ids=["training", "embedding"],
)
def test_what_torch_alone_does_loads_neither_its_compiler_nor_other_libraries(code: str) -> None:
    others = {*HEAVY, "torch._dynamo", "sympy", "scipy", "sklearn", "pandas"} - {"torch"}
    report = f"{code}; import sys; print('LOADED:', *({others!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].strip() == "LOADED:"


def test_no_test_file_imports_from_another() -> None:
    """What several files share is in tests/factories.py, or in the helpers of a folder."""
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found += [
                f"{path.relative_to(TESTS)}:{node.lineno}: {name}"
                for name in names
                if name.startswith("tests.") and ".test_" in name
            ]
    assert not found
