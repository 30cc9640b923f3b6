"""`Model`: whatever form images and texts come in, the same vectors come out."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diptych.data.images import BytesImage, FileImage
from diptych.data.tokenizers import train_bpe
from diptych.errors import InputError
from diptych.models.model import Model
from diptych.towers.build import image_tower, text_tower
from diptych.towers.dual import DualEncoder

TEXTS = [
    "a red cat",
    "two dogs on the green, green grass",
    "",
    "snow",
    "a small red cat and a large blue dog asleep",
]
TOKENIZER = train_bpe(TEXTS * 3, 300, 24)


@pytest.fixture(scope="module")
def model() -> Model:
    return make()


def make(
    seed: int = 0, image: str = "vit:image_size=32:patch=8:width=64:depth=2", tokenizer=TOKENIZER
) -> Model:
    torch.manual_seed(seed)
    tower = image_tower(image)
    text = text_tower(
        "text:width=64:depth=2",
        vocab_size=TOKENIZER.vocab_size,
        context=TOKENIZER.context,
        pad=TOKENIZER.pad,
        eot=TOKENIZER.eot,
    )
    return Model(DualEncoder(tower, text, 16), tokenizer, tower.preprocess, name="toy")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(40, 56), (32, 32), (90, 33), (33, 64), (50, 50)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture(scope="module")
def paths(images: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def assert_close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


# RELIABILITY 20
def test_paths_images_and_tensors_give_equal_vectors(
    model: Model, images: list[Image.Image], paths: list[Path]
):
    expected = model.embed_images(images)
    assert expected.shape == (5, 16)
    assert expected.dtype == torch.float32
    assert_close(expected.norm(dim=1), torch.ones(5))
    given = [
        paths,
        [str(path) for path in paths],
        [FileImage(str(path)) for path in paths],
        [BytesImage(path.read_bytes()) for path in paths],
        (*images[:2], *paths[2:]),
    ]
    for each in given:
        assert torch.equal(model.embed_images(each, exact=True), expected)
        assert (
            torch.nn.functional.cosine_similarity(model.embed_images(each), expected).min() > 0.999
        )
    for number, image in enumerate(images):
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
        assert_close(model.embed_images(pixels), expected[number : number + 1])
        assert_close(model.embed_images(image), expected[number : number + 1])
        assert_close(model.embed_images(paths[number], exact=True), expected[number : number + 1])


def test_large_jpeg_files_are_decoded_scaled_unless_exact(model: Model, tmp_path: Path):
    x, y = np.meshgrid(np.linspace(0, 255, 400), np.linspace(0, 255, 300))
    Image.fromarray(np.stack([x, y, x * y / 255], -1).astype(np.uint8)).save(
        tmp_path / "a.jpg", quality=95
    )
    with Image.open(tmp_path / "a.jpg") as given:
        full = model.embed_images(given)  # an image that is open already is taken as it is
    images = [FileImage(str(tmp_path / "a.jpg")), BytesImage((tmp_path / "a.jpg").read_bytes())]
    for image in (tmp_path / "a.jpg", str(tmp_path / "a.jpg"), *images):
        assert torch.equal(model.embed_images(image, exact=True), full)
        scaled = model.embed_images(image)
        assert torch.equal(
            scaled, model.embed_images(model.preprocess(images[0].decode(64), exact=False))
        )
        assert not torch.equal(scaled, full)
        assert (scaled * full).sum() > 0.999


def test_floats_are_taken_as_preprocessed(model: Model, images: list[Image.Image]):
    pixels = torch.stack([model.preprocess(image) for image in images])
    expected = model.embed_images(images)
    assert_close(model.embed_images(pixels), expected)
    assert_close(model.embed_images(model.encoder.image.pixels(pixels)), expected)


def test_a_batch_of_one_equals_a_batch_of_many_and_padding_is_unseen(
    model: Model, images: list[Image.Image]
):
    assert_close(model.embed_images(images, batch_size=1), model.embed_images(images))
    assert_close(model.embed_images(images, batch_size=2), model.embed_images(images))
    together = model.embed_texts(TEXTS)
    assert_close(model.embed_texts(TEXTS, batch_size=1), together)
    assert_close(torch.cat([model.embed_texts(text) for text in TEXTS]), together)


# RELIABILITY 20
def test_golden_embeddings_of_a_seeded_model_have_not_moved(images: list[Image.Image]):
    model = make()
    with torch.no_grad():
        for (
            name,
            value,
        ) in (
            model.encoder.named_parameters()
        ):  # by name, so that the order of drawing does not matter
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            value.copy_(torch.from_numpy(rng.normal(0, 0.2, value.shape)))
    assert_close(model.embed_images(images[:2])[:, :4], torch.tensor(GOLDEN_IMAGES))
    assert_close(model.embed_texts(TEXTS[:2])[:, :4], torch.tensor(GOLDEN_TEXTS))


GOLDEN_IMAGES = [
    [-0.141167, -0.058331, 0.350794, 0.185496],
    [-0.105996, -0.087379, 0.313654, 0.188171],
]
GOLDEN_TEXTS = [
    [0.051840, 0.053915, 0.179309, -0.247603],
    [0.103532, 0.073499, 0.169357, -0.223404],
]


def test_turned_transparent_and_grey_images_are_as_from_a_file(model: Model, tmp_path: Path):
    rng = np.random.default_rng(1)
    turned = Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.fromarray(rng.integers(0, 256, (40, 40, 4), dtype=np.uint8))
    grey = Image.fromarray(rng.integers(0, 65536, (40, 40), dtype=np.uint16))
    for name, image, options in (
        ("a.png", turned, {"exif": exif}),
        ("b.png", clear, {}),
        ("c.png", grey, {}),
    ):
        image.save(tmp_path / name, **options)
        path = tmp_path / name
        assert torch.equal(
            model.embed_images(Image.open(path)), model.embed_images(path, exact=True)
        )


def test_progress_is_told_and_training_flags_come_back(model: Model, images: list[Image.Image]):
    model.encoder.train()
    model.encoder.image.eval()
    reported: list[tuple[int, int]] = []
    model.embed_images(
        images, batch_size=2, progress=lambda done, total: reported.append((done, total))
    )
    assert reported == [(2, 5), (4, 5), (5, 5)]
    assert model.encoder.training
    assert model.encoder.text.training
    assert not model.encoder.image.training
    model.encoder.eval()


def test_embeddings_take_part_in_gradients_and_hold_none(model: Model, images: list[Image.Image]):
    found = model.embed_images(images)
    assert not found.requires_grad
    probe = torch.nn.Linear(16, 2)
    probe(found).sum().backward()
    assert probe.weight.grad is not None


def test_no_images_and_no_texts_give_no_rows(model: Model):
    assert model.embed_images([]).shape == (0, 16)
    assert model.embed_texts([]).shape == (0, 16)


def test_identity_changes_with_weights_preprocessing_and_tokenizer():
    identities = {make().identity, make(seed=1).identity, make(tokenizer=None).identity}
    model = make()
    assert make().identity == model.identity
    with torch.no_grad():
        model.encoder.text.norm.bias[0] += 1e-3
    identities.add(Model(model.encoder, TOKENIZER, model.preprocess, name="toy").identity)
    assert len(identities) == 4


def test_bad_images_are_named(model: Model, paths: list[Path], tmp_path: Path):
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "cut.png").write_bytes(paths[0].read_bytes()[:500])
    for image, message in [
        (tmp_path / "page.jpg", "page.jpg.*html"),
        (tmp_path / "none.jpg", "none.jpg.*missing"),
        (Image.open(tmp_path / "cut.png"), "image 1 .*trunc"),
        (3, "image 1: a int is no image"),
        (None, "image 1: a NoneType is no image"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            model.embed_images([paths[0], image])  # type: ignore[list-item]
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, 3, 40, 32), "40 x 32"),
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), "permute"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.int64), "int64"),
        (torch.zeros(32, 32), "32, 32"),
    ],
)
def test_tensors_of_a_wrong_form_are_refused(model: Model, tensor: Tensor, message: str):
    with pytest.raises(InputError, match=message):
        model.embed_images(tensor)


def test_a_missing_tokenizer_is_an_error_only_for_texts(images: list[Image.Image]):
    model = make(tokenizer=None)
    assert model.embed_images(images).shape == (5, 16)
    with pytest.raises(InputError, match="without a tokenizer"):
        model.embed_texts(["a cat"])


# RELIABILITY 22
def test_a_tokenizer_or_preprocessing_that_the_towers_were_not_built_for_is_an_error():
    model = make()
    for change in ({"mean": (0.5, 0.5, 0.5)}, {"size": 64}, {"interpolation": "bilinear"}):
        with pytest.raises(InputError, match=next(iter(change))):
            Model(model.encoder, TOKENIZER, replace(model.preprocess, **change), name="toy")
    full = train_bpe(TEXTS * 3, 300, 24)
    full.padding = "max"
    other = train_bpe(TEXTS * 3, 300, 24)
    other.after = (7,)
    longer = train_bpe(TEXTS * 3, 300, 48)
    larger = train_bpe([*TEXTS, "quick brown foxes jump over lazy dogs"] * 3, 400, 24)
    for tokenizer, message in [
        (full, "'max'"),
        (longer, "48"),
        (larger, "words"),
        (other, "ends texts with 7"),
    ]:
        with pytest.raises(InputError, match=message):
            Model(model.encoder, tokenizer, model.preprocess, name="toy")


def test_what_is_represented_is_what_is_projected(model: Model, images: list[Image.Image]):
    found = model.represent(images, batch_size=2)
    assert found.grid == (4, 4)
    assert found.patches.shape == (5, 16, 64)
    projected = torch.nn.functional.normalize(model.encoder.project_image(found.pooled), dim=-1)
    assert_close(projected.detach(), model.embed_images(images))
    with pytest.raises(InputError, match="toy has no image to represent"):
        model.represent([])


def test_classes_are_the_mean_directions_of_their_prompts(model: Model, images: list[Image.Image]):
    names, templates = ["red thing", "blue thing", "green"], ("a {}", "one {} here", "{}")
    model.set_classes([f" {name} " for name in names], templates)
    assert model.classes == tuple(names)
    means = [
        model.embed_texts([template.format(name) for template in templates]).mean(0)
        for name in names
    ]
    classes = torch.nn.functional.normalize(torch.stack(means), dim=1)
    expected = model.encoder.logit_scale().detach() * model.embed_images(images) @ classes.T
    torch.testing.assert_close(model.class_logits(images), expected)
    assert not model.class_logits(images).requires_grad


def test_classes_are_named_before_images_are():
    fresh = make()
    with pytest.raises(InputError, match="knows no classes; name them first"):
        fresh.class_logits(Image.new("RGB", (8, 8)))
    for names, said in (
        ([], "the 0 class names"),
        (["a", " "], "empty one"),
        (["a", "b", "a"], "called 'a'"),
    ):
        with pytest.raises(InputError, match=said):
            fresh.set_classes(names)
    with pytest.raises(InputError, match="must hold {} once"):
        fresh.set_classes(["a"], ["{} and {}"])


def test_records_are_the_weighted_mean_of_image_and_text(model: Model, images: list[Image.Image]):
    texts = TEXTS[: len(images)]
    x = model.embed_images(images)
    y = model.embed_texts(texts)
    found = model.embed_records(images, texts)
    torch.testing.assert_close(found, torch.nn.functional.normalize(x + y, dim=1))
    torch.testing.assert_close(model.embed_records(images, texts, weight=1.0), x)
    torch.testing.assert_close(model.embed_records(images, texts, weight=0.0), y)
    with pytest.raises(InputError, match="make no records; give a text for each image"):
        model.embed_records(images, texts[1:])


def test_arrays_are_images_one_or_many(model):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)
    wanted = model.embed_images([Image.fromarray(each) for each in pixels])
    for given in (pixels, list(pixels)):
        assert torch.equal(model.embed_images(given), wanted)
    torch.testing.assert_close(model.embed_images(pixels[1]), wanted[1:2])
    with pytest.raises(InputError, match=r"image 0: an array \(40, 56, 3\) of float64 is no image"):
        model.embed_images(pixels[0] / 255)
