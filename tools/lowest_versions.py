"""Print a pip constraints file that holds every dependency of a pyproject.toml at its lowest
admitted version.

torch and torchvision are left free: their old wheels do not exist for every machine. Used by `make
test-min`.

    python tools/lowest_versions.py pyproject.toml > lowest.txt
"""

import re
import sys
import tomllib
from pathlib import Path

FREE = {"torch", "torchvision"}
_LOWEST = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*>=\s*([0-9][^,;\s]*)")


def lowest(project: dict) -> list[str]:
    """`name==version` lines, sorted; of the extras only those that a user runs with, and what runs
    the tests."""
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(line for name in extras if name not in {"lint", "docs"} for line in extras[name]),
    ]
    pins = {match[1].lower(): match[2] for line in wanted if (match := _LOWEST.match(line))}
    return [f"{name}=={version}" for name, version in sorted(pins.items()) if name not in FREE]


if __name__ == "__main__":
    print(
        "\n".join(lowest(tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]))
    )
