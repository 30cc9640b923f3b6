"""Continual learning: the measures against loops, and matrices of several sources and
checkpoints."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Fake, Rows, row, vectors

from diptych.data.sources import Concat
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.continual import continual, summary
from diptych.evaluation.suites.retrieval import retrieval
from diptych.evaluation.suites.zeroshot import zeroshot


@settings(max_examples=60, deadline=None)
@given(tasks=st.integers(2, 5), tied=st.booleans(), seed=st.integers(0, 10**6))
def test_measures_equal_loops(tasks, tied, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 3, (tasks, tasks)) / 2 if tied else rng.random((tasks, tasks))
    base = rng.random(tasks)
    last = tasks - 1
    found = summary(matrix, base)
    assert found["average"] == pytest.approx(sum(matrix[last][j] for j in range(tasks)) / tasks)
    assert found["forgetting"] == pytest.approx(
        sum(max(matrix[i][j] for i in range(last)) - matrix[last][j] for j in range(last)) / last
    )
    assert found["backward_transfer"] == pytest.approx(
        sum(matrix[last][j] - matrix[j][j] for j in range(last)) / last
    )
    assert found["forward_transfer"] == pytest.approx(
        sum(matrix[j - 1][j] - base[j] for j in range(1, tasks)) / last
    )


def test_one_task_has_no_transfer_and_a_matrix_is_square():
    assert summary(np.array([[0.5]])) == {"average": 0.5}
    with pytest.raises(InputError, match=r"square, this one is \(2, 3\)"):
        summary(np.zeros((2, 3)))


def tasks(count: int = 3, samples: int = 5) -> Concat:
    parts = []
    for number in range(count):
        first = samples * number
        part = Rows([row(f"{i}", i, f"t {i}", label=i % 3) for i in range(first, first + samples)])
        part.name = f"data/{number}.tar"
        parts.append(part)
    return Concat(parts)


class Turned(Fake):
    """Images lie a good way off their texts, each otherwise."""

    def __init__(self, seed: int):
        super().__init__(vectors(seed))
        self.away = Fake(vectors(seed + 50)).vectors

    def embed_images(self, images, *, batch_size):
        number = self.numbers(images)
        return 0.6 * self.vectors[number] + 0.8 * self.away[number]


def models(count: int) -> list[Fake]:
    return [Turned(seed) for seed in range(count)]


def recall(model: Fake, part) -> float:
    found = retrieval(model, part)
    return (found["i2t_r1"] + found["t2i_r1"]) / 2


def test_the_matrix_is_of_each_checkpoint_on_each_source():
    stages, source = models(3), tasks()
    result = continual(
        stages[2], source, earlier=stages[:2], measure="retrieval.i2t_r1+t2i_r1", batch_size=2
    )
    matrix = np.array([[recall(model, part) for part in source.sources] for model in stages])
    chance = [retrieval(stages[0], part)["chance_i2t_r1"] for part in source.sources]
    assert {name: result[name] for name in summary(matrix, np.array(chance))} == summary(
        matrix, np.array(chance)
    )
    assert result["by_stage"]["stage 2"] == dict(
        zip(("1: 0.tar", "2: 1.tar", "3: 2.tar"), matrix[1], strict=True)
    )
    assert result["chance_average"] == pytest.approx(np.mean(chance))
    assert 0 < matrix.mean() < 1


def test_a_checkpoint_from_before_is_the_baseline_of_forward_transfer():
    stages, source = models(3), tasks(2)
    result = continual(
        stages[2], source, earlier=stages[:2], measure="zeroshot.top1", label="class"
    )
    matrix = np.array(
        [[zeroshot(m, part, label="class")["top1"] for part in source.sources] for m in stages]
    )
    assert list(result["by_stage"]) == ["before", "stage 1", "stage 2"]
    assert result["forward_transfer"] == pytest.approx(matrix[1, 1] - matrix[0, 1])
    assert result["average"] == pytest.approx(matrix[2].mean())
    other = continual(
        stages[2], source, earlier=stages[1:2], measure="zeroshot.top1", label="class"
    )
    assert other["protocol"] != result["protocol"]


def test_progress_runs_once_from_nothing_to_all():
    calls = []
    stages = models(2)
    continual(
        stages[1],
        tasks(2),
        earlier=stages[:1],
        progress=lambda done, total: calls.append(done / total),
    )
    assert calls == sorted(calls)
    assert calls[-1] == 1.0


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (
            Rows([row("a", 1, "t 1")]),
            {},
            "continual needs a source for each task, joined by commas; 'rows' is one",
        ),
        (tasks(), {}, "3 tasks and 1 checkpoints with the model itself; name 2 earlier ones, or 3"),
        (
            tasks(2),
            {"earlier": [Fake(vectors(0))], "measure": "retrievl.i2t_r1"},
            "did you mean 'retrieval'",
        ),
        (tasks(2), {"earlier": [Fake(vectors(0))], "measure": "retrieval"}, "write SUITE.NUMBER"),
        (tasks(2), {"earlier": ["nowhere"]}, "no model at 'nowhere'"),
        (tasks(2), {"earlier": [Fake(vectors(0))], "measure": "dense.miou"}, "dense needs masks"),
    ],
)
def test_what_makes_no_matrix_is_told_before_anything_is_computed(source, settings, message):
    model = Fake(vectors(0))
    with pytest.raises(InputError, match=message):
        evaluate(model, source, ["continual"], **settings)
    assert not model.seen


def test_a_number_that_the_suite_does_not_give_names_the_nearest():
    stages = models(2)
    with pytest.raises(InputError, match="number of retrieval 'i2t_r2'; did you mean 'i2t_r"):
        continual(stages[1], tasks(2), earlier=stages[:1], measure="retrieval.i2t_r2")
