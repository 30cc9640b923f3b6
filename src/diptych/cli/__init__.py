"""The command line: one file of this folder for each verb, each a thin call into the library.

A verb's file has a docstring whose first line is its help, `GROUP` (the section of the help),
`EXAMPLES`, `add(parser)` and `run(args)`; an optional `extend(parser, words)` adds the options that
depend on other words. Nothing heavy is imported before `run`, so that help and lists appear at
once.

    0    done, or stopped by SIGTERM with its state saved
    2    bad input, reported in one line: the thing, the place, the remedy
    130  stopped from the keyboard
    1    a defect of diptych, with its traceback
"""

import errno
import importlib
import io
import os
import pkgutil
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from diptych import __version__
from diptych.cli._here import here
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import visible
from diptych.errors import InputError, unknown

GROUPS = ("Begin here", "Train", "Use a model", "Look up")
_OUT_OF_REACH = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}
_NO_PLACE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    words = [
        *(sys.argv[1:] if argv is None else argv)
    ]  # not list(): once its file is imported, the name `list` is the verb's module
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an ASCII terminal shows ? for other characters
    try:
        code = _run(words)
        sys.stdout.flush()
    except InputError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    except BrokenPipeError:  # the reader has closed the pipe, as in `diptych list | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # the exit code of a program that SIGPIPE ended
    except OSError as error:
        message = _system_error(error)
        if message is None:
            raise
        return _refuse(message)
    return code


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        found = here() if not words else ""
        print("\n\n".join([_help(), *([visible(found)] if found else [])]))
        return 0
    if words[0] == "--version":
        print(f"diptych {__version__}")
        return 0
    verb, *rest = words
    module, parser, rest = _parser(verb, rest)
    if parser.wants_help(rest):
        print(parser.format_help().rstrip())
        return 0
    args = parser.read(rest)
    if isinstance(out := args.get("out"), str):
        _refuse_input(out, rest)
        _refuse_below_file(out)
    return module.run(args) or 0


def _refuse_input(out: str, words: Sequence[str]) -> None:
    """Raise InputError if the file of --out is one that another word names, which it would replace."""
    if not Path(out).expanduser().is_file():
        return
    file = os.path.realpath(Path(out).expanduser())
    at = words.index("--out") if "--out" in words else len(words)
    for word in (*words[:at], *words[at + 2 :]):
        # a source may have options, as TABLE.csv:text=title, or a name, as val=TABLE.csv
        parts = () if word.startswith("--out=") else (word, *re.split("[:=]", word))
        if any(os.path.realpath(Path(part).expanduser()) == file for part in parts if part):
            raise InputError(
                f"--out {out} would replace {word}, which the command reads; name another file"
            )


def _refuse_below_file(out: str) -> None:
    """Raise InputError if a part of the path of --out is a file, so that nothing can be there."""
    from diptych.files import file_above

    if (above := file_above(Path(out).expanduser())) is not None:
        raise InputError(f"--out {out} is below {above}, which is a file; name another path")


def _parser(verb: str, words: list[str]) -> tuple[ModuleType, Parser, list[str]]:
    """Return the module of a verb, its parser with the options that the words need, and the words
    with those of a file."""
    if verb not in verbs():
        raise unknown(
            "option" if verb.startswith("-") else "command", verb, [*verbs(), "--help", "--version"]
        )
    module = importlib.import_module(f"{__name__}.{verb}")
    parser = Parser(verb, module)
    words = parser.joined(words)
    return module, parser, module.extend(parser, words) if hasattr(module, "extend") else words


def parse(words: Sequence[str]) -> Namespace:
    """Parse a command line without running it. Raises InputError if its words do not fit.

    >>> parse(["search", "emb", "-k", "2", "a red mug"]).text
    'a red mug'
    """
    verb, *rest = words
    _, parser, rest = _parser(verb, rest)
    return parser.read(rest)


def verbs() -> list[str]:
    """Return the names of all verbs.

    >>> "train" in verbs()
    True
    """
    return [item.name for item in pkgutil.iter_modules(__path__) if not item.name.startswith("_")]


def _help() -> str:
    modules = [importlib.import_module(f"{__name__}.{verb}") for verb in verbs()]
    parts = ["usage: diptych COMMAND …", _first_line(sys.modules["diptych"])]
    for group in GROUPS:
        lines = [
            f"  {m.__name__.rpartition('.')[2]:10}{_first_line(m)}"
            for m in modules
            if group == m.GROUP
        ]
        parts.append("\n".join([f"{group}:", *lines]))
    parts.append(
        "Examples:\n"
        "  diptych demo\n"
        "  diptych train clip --data photos/ --out runs/first\n"
        "  diptych search emb 'two dogs on a beach'\n\n"
        "`diptych COMMAND --help` shows the options of a command."
    )
    return "\n\n".join(parts)


def _first_line(module: ModuleType) -> str:
    """Return the first paragraph of a module's docstring."""
    return " ".join((module.__doc__ or "").split("\n\n")[0].split())


def _system_error(error: OSError) -> str | None:
    """Return what a user can do about a system error, or None if it is not the user's."""
    from diptych.files import is_full

    path = error.filename2 or error.filename  # of a renaming, what the user has named
    where = f" {path}" if path else ""
    if is_full(error):
        return f"no space left to write{where or ' a file'}; what was written before is whole, make room and go on"
    if error.errno in _OUT_OF_REACH:
        return f"cannot open{where}: {error.strerror}; check the path and its permissions"
    if error.errno in _NO_PLACE and path:
        return f"cannot open or make {path}: {error.strerror}; check the path"
    return None


def _refuse(message: str) -> int:
    _say(message)
    return 2


def _say(message: str) -> None:
    """Print one line on stderr. Under torchrun every rank prints, since errors may differ between
    ranks."""
    rank = os.environ.get("RANK", "0")
    name = "diptych" if rank == "0" else f"diptych, rank {rank}"
    print(f"{name}: {visible(' '.join(message.split()))}", file=sys.stderr, flush=True)
