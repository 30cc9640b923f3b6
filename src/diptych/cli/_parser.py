"""The parser of a verb: jsonargparse's types with diptych's help and errors.

jsonargparse reads values (a number, a choice, a tuple, a mapping, written as YAML); its errors are
cut to one line. Unknown options are found before it parses, so that the message can name the
nearest.
"""

import argparse
import itertools
import json
import re
import shutil
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from diptych.data.endings import IMAGES, ending
from diptych.errors import InputError, nearest, shortened, unknown
from diptych.spec import check_value, choices, takes

_NUMBER = re.compile(r"-\.?\d")
_BAD_VALUE = re.compile(r'(?:Parser )?key "(?P<key>[^"]+)"', re.IGNORECASE)
_GIVEN = re.compile(r"(?:Given|Got) value: (?P<value>.*)", re.DOTALL)


class Parser(ArgumentParser):
    """The options of one verb. `option` adds one, `read` parses; every error is an InputError of
    one line."""

    def __init__(self, verb: str, module: ModuleType):
        about, _, details = (module.__doc__ or "").partition("\n\n")
        super().__init__(
            prog=f"diptych {verb}",
            usage=f"diptych {verb} {module.USAGE}",
            description="\n\n".join(part for part in (about, details.strip()) if part),
            epilog="Examples:\n" + "\n".join(f"  {line}" for line in module.EXAMPLES),
            formatter_class=_Help,
            add_help=False,
        )
        self.names: dict[str, str] = {}  # dest -> its option
        self.renamed: dict[str, str] = {}  # former name of a dest -> the dest
        self.hints: dict[str, Any] = {}
        self.least: dict[str, int] = {}
        self.within: dict[str, Any] = {}
        self.signed: set[str] = set()  # options whose value may begin with a minus
        self._sections: dict[str, Any] = {}
        module.add(self)
        self.section("More").add_argument("-h", "--help", action="help", help="show this help")

    def section(self, title: str) -> Any:
        """Return the help section with this title, which is made at first use."""
        if title not in self._sections:
            self._sections[title] = self.add_argument_group(title)
        return self._sections[title]

    def option(
        self,
        section: str,
        *names: str,
        type: Any = str,
        dest: str | None = None,
        least: int | None = None,
        within: Any = None,
        signed: bool = False,
        **settings: Any,
    ) -> None:
        """Add an option `--name`, or a positional word `NAME`; options that are not given are
        missing in the result of `read`.

        A number below `least`, or outside the bounds of the annotation `within`, raises an error. The
        text of a `signed` option may begin with a minus.
        """
        positional = not names[0].startswith("-")
        dest = dest or names[-1].removeprefix("--").replace("-", "_")
        if (
            type is bool and not positional and "metavar" not in settings
        ):  # flags such as --json take no value
            settings |= {"action": "store_true"}
        elif settings.get("action") != "append":
            settings |= {"type": type}
        if positional:
            settings = {"nargs": "?", "metavar": names[0].upper()} | settings
            names = (dest,)
        else:
            settings |= {"dest": dest, "default": argparse.SUPPRESS}
            self.names[dest] = names[-1]
            self.signed |= {*names, f"--{dest}"} if signed else set()
        self.hints[dest] = type
        if least is not None:
            self.least[dest] = least
        if within is not None:
            self.within[dest] = within
        self.section(section).add_argument(*names, **settings)

    def wants_help(self, words: Sequence[str]) -> bool:
        """Whether the words ask for help, at any position."""
        return "-h" in words or "--help" in words

    def read(self, words: Sequence[str]) -> Namespace:
        """Parse the words after the verb; positional words may be before, between and after
        options."""
        options, others = self._divided(list(self._known(words)))
        behind = others[:1] == [
            "--"
        ]  # otherwise put them first, so that an option without its value does not consume one
        found = self.parse_args([*options, *others] if behind else [*others, *options])
        for dest, least in self.least.items():
            value = found.get(dest)
            if value is not None and value < least:
                raise InputError(f"{self.names[dest]} is {value}; it must be at least {least}")
        for dest, within in self.within.items():
            if dest in found:
                check_value(self.names[dest], found[dest], within)
        return found

    def joined(self, words: Sequence[str]) -> list[str]:
        """Return the words, with values that begin with a minus joined to their `signed` options, as in
        `--select=-loss`: they would be taken for options."""
        found: list[str] = []
        for word in words:
            behind = bool(found) and found[-1] in self.signed and "--" not in found
            if behind and _is_option(word) and word not in self._option_string_actions:
                found[-1] += f"={word}"
            else:
                found.append(word)
        return found

    def positionals(self, words: Sequence[str]) -> list[str]:
        """Return the words that are neither options nor their values."""
        return [word for word in self._divided(words)[1] if word != "--"]

    def _divided(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Separate the options with their values from the positional words, which argparse needs to
        be adjacent.

        An unknown option (a method's own) is assumed to have a value. Words after `--` are
        positional, and `--` then comes first among the positional words.
        """
        options: list[str] = []
        others: list[str] = []
        valued = False  # whether the previous word is an option that needs a value
        for at, word in enumerate(words):
            if word == "--":
                return options, ["--", *others, *words[at + 1 :]]
            if _is_option(word):
                options.append(word)
                action = self._option_string_actions.get(word)
                valued = (
                    word.startswith("--") and "=" not in word
                    if action is None
                    else action.nargs != 0
                )
                continue
            (options if valued else others).append(word)
            valued = False
        return options, others

    def value_of(self, option: str, words: Sequence[str]) -> str | None:
        """Return the last value of an option in the words, before they are parsed."""
        found = [after for word, after in itertools.pairwise(words) if word == option]
        found += [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
        return found[-1] if found else None

    def _known(self, words: Sequence[str]) -> Iterator[str]:
        """Yield the words, with options by their first name. Raises InputError for an unknown
        option."""
        known = self._option_string_actions
        for at, word in enumerate(words):
            if word == "--":
                yield from words[at:]
                return
            name, equals, value = word.partition("=")
            name = self.names.get(name.removeprefix("--"), name)  # --recipe.lr is --lr
            if _is_option(word) and name not in known:
                raise self._missing(
                    f"option of {self.prog}", name, [option for option in known if option != "-h"]
                )
            yield name + equals + value if word.startswith("-") else word

    def words_of(self, tree: Mapping[str, Any], place: str, prefix: str = "") -> Iterator[str]:
        """Yield the options of a YAML file as words of a command line, so that both are parsed
        alike.

        Keys are names of options (`batch_size: 64`), dotted or nested (`recipe: {warmup: 100}`).
        """
        short = {
            name.removeprefix("--").replace("-", "_"): dest for dest, name in self.names.items()
        }
        for key, value in tree.items():
            dest = f"{prefix}{key}"
            dest = short.get(dest, dest)
            if dest in self.names:
                yield from self._word(dest, value)
            elif isinstance(value, Mapping):
                yield from self.words_of(value, place, f"{dest}.")
            else:
                raise self._missing(f"option in {place}", dest, self.names)

    def _missing(self, kind: str, name: str, choices: Iterable[str]) -> InputError:
        """Return the error for an option (`--name`, or `name` in a file) that does not exist or was
        renamed."""
        plain = name.removeprefix("--")
        if plain not in self.renamed:
            return unknown(kind, name, choices)
        new = name.removesuffix(plain) + self.renamed[plain]
        return InputError(f"the {kind} {name} is called {new} now; write {new}")

    def _word(self, dest: str, value: Any) -> Iterator[str]:
        name = self.names[dest]
        if self.hints[dest] is bool and isinstance(value, bool) and not _settable(self, name):
            yield from [name] if value else []
        elif isinstance(value, str):
            if value:
                yield f"{name}={value}"
        elif value is not None or type(None) in typing.get_args(self.hints[dest]):
            yield f"{name}={json.dumps(value)}"

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an InputError for every error of jsonargparse and argparse."""
        raise InputError(self._plain(message)) from None

    def _plain(self, message: str) -> str:
        if (extra := re.match(r"unrecognized arguments: (.*)", message, re.IGNORECASE)) is not None:
            if ending(extra[1]) in IMAGES:
                return (
                    f"{self.prog} does not take a list of image files ({shortened(extra[1], 40)}); name their folder, "
                    "or put a name with blanks in quotes"
                )
            return (
                f"{self.prog} does not know what to do with {extra[1]!r}; put texts with blanks and patterns such as "
                "'shards/*.tar' in quotes"
            )
        key = _BAD_VALUE.search(message)
        given = _GIVEN.search(message)
        if key and key["key"] in self.hints:
            name = self.names.get(key["key"], key["key"].upper())
            hint = self.hints[key["key"]]
            value = f" {given['value'].strip()!r}" if given else ""
            close = nearest(given["value"].strip(), choices(hint)) if given else None
            hinted = f"; did you mean {close!r}?" if close else ""
            return f"{self.prog} {name}{value}: it takes {takes(hint)}{hinted}"
        if "expected one argument" in message or "expected at least one argument" in message:
            name = message.removeprefix("argument ").partition(":")[0].split("/")[-1]
            dest = next((dest for dest, option in self.names.items() if option == name), "")
            return f"{self.prog} {name} has no value; give {takes(self.hints.get(dest, str))}"
        return f"{self.prog}: {' '.join(message.split())}; `{self.prog} --help` tells what it takes"


def _is_option(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not _NUMBER.match(word)


def _settable(parser: Parser, name: str) -> bool:
    return parser._option_string_actions[name].nargs != 0


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help that fits a screen: names on the left, one short line for each."""

    def __init__(self, prog: str):
        super().__init__(
            prog, max_help_position=32, width=min(shutil.get_terminal_size().columns, 110) - 2
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Break a text between words alone: tiny-lm is one."""
        words = " ".join(text.split())
        return textwrap.wrap(words, width, break_long_words=False, break_on_hyphens=False)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar)
        value = f" {self._format_args(action, '…')}" if action.nargs != 0 else ""
        return ", ".join(action.option_strings) + value


__all__ = ["Namespace", "Parser"]
