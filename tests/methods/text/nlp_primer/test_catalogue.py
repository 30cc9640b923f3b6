"""The catalogue: every objective has its row on the page, and is named with its options."""

from pathlib import Path

import pytest

from diptych.errors import InputError
from diptych.methods.text.nlp_primer import Config
from diptych.methods.text.nlp_primer.catalogue import OBJECTIVES, describe, objective_class

PAGE = Path(__file__).parents[4] / "docs" / "methods" / "nlp_primer.md"
COLUMNS = ("contrast", "supervision", "positives", "negatives")


def test_the_page_has_the_row_of_each_objective():
    page = PAGE.read_text(encoding="utf-8")
    missing = []
    for name in OBJECTIVES:
        row = describe(name)
        cells = [f"`{name}`", f"{row.title} ({row.source})", *(getattr(row, at) for at in COLUMNS)]
        line = f"| {' | '.join(cells)} |"
        if line not in page:
            missing.append(line)
    assert not missing, "\n".join(missing)
    options = page[page.index("### Options of the objectives") :]
    assert all(f"| `{name}` |" in options for name in OBJECTIVES)


def test_the_survey_orders_by_both_questions():
    rows = [describe(name) for name in OBJECTIVES]
    assert {row.contrast for row in rows} == {"input-input", "input-label"}
    assert {row.supervision for row in rows} == {"self", "supervised", "unified"}


def test_common_options_reach_the_objective():
    found, config = objective_class("clear:share=0.2", role="long", pooling=None, dropout=0.3)
    assert found is OBJECTIVES["clear"]
    assert (config.share, config.role, config.dropout) == (0.2, "long", 0.3)


@pytest.mark.parametrize("spec", ["bert", "clear:shar=0.2", "clear:share=2.0"])
def test_a_wrong_objective_is_refused_before_anything_is_built(spec):
    with pytest.raises(InputError, match="objective"):
        Config(objective=spec)
