"""A sample by which another machine finds out that it reads the same data."""

import socket
from dataclasses import dataclass

from diptych.data.compact import hash64
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError


@dataclass(frozen=True, slots=True)
class Probe:
    """The first sample of a source that can be read, by its position, and a hash of its content."""

    position: int
    content: int

    @classmethod
    def of(cls, source: Source) -> "Probe | None":
        """Return the probe of a source; None if no sample can be read."""
        for position in range(len(source)):
            try:
                return cls(position, _content(source[position]))
            except BadSample:
                continue
        return None

    def check(self, source: Source) -> None:
        """Raise InputError if this machine does not read the same content."""
        try:
            found = _content(source[self.position])
        except BadSample as bad:
            problem = f"cannot read {source.name} ({bad})"
        else:
            if found == self.content:
                return
            problem = f"reads other data as {source.name}"
        raise InputError(
            f"the node {socket.gethostname()} {problem}; put the data where all nodes find it by the same path, or "
            "name it by a URL"
        )


def _content(sample: Sample) -> int:
    images = b"".join(image.read() for image in sample.images.values())
    return hash64(images + "\n".join(sample.captions("*")).encode("utf-8", "surrogatepass"))
