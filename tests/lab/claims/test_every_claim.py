"""What holds of every claim that ships: fresh seeds, and arms and metrics that exist."""

import pytest

from diptych.lab.claim import BLOCKS, LOOKS, SEEDS, TUNING, Claim, find, load, names

CLAIMS = {
    f"{name}.{block}": found
    for name in names()
    for block in BLOCKS
    if isinstance(found := getattr(load(find(name)), block, None), Claim)
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_has_a_headline_and_seeds_that_nothing_was_chosen_on(name):
    claim = CLAIMS[name]
    assert claim.looks in LOOKS
    assert min(claim.seeds) >= min(SEEDS)
    assert len(claim.seeds) == claim.looks[-1]
    assert not set(claim.seeds) & set(TUNING)
    assert claim.question.endswith(".")
    assert set(claim.learning) <= set(claim.names)
    assert not set(claim.mechanism) & set(claim.learning)
