"""What is asked about classes, images and texts, and the writers."""

import sys

import numpy as np
import pytest
from tests.evaluation.helpers import Dot, Fake, Rows, row

from diptych.data.answers import Question, describe
from diptych.data.sample import Field
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.inference.describe import (
    Generating,
    Prepared,
    Program,
    Templates,
    World,
    card,
    of_classes,
    of_images,
    of_texts,
)

ECHO = """
import base64, json, sys
for line in sys.stdin:
    asked = json.loads(line)
    size = len(base64.b64decode(asked.get("image", "")))
    print(json.dumps({"answer": f"{asked['key']} {asked['prompt']} {asked['attempt']} {size}"}))
"""


def named(source):
    return [(question.key, question.prompt) for question in source]


def test_questions_name_classes_images_and_texts():
    rows = Rows(
        [row("x", 1, "a cat", "one cat", label=0), row("y", 2, label=1)], ("cat_a", "A|B", "A")
    )
    assert named(of_classes(rows, None, "about {}")) == [
        ("cat_a", "about cat a"),
        ("A", "about A"),
        ("B", "about B"),
    ]
    assert named(of_images(rows, "see {}")) == [("x", "see a cat"), ("y", "see ")]
    assert named(of_texts(rows, "caption", "say {}")) == [
        ("x", "say a cat"),
        ("x#2", "say one cat"),
    ]
    with pytest.raises(InputError, match="the prompt holds no {}"):
        of_texts(rows, "caption", "say")
    with pytest.raises(InputError, match="no sample of rows has a text of role 'long'"):
        of_texts(rows, "long", "{}")
    numbers = Rows([], (), {"labels.class": Field(kind="int")})
    with pytest.raises(InputError, match="have no names; give names"):
        of_classes(numbers, None, "{}")
    with pytest.raises(InputError, match="has an image to describe"):
        of_images(Rows([]), "")


def test_templates_files_and_worlds_answer(tmp_path):
    asked = [Question(key="cat", prompt="cat"), Question(key="dog", prompt="dog")]
    assert Templates("a {} | one {}")(asked, 0) == ["a cat\none cat", "a dog\none dog"]
    path = tmp_path / "own.json"
    path.write_text('{"cat": ["it purrs", "a pet"]}')
    assert Prepared(str(path))(asked, 0) == ["it purrs\na pet", ""]
    world = open_source("modalities:count=3")
    [first, *_] = of_classes(world, "class", "{}")
    [answer] = World(world, "class", 4, 0)([first], 0)
    assert answer.split("\n") == world.world.texts_of("class", first.key, 4)
    images = of_images(world, "")
    assert World(world, None, None, 0)(images, 0) == [sample.captions()[0] for sample in world]
    with pytest.raises(InputError, match="rows is no world; name one"):
        World(Rows([]), "class", 1, 0)
    with pytest.raises(InputError, match="the world scenes writes no texts of classes"):
        World(open_source("scenes:count=1"), "object", 1, 0)


class Speaks:
    """A language model that says its prompt, its seed and its place."""

    identity = "0123456789abcdef"

    def generate(self, prompts, *, strategy, seed):
        return [f"{prompt} {strategy} {seed % 1000} {at}" for at, prompt in enumerate(prompts)]


def test_a_language_model_draws_by_the_questions_and_not_by_where_a_run_stopped(tmp_path):
    keys = [Question(key=f"k{number}", prompt="p") for number in range(40)]
    writer = Generating(Speaks(), "speaks", seed=3)
    assert writer.name == "model speaks 0123456789ab seed=3"
    found = describe(keys, writer, tmp_path / "a" / "c.jsonl", each=2, tries=3)
    describe(keys[:32], writer, tmp_path / "c.jsonl", each=2, tries=1)
    assert describe(keys, writer, tmp_path / "c.jsonl", each=2, tries=3).texts == found.texts
    assert len(set(found.texts["k0"])) == 2
    with pytest.raises(InputError, match="needs a model with generate"):
        Generating(object(), "clip")


def test_a_model_of_images_sees_each_image_and_damaged_ones_are_empty():
    class Sees(Fake):
        def generate(self, images, prompts, *, strategy, seed):
            numbers = [image.getpixel((0, 0))[0] for image in images]
            return [f"dot {number} {prompts}" for number in numbers]

    writer = Generating(Sees(np.eye(6)), "sees")
    assert writer.reads_images
    asked = [
        Question(key="a", prompt="", image=Dot(4)),
        Question(key="b", prompt="", image=Dot(5, "truncated")),
        Question(key="c", prompt="", image=Dot(6)),
    ]
    assert writer(asked, 0) == ["dot 4 None", "", "dot 6 None"]


def test_a_program_reads_and_writes_json_lines(tmp_path):
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    writer = Program(f"{sys.executable} {script}")
    asked = [Question(key="a", prompt="é"), Question(key="b", prompt="q", image=Dot(7))]
    assert writer(asked, 2) == ["a é 2 0", "b q 2 1"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit('no key')", r"ended with 1 \(no key\); run it by hand"),
        ("print('{}')", "wrote 1 lines for 2 questions"),
        ("print('{}'); print('[]')", 'write lines such as {"answer": "a red cat"}'),
    ],
)
def test_a_program_that_fails_is_told(tmp_path, code, said):
    script = tmp_path / "bad.py"
    script.write_text(code)
    with pytest.raises(InputError, match=said):
        Program(f"{sys.executable} {script}")([Question(key=key, prompt="") for key in "ab"], 0)
    with pytest.raises(InputError, match="cannot be started"):
        Program(str(tmp_path / "gone"))([Question(key="a", prompt="")], 0)
    with pytest.raises(InputError, match="cmd: names no program"):
        Program(" ")


def test_the_card_has_sources_licences_writer_and_numbers(tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text('title = "t"\nlicence = "ours"\nsplits = { train = "t.tar" }\n')
    found = describe([Question(key="a", prompt="a")], Templates("one {}"), tmp_path / "c.jsonl")
    record = card(f"flickr8k-1k:split=test,{own},pets/,scenes", "classes", "one {}", "me", found)
    licences = [each["licence"] for each in record["sources"]]
    assert licences[1:] == ["ours", None, "generated by diptych"]
    assert licences[0]
    assert (record["texts"], record["things"], record["writer"]) == (1, 1, "me")
