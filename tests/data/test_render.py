"""Text as pixels: glyphs against their published bitmaps, the strip, and what does not fit."""

import lzma
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.render import (
    REPLACEMENT,
    OutlineFont,
    TextRenderer,
    font,
    outlines,
    plain,
    real,
)
from diptych.errors import InputError

A = """
........
........
........
........
...##...
..#..#..
..#..#..
.#....#.
.#....#.
.######.
.#....#.
.#....#.
.#....#.
.#....#.
........
........
"""  # of unifont.hex: 0041:0000000018242442427E424242420000


def inked(text):
    return font("unifont").line(text).ink > 0


def test_a_glyph_is_that_of_the_published_font():
    drawn = np.array([[letter == "#" for letter in row] for row in A.split()])
    assert np.array_equal(inked("A"), drawn)


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("abc", 24),
        ("naïve", 40),
        ("Привет", 48),
        ("漢字", 32),
        ("한국", 32),
        ("שלום", 32),
        ("ไทย", 24),
    ],
)
def test_scripts_have_their_widths_and_lack_nothing(text, width):
    line = font("unifont").line(text)
    assert line.ink.shape == (16, width)
    assert line.missing == ()
    assert line.ends[-1] == width
    starts = np.concatenate([[0], line.ends[:-1]])
    for start, end in zip(starts, line.ends, strict=True):
        assert line.ink[:, start:end].any()


def test_a_mark_lies_over_the_character_before_it():
    """A tilde over q, of which there is no character of its own."""
    alone = inked("q")
    marked = inked("q\u0303")
    assert marked.shape == alone.shape
    assert (marked & alone == alone).all()
    assert (marked & ~alone)[:6].any()
    assert inked("\u0303").shape == (16, 0)


def test_what_the_font_lacks_is_replaced_and_counted():
    line = font("unifont").line("a\U0001f600\ud800b")
    assert line.missing == ("\U0001f600", "\ud800")
    assert np.array_equal(line.ink, font("unifont").line(f"a{REPLACEMENT * 2}b").ink)


def test_a_strip_is_the_text_the_black_patch_and_white():
    """Slow: each pixel of the strip by its definition."""
    text = "two cats"
    found = TextRenderer(patches=8).render(text)
    line = font("unifont").line(text)
    count = -(-(3 + 64) // 16)
    assert found.patches == count == 5
    for y in range(16):
        for x in range(128):
            if 16 * count <= x < 16 * (count + 1):
                expected = 0
            elif 3 <= x < 3 + 64:
                expected = 255 - line.ink[y, x - 3]
            else:
                expected = 255
            assert found.pixels[y, x] == expected


def test_a_text_that_ends_at_a_border_takes_no_further_patch():
    """37 pixels are 3 patches with text and 4 real ones; 32 are 2 and 3."""
    assert TextRenderer(patches=8, left=5).render("abcd").patches == 3  # 5 + 32
    assert real([3], 8).sum() == 4
    assert TextRenderer(patches=8, left=0).render("abcd").patches == 2
    assert real([2], 8).sum() == 3
    assert real([99], 8).all()


def test_a_long_text_leaves_room_for_the_black_patch():
    renderer = TextRenderer(patches=4)
    found = renderer.render("abcdefghij")
    assert (found.patches, found.cut) == (3, 5)  # (48 - 3) // 8 letters
    assert (found.pixels[:, 48:] == 0).all()
    assert np.array_equal(found.pixels, renderer.render("abcde").pixels)
    assert renderer.render("x" * 200_000).cut == 200_000 - 5
    wide = renderer.render("漢漢漢")
    assert (wide.patches, wide.cut) == (3, 1)


def test_spaces_and_forms_of_a_text_are_made_one():
    renderer = TextRenderer(patches=8)
    assert plain(" a\tb \n c ") == "a b c"
    for same in (" café", "cafe\u0301 ", "café\n"):
        assert np.array_equal(renderer.render(same).pixels, renderer.render("café").pixels)


def test_an_empty_text_is_the_black_patch_alone():
    found = TextRenderer(patches=4).render("  ")
    assert found.patches == 0
    assert (found.pixels[:, :16] == 0).all()
    assert (found.pixels[:, 16:] == 255).all()


def test_texts_are_drawn_together():
    renderer = TextRenderer(patches=6)
    pixels, there = renderer.strips(["a", "", "x" * 50])
    assert pixels.shape == (3, 16, 96)
    assert pixels.dtype == np.uint8
    assert there.sum(1).tolist() == [2, 1, 6]
    assert renderer.strips([])[0].shape == (0, 16, 96)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40), st.integers(2, 12))
def test_any_text_gives_a_strip(text, patches):
    found = TextRenderer(patches=patches).render(text)
    assert found.pixels.shape == (16, 16 * patches)
    assert 0 <= found.patches <= patches - 1
    black = found.pixels[:, 16 * found.patches : 16 * (found.patches + 1)]
    assert (black == 0).all()
    assert (found.pixels[:, 16 * (found.patches + 1) :] == 255).all()
    assert 0 <= found.cut <= len(plain(text))


def outline_file(tmp_path):
    path = tmp_path / "some.ttf"
    path.write_bytes(outlines(20).font_bytes)
    return str(path)


def test_an_outline_font_is_drawn_in_greys(tmp_path):
    path = outline_file(tmp_path)
    found = TextRenderer(patches=16, patch=24, font=path).render("two cats")
    assert found.pixels.shape == (24, 24 * 16)
    text = found.pixels[:, : 24 * found.patches]
    assert ((text > 0) & (text < 255)).any()
    assert (text < 255).any()
    line = font(path).line("ab\U0001f600")
    assert line.missing == ("\U0001f600",)
    assert line.ink.shape[1] == line.ends[-1]
    twice = OutlineFont(path, 30).line("ab")
    assert twice.ends[-1] > 1.5 * font(path).line("ab").ends[-1]


def test_a_line_higher_than_a_patch_is_drawn_by_its_middle(tmp_path):
    """The ascent and descent of a font for many scripts leave rows empty above and below Latin letters."""
    path = outline_file(tmp_path)
    line = font(path).line("Hag")
    assert len(line.ink) > 16 >= line.ink.any(1).sum()
    found = TextRenderer(patches=8, font=path).render("Hag")
    assert found.pixels.shape == (16, 128)
    width = line.ends[-1]
    drawn = 255 - found.pixels[:, 3 : 3 + width]
    rows = line.ink.any(1)
    assert (drawn[drawn.any(1)] == line.ink[rows]).all()
    with pytest.raises(InputError, match="pixels high, and patches have 16"):
        TextRenderer(patches=8, font=path, size=24)


def test_bad_fonts_and_sizes_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no font 'arial'; name unifont"):
        TextRenderer(patches=8, font="arial")
    other = tmp_path / "other.ttf"
    other.write_bytes(b"no font")
    with pytest.raises(InputError, match=r"other.ttf is no font"):
        TextRenderer(patches=8, font=str(other))
    with pytest.raises(InputError, match="16 pixels high, and patches have 8"):
        TextRenderer(patches=8, patch=8)
    with pytest.raises(InputError, match="2 patches or more"):
        TextRenderer(patches=1)
    with pytest.raises(InputError, match="from 1 to 1,000"):
        TextRenderer(patches=8, font=outline_file(tmp_path), size=0)


def test_the_font_that_ships_is_small_and_has_its_licence():
    folder = files("diptych.data").joinpath("fonts")
    packed = folder.joinpath("unifont.npz.xz").read_bytes()
    assert len(packed) < 1_000_000
    assert lzma.decompress(packed)[:2] == b"PK"
    licence = folder.joinpath("LICENSES.md").read_text("utf-8")
    assert "SIL OPEN FONT LICENSE Version 1.1" in licence
    assert "Roman Czyborra" in licence
    assert len(font("unifont").points) == 57_087
