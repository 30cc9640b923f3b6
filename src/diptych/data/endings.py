"""The extensions of files, by what they hold."""

import os

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif")
"""The extensions of files that are read as images."""

VIDEOS = ("mp4", "m4v", "mov", "webm", "mkv", "avi")
"""The extensions of files that are read as clips."""

ANIMATED = ("gif", "webp")
"""The extensions of images that may have several frames, and are clips where a reader is asked for
frames."""

FOREIGN = (
    *(
        "jp2",
        "j2k",
        "jpf",
        "jpx",
        "jxl",
        "svg",
        "ico",
        "psd",
        "xcf",
        "tga",
        "ppm",
        "pgm",
        "pbm",
        "pnm",
        "exr",
        "hdr",
    ),
    *("eps", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf"),
)
"""The extensions of images that are not supported; in a folder they are counted as such."""

TABLES = (".csv", ".tsv", ".jsonl", ".jsonl.gz", ".parquet")
"""The ends of the names of tables."""


def ending(path: str) -> str:
    """The extension of a file's name in lower case, of packed volumes both.

    >>> ending("case/CT.nii.gz"), ending("a.b.JPG")
    ('nii.gz', 'jpg')
    """
    name = os.path.basename(path).lower()  # noqa: PTH119  (millions of paths: no Path objects)
    return "nii.gz" if name.endswith(".nii.gz") else os.path.splitext(name)[1][1:]  # noqa: PTH122
