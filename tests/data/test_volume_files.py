"""Volumes in files: NIfTI's axes, types and scaling, .npy, damage, and the way into sources and
pictures."""

import numpy as np
import pytest
from tests.data.nifti import nifti

from diptych.data.decode import decode, dimensions
from diptych.data.images import FileImage, is_image
from diptych.data.sample import BadSample
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.volume_files import middle_slice, npy_bytes, read_volume
from diptych.data.volumes import volume_of

VOLUME = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)  # slices, rows, columns


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_axes_of_axial_slices_are_kept(order, packed):
    """Axes x, y, z that run to the left, the back and the head are already in order."""
    data = nifti(VOLUME.transpose(2, 1, 0), order=order, packed=packed)
    found = read_volume(data)
    assert found.dtype.kind == "i"
    np.testing.assert_array_equal(found, VOLUME)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_any_order_and_direction_of_axes_gives_the_same_volume(signs, axes):
    """`axes[w]` is the voxel axis that runs along world axis w, forwards or backwards, slightly
    turned."""
    world = VOLUME.transpose(2, 1, 0)[::-1, ::-1]  # axes right, front, head
    stored = world[tuple(slice(None, None, sign) for sign in signs)]
    stored = stored.transpose(np.argsort(axes))
    rows = np.full((3, 4), 0.05)
    for axis in range(3):
        rows[axis, axes[axis]] = 0.8 * signs[axis]
    np.testing.assert_array_equal(read_volume(nifti(stored, rows)), VOLUME)


def test_a_quaternion_tells_directions_too():
    """The identity is right, front, head; a half turn about the head axis is left, back, head."""
    world = VOLUME.transpose(2, 1, 0)[::-1, ::-1]
    np.testing.assert_array_equal(read_volume(nifti(world, quaternion=(0, 0, 0, 1))), VOLUME)
    turned = nifti(VOLUME.transpose(2, 1, 0), quaternion=(0, 0, 1, 1))
    np.testing.assert_array_equal(read_volume(turned), VOLUME)
    mirrored = nifti(VOLUME.transpose(2, 1, 0)[:, :, ::-1], quaternion=(0, 0, 1, -1))
    np.testing.assert_array_equal(read_volume(mirrored), VOLUME)


def test_numbers_are_scaled_as_the_header_says():
    found = read_volume(nifti(VOLUME.transpose(2, 1, 0).astype("u2"), slope=2.0, inter=-1024.0))
    np.testing.assert_allclose(found, 2.0 * VOLUME - 1024)
    plain = read_volume(nifti(VOLUME.transpose(2, 1, 0), slope=0.0, inter=7.0))
    np.testing.assert_array_equal(plain, VOLUME)  # a slope of 0 means none


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (nifti(VOLUME.transpose(2, 1, 0))[:-4], "truncated"),
        (nifti(VOLUME.transpose(2, 1, 0), packed=True)[:-20], "truncated"),
        (nifti(np.zeros((2, 2, 2, 3), np.int16)), "axes"),
        (nifti(np.zeros((2, 2), np.int16)), "axes"),
        (npy_bytes(np.zeros((2, 2, 2, 2))), "axes"),
        (npy_bytes(np.full((1, 1, 1), np.nan)), "not-finite"),
        (npy_bytes(np.array([[["a"]]])), "npy"),
        (npy_bytes(VOLUME)[:-3], "npy"),
        (b"\x1f\x8b no gzip", "unreadable"),
        (b"neither", "unsupported"),
    ],
)
def test_damage_has_its_reason(data, reason):
    with pytest.raises(BadSample) as error:
        read_volume(data)
    assert error.value.reason == reason


def test_four_axes_of_which_the_last_is_one_are_three():
    found = read_volume(nifti(VOLUME.transpose(2, 1, 0)[..., None]))
    np.testing.assert_array_equal(found, VOLUME)


def test_a_volume_is_shown_by_its_middle_slice(tmp_path):
    data = npy_bytes(VOLUME)
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(middle_slice(VOLUME)))
    assert dimensions(data) == (4, 3)
    (tmp_path / "a.nii.gz").write_bytes(nifti(VOLUME.transpose(2, 1, 0), packed=True))
    assert is_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume_of(FileImage(str(tmp_path / "a.nii.gz"))), VOLUME)


def test_a_folder_of_volumes_is_a_source_and_survives_shards(tmp_path):
    for name, number in (("cyst", 0), ("solid", 1)):
        (tmp_path / "scans" / name).mkdir(parents=True)
        (tmp_path / "scans" / name / "x.npy").write_bytes(npy_bytes(VOLUME + number))
        (tmp_path / "scans" / name / "x.txt").write_text(f"a {name}")
    source = open_source(str(tmp_path / "scans"))
    assert source.schema()["labels.class"].classes == ("cyst", "solid")
    assert source[1].captions() == ["a solid"]
    assert source.damage == {}
    kept = open_source("kidneys:count=2:slices=8:size=16")
    write_shards(kept, tmp_path / "shards")
    read = open_source(f"{tmp_path}/shards/*.tar")
    for before, after in ((kept[0], read[0]), (kept[1], read[1])):
        assert after.images.keys() == before.images.keys()
        for role, image in before.images.items():
            np.testing.assert_array_equal(volume_of(after.images[role]), image.volume())
