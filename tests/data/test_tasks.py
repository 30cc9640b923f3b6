"""Formats of tasks: prompts with and without examples, ends, and wording of one's own."""

import pytest

from diptych.data.tasks import TASKS, task
from diptych.errors import InputError
from diptych.models.strategies import Contrastive, strategy_of


def test_prompts_of_each_task():
    assert task("open").prompt("Once") == "Once"
    assert task("code").prompt("def f(x):\n") == "def f(x):\n"
    shown = [("A long text.", "Short."), ("Another.", "Other.")]
    assert task("summary").prompt("A third.", shown) == (
        "Article: A long text.\nSummary: Short.\n\nArticle: Another.\nSummary: Other.\n\n"
        "Article: A third.\nSummary:"
    )
    spec = "translation:source=French:target=Dutch"
    assert task(spec).prompt("Un chien.") == "French: Un chien.\nDutch:"


def test_braces_in_a_text_are_left_alone():
    assert task("summary").prompt("a {} {0} \\n b") == "Article: a {} {0} \\n b\nSummary:"
    code = "def f():\n    return {}\n"
    assert task("code").prompt("def g():", [("def f():\n", "    return {}\n")]) == (
        f"{code}\n\ndef g():"
    )


@pytest.mark.parametrize(
    ("name", "written", "kept"),
    [
        ("open", " goes\non ", " goes\non "),
        ("summary", "\n A fire.\nArticle: x", "A fire."),
        ("summary", " no end ", "no end"),
        ("translation", " A dog. \nGerman:", "A dog."),
        ("code", "    return x\n\ndef g():\n", "    return x"),
        ("code", "    a = 1\n    return a\n# next", "    a = 1\n    return a"),
        ("summary", "", ""),
    ],
)
def test_what_is_written_ends_where_the_task_does(name, written, kept):
    assert task(name).cut(written) == kept


def test_each_task_names_the_strategy_it_was_published_with():
    found = {name: strategy_of(each.strategy) for name, each in TASKS.items()}
    assert found == {
        "open": Contrastive(k=5, alpha=0.6),
        "summary": Contrastive(k=5, alpha=0.6, block_prompt=True),
        "translation": Contrastive(k=3, alpha=0.4),
        "code": Contrastive(k=3, alpha=0.4),
    }


def test_a_template_of_ones_own_replaces_the_wording():
    own = task("summary:template={}\\nTL;DR")
    assert own.prompt("A text.") == "A text.\nTL;DR"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("summry", "did you mean 'summary'"),
        ("summary:source=French", "source is of the task translation"),
        ("translation:sorce=French", "did you mean 'source'"),
        ("summary:template=TLDR", "has no place for the text"),
    ],
)
def test_bad_specs_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        task(spec)
