"""Inputs: from the columns of a batch to the vectors and lengths that a stack takes.

A kind of input is a small dataclass, the field `model.input` of a model with an encoder; it makes the input's module.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple

import jax.numpy as jnp
from annotated_types import Ge, Gt, Le
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from transformer_jax.nn.config import LayerConfig
from transformer_jax.nn.embedding import Embedding
from transformer_jax.nn.feed_forward import ACTIVATIONS
from transformer_jax.nn.linear import Linear, dropout
from transformer_jax.nn.log_mel import Features
from transformer_jax.nn.named import choose
from transformer_jax.nn.positions import PositionIds, PositionParameters, Sizes, Vectors
from transformer_jax.parallel.axes import constrain

Tokens = Int[Array, "batch length"]
Lengths = Int[Array, " batch"]
Pixels = UInt8[Array, "batch height width channels"] | Float[Array, "batch height width channels"]
"""Values from 0 to 255, or floats that are normalised already."""


class Read(NamedTuple):
    """The output of an input."""

    vectors: Vectors
    lengths: Lengths | None = None
    """Vectors of each row that are no padding; None: all."""
    positions: PositionIds | None = None
    """Where the vectors stand; None: at 0, 1, 2, ..."""


@dataclass(frozen=True)
class Input:
    """A kind of input."""

    kinds: ClassVar[Mapping[str, type["Input"]]]
    """The kinds by name, as the command line has them."""

    @property
    def first(self) -> int:
        """Vectors in front of those of the tokens or patches themselves, which a mean leaves out."""
        return 0

    def make(self, layers: LayerConfig, sizes: Sizes, *, norm: bool, token_types: int, rngs: nnx.Rngs) -> Any:
        """The module in front of a stack with these layers, whose embeddings have these sizes."""
        raise NotImplementedError


@dataclass(frozen=True)
class TokenIds(Input):
    """Tokens of text, which the model's embedding turns into vectors."""

    def make(self, layers: LayerConfig, sizes: Sizes, *, norm: bool, token_types: int, rngs: nnx.Rngs) -> "TokenInput":
        for kind in (layers.positions, layers.local_positions):
            if kind is not None and kind.of_patches:
                raise ValueError(f"model.positions {kind} are of patches, and tokens are in no grid")
        return TokenInput(layers, sizes, norm=norm, token_types=token_types, rngs=rngs)


@dataclass(frozen=True)
class Patches(Input):
    """Squares of pictures (Dosovitskiy et al. 2021, "ViT"), each mapped to a vector."""

    size: Annotated[int, Ge(1), Le(1024)] = 16
    """Pixels of a patch along each side."""
    image_size: Annotated[int, Ge(0), Le(2**14)] = 0
    """Pixels along each side of the pictures for which a learned table of positions is made; those of pictures of
    another size are interpolated. 0: filled in by the task."""
    channels: Annotated[int, Ge(0), Le(16)] = 0
    """3 for colours, 1 for grey; 0: filled in by the task."""
    class_token: bool = True
    """A learned vector in front of the patches, which stands for the picture."""
    distillation_token: bool = False
    """Another behind that, from which a teacher's labels are predicted (Touvron et al. 2021, "DeiT")."""
    registers: Annotated[int, Ge(0), Le(1024)] = 0
    """Learned vectors without positions between those and the patches (Darcet et al. 2024)."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from values between 0 and 1; one number for all channels, or one for each."""
    std: tuple[Annotated[float, Gt(0)], ...] = (0.5,)
    """What the difference is divided by."""

    @property
    def first(self) -> int:
        return self.placed + self.registers

    @property
    def placed(self) -> int:
        """Those of the vectors in front that have positions."""
        return int(self.class_token) + int(self.distillation_token)

    def check(self) -> None:
        """Raises ValueError for fields that contradict each other."""
        if not self.image_size or not self.channels or self.image_size % self.size:
            raise ValueError(
                f"model.input needs channels and an image_size that its size {self.size} divides, "
                f"not {self.channels} and {self.image_size}; image tasks fill in what is 0"
            )
        if {len(self.mean), len(self.std)} - {1, self.channels}:
            raise ValueError(f"model.input.mean and std have 1 or {self.channels} numbers, not {self.mean}, {self.std}")

    def make(self, layers: LayerConfig, sizes: Sizes, *, norm: bool, token_types: int, rngs: nnx.Rngs) -> "PatchInput":
        if token_types or sizes.d_model != layers.d_model:
            raise ValueError("patches have no model.token_types and no model.embedding_size")
        local = layers.local_positions
        if local is not None and local.of_patches != layers.positions.of_patches:
            # Both kinds read the same numbers, which say where a patch is.
            raise ValueError(
                f"model.positions {layers.positions} and model.local_positions {local} are both in two dimensions, "
                "or none of them is"
            )
        return PatchInput(layers, self, norm=norm, rngs=rngs)


@dataclass(frozen=True)
class Frames(Input):
    """Frames of sound, such as log-mel features, through convolutions along time; by default as in Whisper.

    `kernel=5, strides=(2, 2), activation="glu", channels=1024, scale=True` is fairseq's speech-to-text (Wang et al.
    2020), `kernel=1, strides=(1,), activation="none", class_token=True` the Keyword Transformer (Berg et al. 2021).
    """

    num_mels: Annotated[int, Ge(0), Le(2**14)] = 0
    """Numbers of a frame; 0: filled in by the task."""
    kernel: Annotated[int, Ge(1), Le(1024)] = 3
    """Frames that a convolution sees. Where it is the stride as well they are patches in time, the last one padded;
    otherwise it is odd, and frames in the middle of what is seen are `stride` from each other."""
    strides: tuple[Annotated[int, Ge(1), Le(1024)], ...] = (1, 2)
    """One for each convolution."""
    activation: str = "gelu"
    """Behind each convolution: relu, gelu, gelu_tanh, silu, glu (half of its channels gate the other half) or none."""
    channels: Annotated[int, Ge(2)] | None = None
    """Channels of the convolutions but the last, of which glu leaves a half; None: such that d_model are left."""
    class_token: bool = False
    """A learned vector in front, which stands for the recording."""
    scale: bool = False
    """Vectors are multiplied by the square root of their width, before positions are added."""

    @property
    def first(self) -> int:
        return int(self.class_token)

    def left(self, frames: Any) -> Any:
        """How many vectors become of so many frames, a number or an array, the class token not counted."""
        for stride in self.strides:
            frames = -(-frames // stride)
        return frames

    def check(self) -> None:
        if not self.num_mels or not self.strides:
            raise ValueError(f"model.input needs num_mels and strides, not {self.num_mels} and {self.strides}")
        if self.kernel % 2 == 0 and set(self.strides) != {self.kernel}:
            raise ValueError(f"model.input.kernel is odd, or each of the strides {self.strides}, not {self.kernel}")
        choose("model.input.activation", self.activation, FRAME_ACTIVATIONS)

    def make(self, layers: LayerConfig, sizes: Sizes, *, norm: bool, token_types: int, rngs: nnx.Rngs) -> "FrameInput":
        if token_types or sizes.d_model != layers.d_model or layers.positions.of_patches:
            raise ValueError("frames have no model.token_types, no model.embedding_size and no positions in a grid")
        return FrameInput(layers, self, norm=norm, rngs=rngs)


FRAME_ACTIVATIONS: dict[str, Any] = {**ACTIVATIONS, "glu": nnx.glu, "none": lambda x: x}
Input.kinds = {"tokens": TokenIds, "patches": Patches, "frames": Frames}


class TokenInput(nnx.Module):
    """The sum of token embeddings, positions and token types; then, each where it is wanted, a norm, dropout, a map.

    The embedding is an argument of the call, because others (the output, another stack) share it. The linear map to
    the model's width follows where embeddings are narrower (Lan et al. 2020, "ALBERT", section 3.1).
    """

    def __init__(self, config: LayerConfig, sizes: Sizes, *, norm: bool = False, token_types: int = 0, rngs: nnx.Rngs):
        width = sizes.d_model
        self.kind = config.positions
        self.positions = PositionParameters.of(self.kind.input_parameters(sizes, config.init, rngs))
        kinds = config.init.table(rngs.params(), (token_types, width), "token_types", width) if token_types else None
        self.token_types = None if kinds is None else nnx.Param(kinds, axes=("token_types", "embed"))
        self.norm = config.make_norm(width) if norm else None
        shape = ((width,), (config.d_model,), ("mlp", "embed"))
        linear = partial(Linear, *shape, dtype=config.dtype, draw=config.init.kernel, rngs=rngs)
        self.projection = None if width == config.d_model else linear()
        self.dropout = config.dropout

    def __call__(
        self,
        tokens: Tokens,
        embedding: Embedding,
        *,
        lengths: Lengths | None = None,
        positions: PositionIds | None = None,
        token_types: Tokens | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Read:
        """Vectors of tokens, with the lengths of their rows and the positions that are given.

        `positions` default to 0, 1, 2, ..., `token_types` to 0; `key` turns dropout on.
        """
        x = embedding(tokens)
        ids = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] if positions is None else positions
        x = self.kind.add(x, ids, PositionParameters.arrays(self.positions))
        if self.token_types is not None:
            kinds = jnp.zeros_like(tokens) if token_types is None else token_types
            table = constrain(self.token_types[...], ("token_types", "replicated"))
            x = x + jnp.take(table, kinds, axis=0, mode="clip").astype(x.dtype)
        x = x if self.norm is None else self.norm(x)
        x = dropout(constrain(x, ("batch", "length", "embed")), self.dropout, key)
        return Read(x if self.projection is None else self.projection(x), lengths, positions)


class PatchInput(nnx.Module):
    """Patches through a linear map, a class token and registers in front, positions; then, where wanted, a norm.

    The map is a convolution whose stride is the size of its window.
    """

    def __init__(self, config: LayerConfig, patches: Patches, *, norm: bool = False, rngs: nnx.Rngs):
        patches.check()
        width, side = config.d_model, patches.image_size // patches.size

        def learned(count: int) -> nnx.Param | None:
            table = config.init.table(rngs.params(), (count, width), "tokens", width)
            return nnx.Param(table, axes=("replicated", "embed")) if count else None

        shape = ((patches.size, patches.size, patches.channels), (width,), ("replicated",) * 3 + ("embed",))
        self.projection = Linear(*shape, dtype=config.dtype, draw=config.init.kernel, rngs=rngs)
        self.class_token, self.registers = learned(int(patches.class_token)), learned(patches.registers)
        self.distillation_token = learned(int(patches.distillation_token))
        self.patches, self.kind, self.trained = patches, config.positions, (side, side)
        sizes = replace(config.sizes(), max_length=patches.placed + side**2)
        self.positions = PositionParameters.of(self.kind.input_parameters(sizes, config.init, rngs))
        self.norm = config.make_norm(width) if norm else None
        self.dropout = config.dropout

    def __call__(self, pixels: Pixels, embedding: Any = None, *, key: PRNGKeyArray | None = None) -> Read:
        """Vectors of the class token, the registers and the patches, row by row; `embedding` is not read.

        `key` turns dropout on. Raises ValueError for pictures that are no whole patches.
        """
        size, (batch, height, width, channels) = self.patches.size, pixels.shape
        if height % size or width % size or channels != self.patches.channels:
            expected = f"multiples of {size}, and {self.patches.channels} channels"
            raise ValueError(f"pictures are [batch, height, width, channels] with {expected}, not {pixels.shape}")
        grid, first = (height // size, width // size), self.patches.placed
        x = self.normalised(pixels).reshape(batch, grid[0], size, grid[1], size, channels)
        x = self.projection(jnp.moveaxis(x, 3, 2).reshape(batch, -1, size, size, channels))

        def repeated(tokens: nnx.Param | None) -> list[Array]:
            return [] if tokens is None else [jnp.broadcast_to(tokens[...].astype(x.dtype), (batch, *tokens.shape))]

        x = jnp.concatenate([*repeated(self.class_token), *repeated(self.distillation_token), x], axis=1)
        table = self.kind.resized(PositionParameters.arrays(self.positions), self.trained, grid, first)
        x = self.kind.add(x, self.kind.grid(*grid, first), table)
        x = jnp.concatenate([x[:, :first], *repeated(self.registers), x[:, first:]], axis=1)
        x = x if self.norm is None else self.norm(x)
        x = dropout(constrain(x, ("batch", "length", "embed")), self.dropout, key)
        return Read(x, None, self.kind.grid(*grid, self.patches.first))

    def normalised(self, pixels: Pixels) -> Float[Array, "batch height width channels"]:
        """Values from 0 to 255 as a model reads them; floats as they are."""
        if jnp.issubdtype(pixels.dtype, jnp.floating):
            return pixels
        mean, std = (jnp.asarray(of).reshape(1, 1, 1, -1) for of in (self.patches.mean, self.patches.std))
        return (pixels.astype(jnp.float32) / 255 - mean) / std


class FrameInput(nnx.Module):
    """Frames through convolutions along time, a class token in front, positions; then, where wanted, a norm.

    What a convolution would see of the padding is zero, as in front of the first frame and behind the last one, so that
    a recording alone and beside a longer one gives the same vectors.
    """

    def __init__(self, config: LayerConfig, frames: Frames, *, norm: bool = False, rngs: nnx.Rngs):
        frames.check()
        width, last, inputs = config.d_model, len(frames.strides) - 1, frames.num_mels
        factor = 2 if frames.activation == "glu" else 1
        for number in range(last + 1):
            outputs = (frames.channels if number < last else None) or factor * width
            shape = ((frames.kernel, inputs), (outputs,), ("replicated", "replicated", "embed"))
            linear = Linear(*shape, dtype=config.dtype, draw=config.init.kernel, rngs=rngs)
            setattr(self, f"convolution_{number}", linear)
            inputs = outputs // factor
        token = config.init.table(rngs.params(), (1, width), "tokens", width)
        self.class_token = nnx.Param(token, axes=("replicated", "embed")) if frames.class_token else None
        self.frames, self.kind, self.width = frames, config.positions, width
        self.positions = PositionParameters.of(self.kind.input_parameters(config.sizes(), config.init, rngs))
        self.norm = config.make_norm(width) if norm else None
        self.dropout = config.dropout

    def __call__(
        self,
        features: Features,
        embedding: Any = None,
        *,
        lengths: Lengths | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Read:
        """Vectors of the class token and of what the convolutions leave of the frames, and how many are no padding.

        `lengths` are in frames, by default all; `key` turns dropout on; `embedding` is not read.
        """
        if features.shape[2] != self.frames.num_mels:
            raise ValueError(f"frames are [batch, frames, {self.frames.num_mels}], not {features.shape}")
        x = features
        for number, stride in enumerate(self.frames.strides):
            if lengths is not None:
                x = jnp.where((jnp.arange(x.shape[1])[None] < lengths[:, None])[:, :, None], x, 0)
                lengths = -(-lengths // stride)
            x = FRAME_ACTIVATIONS[self.frames.activation](self._convolved(number, x, stride))
        x = x * self.width**0.5 if self.frames.scale else x
        if self.class_token is not None:
            token = jnp.broadcast_to(self.class_token[...].astype(x.dtype)[None], (x.shape[0], 1, self.width))
            x = jnp.concatenate([token, x], axis=1)
            lengths = None if lengths is None else lengths + 1
        ids = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
        x = self.kind.add(x, ids, PositionParameters.arrays(self.positions))
        x = x if self.norm is None else self.norm(x)
        return Read(dropout(constrain(x, ("batch", "length", "embed")), self.dropout, key), lengths)

    def _convolved(self, number: int, x: Features, stride: int) -> Vectors:
        """The outputs of one convolution: one product, of all that its window sees, for each of its places."""
        kernel, count = self.frames.kernel, -(-x.shape[1] // stride)
        front = 0 if kernel == stride else kernel // 2
        x = jnp.pad(x, ((0, 0), (front, count * stride + kernel - x.shape[1]), (0, 0)))
        seen = [x[:, i : i + count * stride : stride] for i in range(kernel)]
        return getattr(self, f"convolution_{number}")(jnp.stack(seen, axis=2))
