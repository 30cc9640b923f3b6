"""The world `names`: what is printed and read is the firm's name, splits share no stem, twins differ
in one letter, and errors and damage are independent."""

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.data.worlds.names import Config, World
from diptych.data.worlds.names.draw import FACES, Print, draw
from diptych.data.worlds.names.words import (
    FORMS,
    LOOK_ALIKE,
    PAIRS,
    REMAINDERS,
    TRADES,
    families,
    misread,
    stem_of,
    vowels,
)
from diptych.errors import InputError

ALL = "names:count=800:seed=1"


def firms(spec: str) -> dict[int, list]:
    """The facts of each firm's records."""
    source = open_source(spec)
    found: dict[int, list] = {}
    for index in range(len(source)):
        facts = source.world.sample(source.seed, index)
        found.setdefault(facts.entity, []).append(facts)
    return found


def test_texts_are_the_name_as_it_is_printed_and_read():
    source = open_source("names:count=60:errors=0.0")
    for index in range(60):
        facts = source.world.sample(0, index)
        read, printed, name = (text.text for text in source[index].texts)
        assert read == printed
        assert name == facts.name
        stem, *rest = printed.split(" ", 1)
        assert stem == facts.stem
        trade, form = (
            words[short]
            for words, short in zip(
                (TRADES[facts.trade], FORMS[facts.form]), facts.short, strict=True
            )
        )
        assert rest == [f"{trade} {form}"]
        assert source[index].labels == {"entity": facts.entity}


def test_records_of_a_firm_have_one_name_and_firms_have_different_ones():
    found = firms(ALL)
    for records in found.values():
        assert len({(each.stem, each.trade, each.form) for each in records}) == 1
    assert len({records[0].name for records in found.values()}) == len(found)
    assert {len(records) for records in found.values()} == {1, 4}
    singles = sum(len(records) == 1 for records in found.values()) / 4
    assert 0.1 < singles / 200 < 0.3, "a fifth of the blocks"
    assert {len(records) for records in firms("names:count=80:singles=0.0").values()} == {4}
    assert len(firms("names:count=80:singles=1.0")) == 80


def test_twins_differ_in_a_letter_that_looks_alike():
    stems = [records[0].stem for records in firms(f"{ALL}:twins=1.0:singles=0.0").values()]
    for one, other in zip(stems[::2], stems[1::2], strict=True):
        [(a, b)] = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
        assert LOOK_ALIKE[a] == b
    apart = [records[0].stem for records in firms(f"{ALL}:twins=0.0").values()]
    assert len(set(apart)) == len(apart)


def test_splits_share_letters_and_no_stem():
    stems = {
        split: {records[0].stem for records in firms(f"names:count=600:split={split}").values()}
        for split in REMAINDERS
    }
    for split, own in stems.items():
        assert all("".join(stem[1::2]) in vowels(split) for stem in own)
        assert set("".join(own)) == set("".join(PAIRS) + "aeiou")
    assert not stems["train"] & stems["test"]
    assert not stems["train"] & stems["val"]
    assert not stems["val"] & stems["test"]


def test_families_are_all_different():
    count = families("val")
    rows = np.random.default_rng(0).choice(count, 3000, replace=False)
    sides = [(at % 2, at // 2 % 2, at // 4 % 2) for at in range(3000)]
    stems = {stem_of(0, "val", int(row), own) for row, own in zip(rows, sides, strict=True)}
    assert len(stems) == 3000
    assert stem_of(0, "val", 5, (0, 0, 0)) == stem_of(0, "val", 5 + count, (0, 0, 0))


def test_letters_are_misread_at_their_rate():
    rng = np.random.default_rng(0)
    text = "bhtf" * 5000
    read = misread(text, 0.2, rng)
    lost = len(text) - len(read)
    assert lost / len(text) == pytest.approx(0.2 * 0.15, abs=0.006)
    kept = misread(text, 0.2, np.random.default_rng(0))
    assert kept == read
    same = misread("b" * 20_000, 0.2, rng).count("b") / 20_000
    assert same == pytest.approx(0.8, abs=0.015)
    assert misread("a b", 1.0, rng).count(" ") == 1, "spaces stay"


def test_errors_and_damage_are_independent():
    source = open_source("names:count=1500")
    errors, blots = [], []
    for index in range(1500):
        facts = source.world.sample(0, index)
        read, printed, _ = (text.text for text in source.world.captions(facts))
        errors.append(float(read != printed and read.split(" ")[0] != facts.stem))
        blots.append(float(facts.print.blot >= 0))
    assert np.mean(blots) == pytest.approx(0.3, abs=0.04)
    assert abs(np.corrcoef(errors, blots)[0, 1]) < 0.1


def test_crops_show_their_letters():
    """The nearest print of some names, in one face, is that of the same name."""
    how = {"turn": 0.0, "paper": 240, "ink": 20, "blur": 0.2, "blot": -1}
    names = ["bokira", "hokira", "satoro", "zatoro", "niyoya", "diboti"]
    plain = [draw((name, "mfg co"), Print(face=0, **how), 64, 0) for name in names]
    for at, name in enumerate(names):
        other = draw((name, "mfg co"), Print(face=0, **{**how, "turn": 1.0, "ink": 60}), 64, 1)
        gaps = [np.abs(other.astype(int) - each.astype(int)).mean() for each in plain]
        assert int(np.argmin(gaps)) == at
    assert plain[0].shape == (40, 64, 3)


def test_every_face_prints_another_crop():
    how = {"turn": 0.0, "paper": 240, "ink": 20, "blur": 0.2, "blot": -1}
    made = [draw(("bokira", "co"), Print(face=face, **how), 64, 0) for face in range(len(FACES))]
    for at, one in enumerate(made):
        assert (one < 120).mean() > 0.03, "there is ink"
        assert all(np.abs(one.astype(int) - other).mean() > 2 for other in made[:at])


def test_a_blot_covers_its_letter_and_no_other():
    how = {"face": 0, "turn": 0.0, "paper": 240, "ink": 20, "blur": 0.0}
    for letter in range(6):
        for seed in range(3):
            plain = draw(("bokira", "co"), Print(blot=-1, **how), 96, seed).astype(int)
            blotted = draw(("bokira", "co"), Print(blot=letter, **how), 96, seed).astype(int)
            change = np.abs(plain - blotted).max((0, 2))
            columns = np.flatnonzero(change > 10)
            left = 96 * (0.05 + 0.9 * letter / 6)
            assert columns.min() >= left - 96 * 0.9 / 6
            assert columns.max() <= left + 2 * 96 * 0.9 / 6
            assert np.abs(plain - blotted)[40:].max() <= 10, "the second line stays"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("size=8", "it must be from 32 to 256"),
        ("records=1", "a firm has 2 at least"),
        ("errors=2.0", "it is a share, from 0 to 1"),
        ("faces=20", "there are 9"),
        ("split=dev", "unknown split of names"),
    ],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        open_source(f"names:{options}")


def test_a_stream_is_longer_than_its_families():
    world = World(Config(split="test", singles=1.0, twins=0.0))
    count = families("test")
    one, other = world.sample(0, 7), world.sample(0, 7 + count)
    assert one.entity != other.entity
