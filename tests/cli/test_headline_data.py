"""Methods trained by the command line on the formats of their papers' data, in small."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.cli.helpers import TINY, caption, encoded, image

COUNT = 32


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def trained(diptych, method: str, out: Path, *words: object) -> dict:
    called = diptych("train", method, *TINY, "--out", out, *words)
    assert called.code == 0, called
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])


def images(folder: Path) -> list[str]:
    folder.mkdir(parents=True)
    names = [f"{number}.jpg" for number in range(COUNT)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(encoded(image(number), "JPEG"))
    return names


def test_cliprocket_on_cc12m_and_yfcc(diptych, tmp_path):
    names = images(tmp_path / "cc12m")
    entries = [
        {"image_name": name, "image_id": at, "captions": [caption(at)]}
        for at, name in enumerate(names)
    ]
    np.save(tmp_path / "cc12m.npy", np.array(entries, object))
    with_titles = []
    for at, name in enumerate(names):
        index = 3000 * at + at
        path = tmp_path / "images" / f"{index:08d}"[:2] / f"{index:08d}"[2:5]
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path.with_suffix(".zip"), "a") as archive:
            archive.write(tmp_path / "cc12m" / name, f"{index:08d}"[5:] + ".jpg")
        with_titles.append((index, caption(at), f"described as {caption(at)}" if at % 2 else ""))
    (tmp_path / "yfcc15m.pkl").write_bytes(pickle.dumps(with_titles))
    both = f"{tmp_path / 'cc12m.npy'}:root={tmp_path / 'cc12m'},{tmp_path / 'yfcc15m.pkl'}"
    report = json.loads(diptych("check", both, "--json").out)
    assert (report["samples"], report["damage"]) == (2 * COUNT, {})
    assert report["captions"]["count"] == 2 * COUNT + COUNT // 2
    trained(diptych, "cliprocket", tmp_path / "run", "--data", both, "--method.hidden", "16")
    roles = f"{tmp_path / 'yfcc15m.pkl'}:text=title=title;web=description"
    trained(
        diptych,
        "cliprocket",
        tmp_path / "roles",
        "--data",
        roles,
        "--method.hidden",
        "16",
        "--method.role",
        "title=0.3,web=0.7",
    )


def test_a_pickle_that_would_run_code_is_refused_in_one_line(
    refused_training, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cc3m.pkl").write_bytes(b"cos\nsystem\n(S'touch harmed'\ntR.")
    message = refused_training(tmp_path / "cc3m.pkl", tmp_path / "run")
    assert "'os.system'" in message
    assert "was not read" in message
    assert not Path("harmed").exists()


def test_a_list_whose_images_are_gone_stops_the_run(refused_training, diptych, tmp_path):
    names = images(tmp_path / "photos")
    entries = [
        {"image_id": name, "captions": [caption(at)]}
        for at, name in enumerate([*names, "gone.jpg", "g2.jpg"])
    ]
    np.save(tmp_path / "cc3m.npy", np.array(entries, object))
    spec = f"{tmp_path / 'cc3m.npy'}:root={tmp_path / 'photos'}"
    assert json.loads(diptych("check", spec, "--json").out)["damage"] == {"missing": 2}
    assert "missing" in refused_training(spec, tmp_path / "run", "--steps", "9")


def test_dreamlip_on_its_table(diptych, tmp_path, monkeypatch):
    names = images(tmp_path / "dreamlip-cc3m")
    rows = ["image,raw,shortIB,longIB,shortSV,longSV,shortLLA,longLLA"]
    rows += [
        f'{name},"{caption(at)}",s,It is {at}. It is noise.,s,"One.\n\nTwo.",s,Three.</s>'
        for at, name in enumerate(names)
    ]
    (tmp_path / "dreamlip-cc3m" / "train.csv").write_text("\n".join(rows))
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    for number, pool in enumerate(("synthetic+long", "caption+synthetic+long")):
        trained(
            diptych,
            "dreamlip",
            tmp_path / f"run{number}",
            "--data",
            "dreamlip-cc3m",
            "--method.pool",
            pool,
        )


def test_mod_x_on_coco_and_five_phases_of_flickr30k(diptych, tmp_path):
    names = images(tmp_path / "train2014")
    coco = {
        "images": [{"id": at, "file_name": name} for at, name in enumerate(names)],
        "annotations": [{"id": at, "image_id": at, "caption": caption(at)} for at in range(COUNT)],
    }
    (tmp_path / "captions_train2014.json").write_text(json.dumps(coco))
    names = images(tmp_path / "flickr30k-images")
    splits = ["train", "train", "val", "test"]
    flickr = [
        {
            "filename": name,
            "split": splits[at % 4],
            "imgid": at,
            "sentences": [{"raw": caption(at)}, {"raw": "x"}],
        }
        for at, name in enumerate(names)
    ]
    (tmp_path / "dataset_flickr30k.json").write_text(
        json.dumps({"dataset": "flickr30k", "images": flickr})
    )
    words: list[object] = ["--data", f"train={tmp_path / 'captions_train2014.json'}"]
    for phase in range(1, 6):
        data = f"phase{phase}={tmp_path / 'dataset_flickr30k.json'}:split=train+val:part={phase}/5"
        words += ["--data", data]
    last = trained(
        diptych, "mod_x", tmp_path / "run", *words, "--method.phases", "6", "--batch-size", "4"
    )
    assert np.isfinite(last["loss"])
