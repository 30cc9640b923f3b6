"""What a shell prompt waits for: the package, its help and its lists come up without the heavy libraries."""

import subprocess
import sys

import pytest

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
        *((verb, "--help") for verb in ("train", "evaluate", "reproduce", "compare", "generate", "data")),
    ],
    ids=" ".join,
)
def test_loads_no_torch(arguments: tuple[str, ...]) -> None:
    """RELIABILITY 29."""
    done = subprocess.run([sys.executable, "-c", _REPORT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == "LOADED:"
