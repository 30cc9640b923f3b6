"""The glossary has the words of these pages, in order, with links that lead somewhere."""

import re

from tests.docs.tables import DOCS, text_of

from diptych.lab.claim import BLOCKS, LOOKS, TUNING, Floor

WORDS = (
    "ability arm block claim column delta edit edition EMB floor guard headline look mechanism pack plan preset "
    "probe recipe role route RUN share source space spec stage stream suite teacher tuning_seed view world"
)
PAGE = text_of("glossary.md")
LISTED = PAGE.partition("{glossary}\n")[2]
ENTRIES = dict(re.findall(r"^(\S.*)\n((?:  .*\n)+)", LISTED, re.MULTILINE))


def anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def test_each_word_has_an_entry_in_alphabetical_order():
    assert list(ENTRIES) == [word.replace("_", " ") for word in WORDS.split()]
    assert list(ENTRIES) == sorted(ENTRIES, key=str.lower)


def test_each_entry_is_a_few_sentences_with_a_link():
    for word, text in ENTRIES.items():
        links = re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", text)
        assert links, f"{word} has no link"
        assert len(re.findall(r"[.:](?=\s|$)", text)) <= 6, word
        for page, anchor in links:
            assert (DOCS / page).is_file(), f"{word} links to {page}"
            assert not anchor or anchor in anchors(page), f"{word} links to {page}#{anchor}"
        for term in re.findall(r"\{term\}`([^`]+)`", text):
            assert term in ENTRIES


def test_its_numbers_are_those_of_the_lab():
    assert f"seeds {TUNING[0]} to {TUNING[-1]}" in ENTRIES["tuning seed"]
    longest = max(LOOKS, key=len)
    assert "{}, {} or {}".format(*longest) in ENTRIES["look"]
    assert all(f"`{block}`" in ENTRIES["block"] for block in BLOCKS)
    assert Floor("x", 0.1).value == 3 * 0.1
    assert Floor("x", 0.5).value == 0.5 + 0.3 * 0.5
