"""Questions to a writer: what is cached, what is asked again after a stop, what is invalid."""

import json

import pytest

from diptych.data.answers import BATCH, Question, describe, lines, whole
from diptych.data.sample import BadSample
from diptych.errors import InputError


class Says:
    """Answers from a table by (key, attempt), and remembers what it was asked."""

    name = "says"

    def __init__(self, table=None, stop=None):
        self.table, self.stop, self.asked = table or {}, stop, []

    def __call__(self, questions, attempt):
        if self.stop is not None and len(self.asked) >= self.stop:
            raise KeyboardInterrupt
        self.asked.append([(question.key, attempt) for question in questions])
        return [
            self.table.get((question.key, attempt), f"{question.key} text {attempt}")
            for question in questions
        ]


def questions(*keys):
    return [Question(key=key, prompt=f"write about {key}") for key in keys]


def test_each_thing_is_asked_until_it_has_its_texts(tmp_path):
    table = {("a", 0): "1. one\n2. two\n3. three", ("b", 0): "", ("b", 1): "one\none"}
    writer = Says(table)
    found = describe(questions("a", "b"), writer, tmp_path / "c.jsonl", each=2, tries=3)
    assert found.texts == {"a": ("one", "two"), "b": ("one", "b text 2")}
    assert writer.asked == [[("a", 0), ("b", 0)], [("b", 1)], [("b", 2)]]
    assert dict(found.invalid) == {"empty": 1, "repeated": 1}
    assert (found.asked, found.cached, found.lacking) == (4, 0, [])


def test_answers_of_another_form_are_counted_by_reason(tmp_path):
    def read(answer):
        if answer == "odd":
            raise BadSample("odd-one")
        if answer == "form":
            raise InputError("not this form; ask again")
        return lines(answer)

    table = {("a", 0): "odd", ("b", 0): "form", ("c", 0): "x" * 1001, ("d", 0): "write about d"}
    found = describe(questions(*"abcd"), Says(table), tmp_path / "c.jsonl", read=read)
    assert dict(found.invalid) == {"odd-one": 1, "form": 1, "long": 1, "repeated": 1}
    assert found.texts == {}
    assert found.lacking == ["a", "b", "c", "d"]


def test_a_stopped_run_goes_on_and_asks_nothing_twice(tmp_path):
    keys = [f"k{number:02d}" for number in range(2 * BATCH + 5)]
    uninterrupted = describe(questions(*keys), Says(), tmp_path / "a" / "c.jsonl", each=2, tries=2)
    stopped = Says(stop=2)
    with pytest.raises(KeyboardInterrupt):
        describe(questions(*keys), stopped, tmp_path / "c.jsonl", each=2, tries=2)
    again = Says()
    found = describe(questions(*keys), again, tmp_path / "c.jsonl", each=2, tries=2)
    assert found.texts == uninterrupted.texts
    assert found.cached == 2 * BATCH
    assert not {each for batch in stopped.asked for each in batch} & {
        each for batch in again.asked for each in batch
    }
    assert len([*(tmp_path / "c.jsonl").read_text().splitlines()]) == 2 * len(keys)


def test_a_torn_line_is_asked_again_and_a_damaged_file_is_refused(tmp_path):
    cache = tmp_path / "c.jsonl"
    describe(questions("a", "b"), Says(), cache)
    text = cache.read_text()
    cache.write_text(text[:-10])
    found = describe(questions("a", "b"), Says(), cache)
    assert found.texts == {"a": ("a text 0",), "b": ("b text 0",)}
    cache.write_text("{no\n" + text)
    with pytest.raises(InputError, match="c.jsonl, line 1: not JSON"):
        describe(questions("a"), Says(), cache)


def test_another_prompt_writer_or_key_is_another_question(tmp_path):
    cache = tmp_path / "c.jsonl"
    describe(questions("a"), Says(), cache)
    assert describe(questions("a"), Says(), cache).cached == 1
    assert describe([Question(key="a", prompt="other")], Says(), cache).asked == 1
    other = Says()
    other.name = "another"
    assert describe(questions("a"), other, cache).asked == 1
    grown = describe(questions("a", "b"), Says(), cache)
    assert (grown.asked, len(grown.texts)) == (2, 2)
    records = [json.loads(line) for line in cache.read_text().splitlines()]
    assert {record["key"] for record in records} == {"a", "b"}


def test_answers_are_read_as_lists_or_as_one_text():
    assert lines("* a\n\n2) b\n 3. c 4\n") == ["a", "b", "c 4"]
    assert whole("a\n b \n") == ["a b"]
    assert whole(" \n") == lines("\n") == []


def test_two_things_of_one_key_are_refused(tmp_path):
    with pytest.raises(InputError, match="two things have the key 'a'"):
        describe(questions("a", "a"), Says(), tmp_path / "c.jsonl")
