"""What accelerators can do, by their published figures.

TPUs: "How to Scale Your Model" (Austin et al. 2025, chapter 2, https://jax-ml.github.io/scaling-book/tpus) and
https://cloud.google.com/tpu/docs/v5e, v5p, v6e, v4. GPUs: NVIDIA's data sheets of each product; peaks are those without
sparsity.
"""

from dataclasses import dataclass

GIB = 2.0**30


@dataclass(frozen=True)
class Chip:
    """One accelerator; rates are a second's."""

    kind: str
    """What JAX calls it, `jax.Device.device_kind`, or how that begins."""
    memory: float
    """Bytes."""
    flops: float
    """Peak of matrix products in bfloat16 (float16 where there is no bfloat16)."""
    memory_bandwidth: float
    """Bytes."""
    link_bandwidth: float
    """Bytes that go out to a neighbour on one link, in one direction; of a GPU, to all others together."""
    links: int = 2
    """Links that a ring uses at once: both directions on a TPU."""


CHIPS = {
    "v4": Chip("TPU v4", 32 * GIB, 275e12, 1.2e12, 45e9),
    "v5e": Chip("TPU v5 lite", 16 * GIB, 197e12, 0.81e12, 45e9),
    "v5p": Chip("TPU v5", 95 * GIB, 459e12, 2.8e12, 90e9),
    "v6e": Chip("TPU v6 lite", 32 * GIB, 918e12, 1.6e12, 90e9),
    "t4": Chip("Tesla T4", 16e9, 65e12, 0.32e12, 16e9, links=1),
    "a100": Chip("NVIDIA A100", 80e9, 312e12, 2.0e12, 300e9, links=1),
    "a100-40gb": Chip("NVIDIA A100-SXM4-40GB", 40e9, 312e12, 1.555e12, 300e9, links=1),
    "l4": Chip("NVIDIA L4", 24e9, 121e12, 0.3e12, 32e9, links=1),
    "h100": Chip("NVIDIA H100", 80e9, 989e12, 3.35e12, 450e9, links=1),
    "h200": Chip("NVIDIA H200", 141e9, 989e12, 4.8e12, 450e9, links=1),
    "b200": Chip("NVIDIA B200", 180e9, 2250e12, 8.0e12, 900e9, links=1),
}
"""By the name that a topology has it under, such as `v5e` of `v5e:4x4`."""


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so; None for one that is not in the table."""
    fits = [chip for chip in CHIPS.values() if device_kind.startswith(chip.kind)]
    return max(fits, key=lambda chip: len(chip.kind), default=None)
