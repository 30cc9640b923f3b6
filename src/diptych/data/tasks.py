"""Formats of tasks for language models: how a text becomes a prompt, with examples before it if
wanted, and where what is generated ends.

    open          the text itself, or its first tokens
    summary       Article: TEXT / Summary:
    translation   German: TEXT / English:
    code          the beginning of a function

    translation:source=French:target=English    a task with options

Each task names the strategy that contrastive search was published with for it. The wording of
templates is ours.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from diptych.errors import InputError, unknown
from diptych.spec import configure, parse


@dataclass(frozen=True, kw_only=True)
class Task:
    """A format. `template` is a prompt with {} for the text, `answer` what follows it in an example,
    with {} for the reference; a generated text ends before the first of `stops`."""

    name: str
    template: str
    answer: str = " {}"
    between: str = "\n\n"
    stops: tuple[str, ...] = ("\n",)
    strategy: str = "contrastive:k=5:alpha=0.6"

    def prompt(self, text: str, examples: Sequence[tuple[str, str]] = ()) -> str:
        """The prompt of a text, behind examples of a text and its reference each.

        >>> task("translation").prompt("Ein Hund.", [("Eine Katze.", "A cat.")])
        'German: Eine Katze.\\nEnglish: A cat.\\n\\nGerman: Ein Hund.\\nEnglish:'
        """
        shown = [self._with(each) + self.answer.replace("{}", answer) for each, answer in examples]
        return self.between.join([*shown, self._with(text)])

    def cut(self, written: str) -> str:
        """What was generated, up to the first of `stops`; blanks and line breaks before it are no
        end.

        >>> task("summary").cut(" A fire. \\nArticle: Another"), task("code").cut("    pass\\ndef g():")
        ('A fire.', '    pass')
        """
        if not self.stops:
            return written
        body = written if self.name == "code" else written.lstrip()
        places = [at for stop in self.stops if (at := body.find(stop)) >= 0]
        cut = body[: min(places, default=len(body))]
        return cut.rstrip() if self.name == "code" else cut.strip()

    def _with(self, text: str) -> str:
        return self.template.replace("{}", text)


@dataclass(frozen=True, kw_only=True)
class _Wording:
    """What replaces a task's own wording."""

    template: str | None = None
    source: str = "German"
    target: str = "English"


_CODE_ENDS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\nassert ")


def task(spec: str) -> Task:
    """The task of a spec: a name of `TASKS`, with `template`, or for a translation `source` and
    `target`, the languages' names.

    Raises InputError for an unknown task or option, and a template without {}.

    >>> task("translation:source=French").prompt("Un chien.")
    'French: Un chien.\\nEnglish:'
    """
    parsed = parse(spec)
    if parsed.name not in TASKS:
        raise unknown("task", parsed.name, TASKS)
    wording = configure(_Wording, parsed.options, f"task {parsed.name!r}")
    found = TASKS[parsed.name]
    languages = sorted({"source", "target"} & parsed.options.keys())
    if languages and parsed.name != "translation":
        raise InputError(f"{languages[0]} is of the task translation; leave it out of {spec!r}")
    template = wording.template
    if template is None:
        template = re.sub(
            "<(source|target)>", lambda match: getattr(wording, match[1]), found.template
        )
    elif "{}" not in template:
        raise InputError(f"the template {template!r} has no place for the text; write {{}} there")
    return Task(
        name=found.name,
        template=template.replace("\\n", "\n"),
        answer=found.answer,
        between=found.between,
        stops=found.stops,
        strategy=found.strategy,
    )


TASKS = {
    each.name: each
    for each in (
        Task(name="open", template="{}", stops=()),
        Task(
            name="summary",
            template="Article: {}\nSummary:",
            strategy="contrastive:k=5:alpha=0.6:block_prompt=true",
        ),
        Task(
            name="translation",
            template="<source>: {}\n<target>:",
            strategy="contrastive:k=3:alpha=0.4",
        ),
        Task(
            name="code",
            template="{}",
            answer="{}",
            stops=_CODE_ENDS,
            strategy="contrastive:k=3:alpha=0.4",
        ),
    )
}
"""All tasks, by name."""
