"""Fused attention: kernels that never hold the `[query, key]` weights, and when each can be used.

splash  Pallas, for TPUs; on a CPU it is interpreted, slowly, for tests
cudnn   FlashAttention of cuDNN, for NVIDIA's Hopper, Blackwell and later; elsewhere the plain formula is no slower
xla     the plain formula
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from transformer_jax.nn.mask import AttentionMask
from transformer_jax.nn.sharded_attention import Keys, Queries

log = logging.getLogger("transformer_jax")

AUTO, PLAIN = "auto", "xla"
FUSED_FROM = {"splash": 512, "cudnn": 256}
"""Keys from which a fused kernel is chosen; weights of fewer are small, and one large product is quick. cuDNN's was
quicker from 64 keys on, but is tested with 256."""
BLOCK = 128
"""Splash attention works on blocks of a multiple of this many queries and keys."""
LARGEST_BLOCK = 512


def choose_kernel(
    wanted: str, query: Queries, key: Keys, mask: AttentionMask, *, soft_cap: float = 0.0, obstacle: str = ""
) -> str:
    """The kernel for attention of these shapes: `wanted`, or with `auto` the one that suits the device and the length.

    The plain formula takes the place of one that cannot be used; an `obstacle` is a reason that no fused one can. The
    choice goes to the log.
    """
    device = _device_kind()
    kernel = suited_kernel(device) if wanted == AUTO else wanted
    reason = ""
    if kernel != PLAIN:
        reason = obstacle or FUSED[kernel][0](query, key, mask, soft_cap)
        if not reason and wanted == AUTO and key.shape[1] < FUSED_FROM[kernel]:
            reason = f"fewer than {FUSED_FROM[kernel]} keys"
    chosen = PLAIN if reason else kernel
    level = logging.DEBUG if kernel == PLAIN else logging.INFO
    _say(level, f"attention of {query.shape[1]} queries to {key.shape[1]} keys on {device}: {chosen}", reason)
    return chosen


def fused_attention(
    kernel: str, query: Queries, key: Keys, value: Keys, mask: AttentionMask, *, soft_cap: float = 0.0
) -> Queries:
    """Attention by a fused kernel that `choose_kernel` has chosen, on one device."""
    return FUSED[kernel][1](query, key, value, mask, soft_cap)


def _why_not_splash(query: Queries, key: Keys, mask: AttentionMask, soft_cap: float) -> str:
    if mask.query_positions is not None or mask.key_positions is not None:
        return "positions that are not 0, 1, 2, ..."
    if query.shape[1] % BLOCK or key.shape[1] % BLOCK:
        return f"lengths that are no multiples of {BLOCK}"
    return ""


def _splash(query: Queries, key: Keys, value: Keys, mask: AttentionMask, soft_cap: float) -> Queries:
    """https://docs.jax.dev/en/latest/_autosummary/jax.experimental.pallas.ops.tpu.html, "splash_attention"."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    size = (query.shape[1], key.shape[1])
    seen: Any = masks.FullMask(size)
    if mask.causal:
        seen = masks.CausalMask(size)
    if mask.window is not None:
        left, right = mask.window
        seen = masks.LocalMask(size, (left, 0 if mask.causal else right), offset=0)
    q, k = (next(block for block in (LARGEST_BLOCK, 256, BLOCK) if length % block == 0) for length in size)
    blocks = splash.BlockSizes(
        block_q=q, block_kv=k, block_q_dkv=q, block_kv_dkv=k, block_kv_dkv_compute=k, block_q_dq=q, block_kv_dq=k
    )
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([seen] * query.shape[2]),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=soft_cap or None,
        interpret=_device_kind() == "cpu",
    )
    query = query * query.shape[-1] ** -0.5
    segments = _segments(mask, query.shape[0], *size)
    by_head = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    out: Any = jax.vmap(kernel)(*by_head, *(() if segments is None else (splash.SegmentIds(*segments),)))
    out = jnp.swapaxes(out, 1, 2).astype(value.dtype)
    if mask.key_lengths is not None:  # where nothing is seen, the kernel's gradient would be wrong
        out = jnp.where(mask.key_lengths[:, None, None, None] > 0, out, jnp.zeros_like(out))
    return out


def _segments(mask: AttentionMask, batch: int, queries: int, keys: int) -> tuple[Array, Array] | None:
    """Numbers of segments `[batch, query]` and `[batch, key]`, which hide padding as well; None: there is one."""
    if mask.key_lengths is None and mask.query_segments is None:
        return None
    query, key = jnp.zeros((batch, queries), jnp.int32), jnp.zeros((batch, keys), jnp.int32)
    if mask.query_segments is not None and mask.key_segments is not None:
        query, key = mask.query_segments, mask.key_segments
    if mask.key_lengths is not None:
        key = jnp.where(jnp.arange(keys, dtype=jnp.int32)[None] < mask.key_lengths[:, None], key, -1)
    return query, key


def _why_not_cudnn(query: Queries, key: Keys, mask: AttentionMask, soft_cap: float) -> str:
    if not mask.is_structural and (query.shape[1] != key.shape[1] or key.shape[1] % 2):
        return "segments or positions, and not as many queries as keys or an odd number"
    if mask.window is not None and not mask.causal:
        return "a window to both sides"
    if soft_cap:
        return "a soft cap"
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"{query.dtype}, not bfloat16"
    if query.shape[3] % 8 or query.shape[3] > 256:
        return f"heads of {query.shape[3]}, not a multiple of 8 up to 256"
    return ""


def _cudnn(query: Queries, key: Keys, value: Keys, mask: AttentionMask, soft_cap: float) -> Queries:
    """It takes causality, a window and lengths as they are, all else as an array `[batch, 1, query, key]`."""
    attend = functools.partial(jax.nn.dot_product_attention, query, key, value, implementation="cudnn")
    if not mask.is_structural:
        return attend(mask=mask.array(query.shape[1], key.shape[1]))
    window = None if mask.window is None else (mask.window[0], 0)
    return attend(is_causal=mask.causal, local_window_size=window, key_value_seq_lengths=mask.key_lengths)


FUSED: dict[str, tuple[Callable[[Array, Array, AttentionMask, float], str], Callable[..., Array]]] = {
    "splash": (_why_not_splash, _splash),
    "cudnn": (_why_not_cudnn, _cudnn),
}
"""Of every kernel: why it cannot do something ("": it can), and the kernel."""


def suited_kernel(device: str) -> str:
    """The kernel for a kind of device."""
    if device.startswith("TPU"):
        return "splash"
    capability = getattr(jax.devices()[0], "compute_capability", None) if device != "cpu" else None
    return "cudnn" if capability is not None and float(capability) >= 9.0 else PLAIN


def _device_kind() -> str:
    """What JAX calls the devices that this is compiled for, which need not be there."""
    mesh = jax.sharding.get_abstract_mesh()
    known = None if mesh.empty else mesh.abstract_device
    return jax.devices()[0].device_kind if known is None else known.device_kind


@functools.cache
def _say(level: int, choice: str, reason: str) -> None:
    """Once for each choice."""
    log.log(level, "%s%s", choice, f" ({reason})" if reason else "")
