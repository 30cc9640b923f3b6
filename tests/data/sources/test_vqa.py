"""VQA v2 and VQA-E, on fixtures of their true forms."""

import json
from collections import Counter

import pytest
from PIL import Image

from diptych.data.questions import agreed, answered
from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.errors import InputError

NAME = "v2_OpenEnded_mscoco_val2014_questions.json"
QUESTIONS = {
    "info": {"description": "This is v2.0 of the VQA dataset."},
    "task_type": "Open-Ended",
    "data_type": "mscoco",
    "data_subtype": "val2014",
    "license": {},
    "questions": [
        {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
        {"image_id": 262148, "question": "What are the people doing?", "question_id": 262148001},
        {"image_id": 393225, "question": "Is this soup?", "question_id": 393225000},
    ],
}
GIVEN = {
    262148000: ["down"] * 6 + ["at table"] * 4,
    262148001: ["spectating"] + ["watching"] * 9,
    393225000: ["yes"] * 10,
}
ANNOTATIONS = {
    "annotations": [
        {
            "question_type": "none of the above",
            "multiple_choice_answer": answers[0],
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": at}
                for at, answer in enumerate(answers, 1)
            ],
            "image_id": number // 1000,
            "answer_type": "other",
            "question_id": number,
        }
        for number, answers in GIVEN.items()
    ],
}
CAPTIONS = {
    "images": [{"id": 262148, "file_name": "COCO_val2014_000000262148.jpg"}],
    "annotations": [
        {"image_id": 262148, "id": 1, "caption": "A man skates on a rail.\n"},
        {"image_id": 262148, "id": 2, "caption": "People watch a skater."},
    ],
}
EXPLAINED = [
    {
        "img_id": 262148,
        "question": "Where is he looking?",
        "answers": GIVEN[262148000],
        "multiple_choice_answer": "down",
        "question_type": "where is",
        "explanation": ["The man looks down. ", 0.81],
    },
    {
        "img_id": 393225,
        "question": "Is this soup?",
        "answers": GIVEN[393225000],
        "multiple_choice_answer": "yes",
        "question_type": "is this",
        "explanation": ["A bowl of soup.", 0.7],
    },
]


@pytest.fixture
def vqa(tmp_path):
    """`vqa(questions, annotations, captions)` writes the files that are given."""

    def write(questions=QUESTIONS, annotations=ANNOTATIONS, captions=None, name=NAME):
        for file, data in (
            ("v2_mscoco_val2014_annotations.json", annotations),
            ("captions_val2014.json", captions),
        ):
            if data is not None:
                (tmp_path / file).write_text(json.dumps(data))
        (tmp_path / name).write_text(
            questions if isinstance(questions, str) else json.dumps(questions)
        )
        return tmp_path / name

    return write


def put(folder):
    folder.mkdir(parents=True)
    for image in (262148, 393225):
        Image.new("RGB", (4, 4)).save(folder / f"COCO_val2014_{image:012d}.jpg")


def test_questions_have_answers_captions_and_images_where_they_lie_beside(vqa, tmp_path):
    path = vqa(captions=CAPTIONS)
    put(tmp_path / "val2014")
    source = open_source(str(path))
    assert isinstance(source, Source)
    assert (
        list(source.keys())
        == [sample.key for sample in source]
        == [str(number) for number in GIVEN]
    )
    sample = source[0]
    [(question, answers)] = answered(sample)
    assert (question.text, answers) == ("Where is he looking?", GIVEN[262148000])
    assert agreed(answers) == ["down", "at table"]
    assert sample.captions() == ["A man skates on a rail.", "People watch a skater."]
    assert sample.images["main"].decode().size == (4, 4)
    assert source[1].captions() == sample.captions()
    assert source[2].captions() == []
    schema = source.schema()
    assert schema["texts.caption"].optional
    assert not schema["texts.answer"].optional
    assert not source.damage


def test_without_answers_and_images_it_is_a_source_of_questions(vqa, tmp_path):
    path = vqa(annotations=None)
    assert list(open_source(str(path)).schema()) == ["texts.question"]
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "answers.json").write_text(json.dumps(ANNOTATIONS))
    (tmp_path / "else" / "reported.json").write_text(json.dumps(CAPTIONS))
    put(tmp_path / "else" / "jpg")
    place = tmp_path / "else"
    source = open_source(
        f"{path}:annotations={place / 'answers.json'}:image_captions={place / 'reported.json'}:images={place / 'jpg'}"
    )
    assert set(source.schema()) == {
        "images.main",
        "texts.caption",
        "texts.question",
        "texts.answer",
    }


def test_an_explanation_is_the_caption_of_its_own_question(vqa, tmp_path):
    path = vqa(EXPLAINED, name="VQA-E_val_set.json")
    put(tmp_path / "val2014")
    source = open_source(str(path))
    assert [sample.captions() for sample in source] == [
        ["The man looks down."],
        ["A bowl of soup."],
    ]
    assert len(answered(source[1])[0][1]) == 10
    assert source[0].images["main"].decode().size == (4, 4)
    assert not source.schema()["texts.caption"].optional


def test_what_is_no_text_is_counted(vqa):
    questions = {
        "questions": [
            *QUESTIONS["questions"],
            {"image_id": 1, "question": "Who?", "question_id": 5},
            {"image_id": 1, "question": None, "question_id": 393225000},
        ]
    }
    source = open_source(str(vqa(questions)))
    assert len(source) == 3
    assert Counter(source.damage.values()) == {"missing": 1, "columns": 1}
    entry = {**EXPLAINED[0], "answers": [1, 2]}
    source = open_source(str(vqa([*EXPLAINED, entry], name="VQA-E_train_set.json")))
    assert list(source.damage.values()) == ["columns"]


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ("{", "not JSON"),
        ("{}", "lacks 'questions'"),
        ('{"questions": []}', "no question in it"),
        ('{"questions": [{"question": "a?"}]}', "lacks 'question_id'"),
        ('{"questions": [5]}', "compare it with VQA"),
    ],
)
def test_other_json_says_what_is_wrong(vqa, questions, message):
    with pytest.raises(InputError, match=message):
        open_source(str(vqa(questions)))


def test_names_and_folders_that_tell_nothing_are_refused(vqa, tmp_path):
    with pytest.raises(InputError, match="tells no split"):
        open_source(str(vqa(name="my_questions.json")))
    with pytest.raises(InputError, match=r"COCO_val2014_000000262148\.jpg, is not in"):
        open_source(f"{vqa()}:images={tmp_path / 'nowhere'}")
    with pytest.raises(InputError, match="lacks 'explanation'"):
        open_source(str(vqa([{"question": "a?"}], name="VQA-E_val_set.json")))
