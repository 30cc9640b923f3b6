"""Accelerators by name: `8xH100`, or by their figures: `8x989TFLOPS:80GB`.

The figures are those of the vendors' data sheets, dense (without structured sparsity): the rate of
bfloat16 on matrix units with float32 sums, of plain float32 (not TF32, which training does not
switch on), and the memory in 10^9 bytes.
"""

import re
from dataclasses import dataclass

from diptych.errors import InputError, unknown


@dataclass(frozen=True, kw_only=True)
class Device:
    """An accelerator: operations a second in `bfloat16` (None: it has none) and `float32`, and
    `memory` in bytes."""

    name: str
    bfloat16: float | None
    float32: float
    memory: float

    def rate(self, precision: str) -> float:
        """Return the operations a second at a precision. Raises InputError if it has none."""
        rate = self.bfloat16 if precision == "bfloat16" else self.float32
        if rate is None:
            raise InputError(f"{self.name} does not compute in bfloat16; give --precision float32")
        return rate


def _device(name: str, bfloat16: float | None, float32: float, gigabytes: float) -> Device:
    return Device(
        name=name,
        bfloat16=None if bfloat16 is None else bfloat16 * 1e12,
        float32=float32 * 1e12,
        memory=gigabytes * 1e9,
    )


DEVICES = {
    device.name: device
    for device in (
        _device("H100", 989.4, 67, 80),  # NVIDIA H100 Tensor Core GPU data sheet, SXM
        _device("H200", 989.4, 67, 141),  # NVIDIA H200 Tensor Core GPU data sheet, SXM
        _device("A100", 312, 19.5, 80),  # NVIDIA A100 Tensor Core GPU data sheet, SXM 80 GB
        _device("A100-40GB", 312, 19.5, 40),  # NVIDIA A100 Tensor Core GPU data sheet, 40 GB
        _device("L40S", 362, 91.6, 48),  # NVIDIA L40S data sheet
        _device("L4", 121, 30.3, 24),  # NVIDIA L4 Tensor Core GPU data sheet
        _device("RTX4090", 165.2, 82.6, 24),  # NVIDIA Ada GPU architecture white paper
        _device("V100", None, 15.7, 16),  # NVIDIA V100 data sheet, SXM2 16 GB
        _device("V100-32GB", None, 15.7, 32),  # NVIDIA V100 data sheet, SXM2 32 GB
    )
}
_COUNTED = re.compile(r"(?:(?P<count>\d+)x)?(?P<kind>.+)", re.IGNORECASE)
_OWN = re.compile(r"(?P<rate>\d+(?:\.\d+)?)TFLOPS:(?P<memory>\d+(?:\.\d+)?)GB", re.IGNORECASE)
_MOST = 1_000_000  # devices


def hardware(spec: str) -> tuple[int, Device]:
    """Return the number and the kind of the devices of a spec.

    One's own figures hold for any precision. Raises InputError for a spec that is none.

    >>> hardware("8xH100")[0], hardware("a100")[1].memory
    (8, 80000000000.0)
    >>> hardware("2x50TFLOPS:16GB")[1].rate("float32")
    50000000000000.0
    """
    found = _COUNTED.fullmatch(spec)
    kind = found["kind"] if found else spec
    count = int(found["count"] or 1) if found else 1
    if not 1 <= count <= _MOST:
        raise InputError(
            f"hardware {spec!r} has {count} devices; give 1 to {_MOST:,}, such as 8xH100"
        )
    if own := _OWN.fullmatch(kind):
        rate = float(own["rate"])
        memory = float(own["memory"])
        if not rate or not memory:
            raise InputError(
                f"hardware {spec!r} has no speed or no memory; write such as 8x989TFLOPS:80GB"
            )
        return count, _device(kind, rate, rate, memory)
    names = {name.lower(): device for name, device in DEVICES.items()}
    if kind.lower() not in names:
        raise unknown("hardware", kind, [*DEVICES, "989TFLOPS:80GB"])
    return count, names[kind.lower()]
