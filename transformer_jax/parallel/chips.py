"""Memory, peak rates and links of accelerators, by their published figures.

TPUs: "How to Scale Your Model" (Austin et al. 2025, chapter 2, https://jax-ml.github.io/scaling-book/tpus) and
https://cloud.google.com/tpu/docs/v5e, v5p, v6e, v4. GPUs: NVIDIA's data sheets of each product; peaks are those without
sparsity.
"""

from dataclasses import dataclass
from typing import Any

GIB = 2.0**30


@dataclass(frozen=True)
class Chip:
    """One accelerator; rates are per second."""

    kinds: tuple[str, ...]
    """Its names in JAX, `jax.Device.device_kind`."""
    memory: float
    """Bytes."""
    flops: float
    """Peak of matrix products in bfloat16, or float16 on a chip without bfloat16."""
    float32_flops: float
    """Peak of those of float32 arrays as JAX multiplies them: in bfloat16 on TPUs, in TF32 from Ampere on."""
    memory_bandwidth: float
    """Bytes."""
    link_bandwidth: float
    """Bytes sent to a neighbour over one link, in one direction; of a GPU, to all others together."""
    links: int = 1
    """Links that a ring along one axis uses at once: both directions on a TPU."""
    together: int = 8
    """Chips that these links connect; the network beyond is not known here."""

    @property
    def name(self) -> str:
        """Its first name in JAX."""
        return self.kinds[0]

    @property
    def is_tpu(self) -> bool:
        """Whether its compiler runs on a machine without one."""
        return self.name.startswith("TPU")

    def peak(self, dtype: str) -> float:
        """Peak of matrix products of arrays of this type, in operations per second."""
        return self.float32_flops if dtype == "float32" else self.flops


_TPU: dict[str, Any] = {"links": 2, "together": 2**16}

CHIPS = {
    "v4": Chip(("TPU v4",), 32 * GIB, 275e12, 275e12, 1.2e12, 45e9, **_TPU),
    "v5e": Chip(("TPU v5 lite", "TPU v5e"), 16 * GIB, 197e12, 197e12, 0.81e12, 45e9, **_TPU),
    "v5p": Chip(("TPU v5", "TPU v5p"), 95 * GIB, 459e12, 459e12, 2.8e12, 90e9, **_TPU),
    "v6e": Chip(("TPU v6 lite", "TPU v6e"), 32 * GIB, 918e12, 918e12, 1.6e12, 90e9, **_TPU),
    "t4": Chip(("Tesla T4",), 16e9, 65e12, 8.1e12, 0.32e12, 16e9),
    "a100": Chip(("NVIDIA A100-SXM4-80GB",), 80e9, 312e12, 156e12, 2.0e12, 300e9),
    "a100-40gb": Chip(("NVIDIA A100-SXM4-40GB",), 40e9, 312e12, 156e12, 1.555e12, 300e9),
    "l4": Chip(("NVIDIA L4",), 24e9, 121e12, 60e12, 0.3e12, 32e9),
    "h100": Chip(("NVIDIA H100 80GB HBM3",), 80e9, 989e12, 494e12, 3.35e12, 450e9),
    "h200": Chip(("NVIDIA H200",), 141e9, 989e12, 494e12, 4.8e12, 450e9),
    "b200": Chip(("NVIDIA B200",), 180e9, 2250e12, 1100e12, 8.0e12, 900e9),
}
"""Chips by their name in a topology, such as `v5e` in `v5e:4x4`."""


def chip_of(device_kind: str) -> Chip | None:
    """The chip with this name in JAX; None if it is not in the table."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)
