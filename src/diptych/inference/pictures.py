"""How a result names its image."""

from diptych.data.images import file_of, size_of
from diptych.data.sample import Sample
from diptych.evaluation.embed import main_image


def name_and_size(sample: Sample) -> tuple[str, tuple[int, int]]:
    """Return the file of a sample's image, or its key, and the image's width and height."""
    [image] = main_image(sample)
    return file_of(image) or sample.key, size_of(image)
