"""`--shots K`: the training stream's sources draw so many samples of each class by the run's seed,
once and for all."""

import pytest
import yaml
from tests.cli.helpers import TINY, encoded, image

from diptych.data.sources import open_source


@pytest.fixture
def pets(tmp_path):
    """Two classes of ten images with captions."""
    for number in range(20):
        path = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image(number)))
        path.with_suffix(".txt").write_text(f"pet number {number}")
    return tmp_path / "pets"


def data_of(run) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())["data"]


def test_config_holds_the_spec_in_full_and_a_resumed_run_is_the_same(
    train, diptych, pets, tmp_path
):
    run, spec = tmp_path / "run", f"{pets}:shots=4:draw=3"
    called = train(pets, run, "--shots", "4", "--seed", "3")
    assert called.code == 0, called
    assert data_of(run) == {"train": spec}
    assert open_source(spec).labels("class").tolist() == [0] * 4 + [1] * 4
    assert diptych("train", "--resume", "--out", run).code == 0
    assert (
        diptych(
            "train",
            "clip",
            "--data",
            pets,
            *TINY,
            "--shots=4",
            "--seed=3",
            "--resume",
            "--out",
            run,
        ).code
        == 0
    )
    again = tmp_path / "again"  # other random choices on the same samples
    assert (
        diptych(
            "train", "--config", run / "config.yaml", "--seed", "5", "--out", again, "--quiet"
        ).code
        == 0
    )
    assert data_of(again) == {"train": spec}


def test_a_file_may_ask_for_shots_and_each_source_gives_them(diptych, pets, tmp_path):
    (tmp_path / "few.yaml").write_text(f"method: clip\ndata: {pets},{pets}/\nshots: 2\n")
    called = diptych("train", "--config", tmp_path / "few.yaml", *TINY, "--out", tmp_path / "run")
    assert called.code == 0, called
    assert data_of(tmp_path / "run") == {"train": f"{pets}:shots=2:draw=0,{pets}/:shots=2:draw=0"}


@pytest.mark.parametrize(
    ("words", "data", "parts"),
    [
        (["--shots", "few"], "{}", ["--shots 'few'", "a whole number"]),
        (["--shots", "0"], "{}", ["shots=0 of", "write 1 or more"]),
        (["--shots", "11"], "{}", ["shots=11 of", "there are of cat (10), dog (10)"]),
        (["--shots", "2"], "{}:shots=4", ["gives 'shots' twice; give it once"]),
        (
            ["--shots", "2"],
            "web={}",
            ["--shots is of the stream train, and --data names web", "SOURCE:shots=2"],
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    refused_training, pets, tmp_path, words, data, parts
):
    message = refused_training(data.format(pets), tmp_path / "run", *words)
    assert all(part in message for part in parts), message
