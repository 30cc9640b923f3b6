"""The losses of RenalCLIP: published figures, loops in float64, gradients and invariances."""

import math

import pytest
import torch

from diptych.methods.domain.renalclip.objectives import cox, masked_tasks, next_token_loss

CLASSES = (3, 4, 5, 2, 5, 4, 7, 3, 7, 4, 3, 5, 5, 3)


def tasks(count: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = {
        str(t): torch.randn(count, c, generator=generator, dtype=torch.float64)
        for t, c in enumerate(CLASSES)
    }
    labels = {
        str(t): torch.randint(-1, c, (count,), generator=generator) for t, c in enumerate(CLASSES)
    }
    return logits, labels


def test_uniform_logits_give_the_sum_of_log_class_counts():
    logits = {str(t): torch.zeros(6, c, dtype=torch.float64) for t, c in enumerate(CLASSES)}
    labels = {str(t): torch.zeros(6, dtype=torch.long) for t in range(14)}
    assert sum(CLASSES) == 60
    assert float(masked_tasks(logits, labels)) == pytest.approx(19.576051, abs=1e-6)


def test_tasks_equal_loops_over_known_labels():
    logits, labels = tasks(9)
    total = 0.0
    for name, rows in logits.items():
        terms = []
        for row, label in zip(rows.tolist(), labels[name].tolist(), strict=True):
            if label >= 0:
                terms.append(math.log(sum(map(math.exp, row))) - row[label])
        total += sum(terms) / len(terms) if terms else 0
    assert float(masked_tasks(logits, labels)) == pytest.approx(total)


def test_a_task_without_labels_adds_nothing_and_has_no_gradient():
    logits, labels = tasks(5)
    for value in logits.values():
        value.requires_grad_()
    before = masked_tasks({k: v for k, v in logits.items() if k != "3"}, labels)
    labels["3"] = torch.full((5,), -1)
    loss = masked_tasks(logits, labels)
    assert float(loss.detach()) == pytest.approx(float(before.detach()), abs=1e-12)
    loss.backward()
    assert not logits["3"].grad.any()
    assert logits["4"].grad.any()


def test_doubled_rows_leave_a_task_as_it_is():
    logits, labels = tasks(5)
    twice = {name: torch.cat([value, value]) for name, value in logits.items()}
    doubled = {name: torch.cat([value, value]) for name, value in labels.items()}
    torch.testing.assert_close(masked_tasks(twice, doubled), masked_tasks(logits, labels))


def risks(count: int, seed: int = 0, ties: bool = False):
    generator = torch.Generator().manual_seed(seed)
    risk = torch.randn(count, generator=generator, dtype=torch.float64)
    time = torch.rand(count, generator=generator, dtype=torch.float64)
    event = torch.randint(0, 2, (count,), generator=generator)
    event[0] = 1
    return risk, (4 * time).ceil() if ties else time, event


def test_cox_has_its_published_value():
    risk = torch.tensor([0.5, 0.2, -0.3], dtype=torch.float64)
    loss = cox(risk, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 0, 1]))
    assert float(loss) == pytest.approx(0.391984, abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cox_equals_loops_over_all_that_are_at_risk(ties, seed):
    risk, time, event = risks(12, seed, ties)
    total = 0.0
    for i in range(12):
        if event[i]:
            at_risk = [math.exp(risk[j]) for j in range(12) if time[j] >= time[i]]
            total -= float(risk[i]) - math.log(sum(at_risk))
    assert float(cox(risk, time, event)) == pytest.approx(total / int(event.sum()))


def test_cox_ignores_a_constant_and_the_order_of_samples():
    risk, time, event = risks(10, ties=True)
    expected = cox(risk, time, event)
    torch.testing.assert_close(cox(risk + 3.7, time, event), expected)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(cox(risk[order], time[order], event[order]), expected)
    assert float(cox(risk, time, torch.zeros(10, dtype=torch.long))) == 0


def test_cox_has_the_gradient_of_its_formula():
    risk, time, event = risks(7, ties=True)
    assert torch.autograd.gradcheck(lambda r: cox(r, time, event), risk.requires_grad_())
    large = torch.tensor([800.0, -800.0, 0.0], dtype=torch.float64)
    assert math.isfinite(float(cox(large, torch.arange(3.0), torch.ones(3))))


def test_a_masked_id_is_predicted_from_the_token_before_it():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    table = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    marks = torch.full((2, 5), -1)
    marks[0, 2], marks[0, 4], marks[1, 0] = 6, 1, 3  # the first place has none before it
    sums, counts = next_token_loss(tokens, table, marks)
    expected = 0.0
    for place, word in ((2, 6), (4, 1)):
        logits = [
            sum(a * b for a, b in zip(line, tokens[0, place - 1].tolist(), strict=True))
            for line in table.tolist()
        ]
        expected += math.log(sum(map(math.exp, logits))) - logits[word]
    assert sums.tolist() == pytest.approx([expected, 0])
    assert counts.tolist() == [2, 0]


def test_losses_are_differentiable_where_nothing_is_masked():
    tokens = torch.randn(2, 4, 3, requires_grad=True)
    sums, counts = next_token_loss(tokens, torch.randn(5, 3), torch.full((2, 4), -1))
    (sums.sum() / counts.sum().clamp(min=1)).backward()
    assert not tokens.grad.any()
