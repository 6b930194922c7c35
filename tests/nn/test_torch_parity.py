"""The same weights give the same outputs and gradients as PyTorch's Transformer layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer_jax.nn.config import LayerConfig
from transformer_jax.nn.mask import AttentionMask
from transformer_jax.nn.parameters import named_parameters, replace_parameters
from transformer_jax.nn.stack import Stack

torch = pytest.importorskip("torch", reason="PyTorch, the implementation to compare with, is not installed")

D_MODEL, HEADS, D_FF, LAYERS = 16, 4, 32, 3
LENGTHS, MEMORY_LENGTHS, SIZE, MEMORY_SIZE = [5, 7, 2], [6, 3, 4], 7, 6
TOLERANCE = 1e-5

FORMS = pytest.mark.parametrize(
    ("norm_placement", "final_norm", "activation", "epsilon"),
    # The large epsilon shows where it is added.
    [
        ("post", False, "relu", 0.1),
        ("post", True, "relu", 1e-5),
        ("pre", False, "gelu", 1e-5),
        ("pre", True, "relu", 1e-6),
    ],
)


def our_stack(norm_placement, final_norm, activation, epsilon, *, cross_attention):
    config = LayerConfig(
        num_layers=LAYERS,
        final_norm=final_norm,
        d_model=D_MODEL,
        num_heads=HEADS,
        d_ff=D_FF,
        dropout=0.0,
        activation=activation,
        norm_placement=norm_placement,
        norm_epsilon=epsilon,
        attention_bias=True,
    )
    stack = Stack(config, cross_attention=cross_attention, rngs=nnx.Rngs(0))
    keys = jax.random.split(jax.random.key(1), len(named_parameters(stack)))
    noisy = {
        # Biases and norms start at 0 and 1, where a mistake in them would not show.
        name: value + 0.3 * jax.random.normal(key, value.shape)
        for key, (name, value) in zip(keys, named_parameters(stack).items(), strict=True)
    }
    return replace_parameters(stack, noisy)


def torch_stack(norm_placement, final_norm, activation, epsilon, *, cross_attention):
    kind = "Decoder" if cross_attention else "Encoder"
    layer = getattr(torch.nn, f"Transformer{kind}Layer")(
        D_MODEL, HEADS, D_FF, 0.0, activation, epsilon, batch_first=True, norm_first=norm_placement == "pre"
    )
    norm = torch.nn.LayerNorm(D_MODEL, epsilon) if final_norm else None
    options = {} if cross_attention else {"enable_nested_tensor": False}
    return getattr(torch.nn, f"Transformer{kind}")(layer, LAYERS, norm, **options).train()


def torch_names(cross_attention):
    """Our name of each of a layer's parameters, PyTorch's, and the rows of a packed projection that it fills."""
    attentions = {"self_attention": "self_attn"} | ({"cross_attention": "multihead_attn"} if cross_attention else {})
    for ours, theirs in attentions.items():
        for i, part in enumerate(("query", "key", "value")):
            rows = slice(i * D_MODEL, (i + 1) * D_MODEL)
            yield f"{ours}/{part}/kernel", f"{theirs}.in_proj_weight", rows
            yield f"{ours}/{part}/bias", f"{theirs}.in_proj_bias", rows
        yield f"{ours}/output/kernel", f"{theirs}.out_proj.weight", slice(None)
        yield f"{ours}/output/bias", f"{theirs}.out_proj.bias", slice(None)
    for ours, theirs in (("input", "linear1"), ("output", "linear2")):
        yield f"feed_forward/{ours}/kernel", f"{theirs}.weight", slice(None)
        yield f"feed_forward/{ours}/bias", f"{theirs}.bias", slice(None)
    norms = ["self_attention_norm", *(["cross_attention_norm"] if cross_attention else []), "feed_forward_norm"]
    for i, ours in enumerate(norms, 1):
        yield f"{ours}/scale", f"norm{i}.weight", slice(None)
        yield f"{ours}/bias", f"norm{i}.bias", slice(None)


def as_torch(name, value):
    """One of our parameters in PyTorch's layout: a kernel is [outputs, inputs], a bias is flat."""
    value = np.asarray(value)
    if not name.endswith("kernel"):
        return value.reshape(-1)
    inputs = 2 if name.endswith("attention/output/kernel") else 1
    return value.reshape(int(np.prod(value.shape[:inputs])), -1).T


def every_parameter(ours, theirs, cross_attention):
    """Pairs of (name, our array in PyTorch's layout, a view into theirs), over all layers and the final norm."""
    for name, value in ours.items():
        if name.startswith("final_norm"):
            yield name, np.asarray(value), theirs["norm." + ("weight" if name.endswith("scale") else "bias")]
    for layer in range(LAYERS):
        for name, their_name, rows in torch_names(cross_attention):
            yield name, as_torch(name, ours[f"layers/{name}"][layer]), theirs[f"layers.{layer}.{their_name}"][rows]


def padding(lengths, size):
    return torch.arange(size)[None] >= torch.tensor(lengths)[:, None]


def compare(ours, our_call, theirs, their_call, *, cross_attention, rng):
    """Outputs where there is no padding, and the gradients of a random projection of them."""
    weights = dict(theirs.named_parameters())
    with torch.no_grad():
        for _, value, place in every_parameter(named_parameters(ours), weights, cross_attention):
            place.copy_(torch.tensor(value))
    real = ~padding(LENGTHS, SIZE).numpy()[:, :, None]
    direction = rng.normal(size=(len(LENGTHS), SIZE, D_MODEL)).astype(np.float32) * real

    def objective(stack):
        y = our_call(stack)
        return jnp.sum(y * direction), y

    (_, y), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(ours)
    expected = their_call(theirs)
    (expected * torch.tensor(direction)).sum().backward()
    np.testing.assert_allclose(y * real, expected.detach().numpy() * real, rtol=TOLERANCE, atol=TOLERANCE)
    gradients = {name: parameter.grad for name, parameter in weights.items()}
    for name, value, other in every_parameter(named_parameters(gradient), gradients, cross_attention):
        if name.endswith("key/bias"):  # Softmax does not see it: its gradient is zero, but for rounding.
            np.testing.assert_allclose(np.stack([value, other.numpy()]), 0, atol=1e-4, err_msg=name)
            continue
        scale = max(np.abs(other.numpy()).max(), 1.0)
        np.testing.assert_allclose(value / scale, other.numpy() / scale, err_msg=name, rtol=TOLERANCE, atol=TOLERANCE)


@FORMS
def test_encoder_equals_torch(norm_placement, final_norm, activation, epsilon):
    form = (norm_placement, final_norm, activation, epsilon)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(LENGTHS), SIZE, D_MODEL)).astype(np.float32)
    mask = AttentionMask(key_lengths=jnp.asarray(LENGTHS))
    compare(
        our_stack(*form, cross_attention=False),
        lambda stack: stack(jnp.asarray(x), mask=mask)[0],
        torch_stack(*form, cross_attention=False),
        lambda stack: stack(torch.tensor(x), src_key_padding_mask=padding(LENGTHS, SIZE)),
        cross_attention=False,
        rng=rng,
    )


@FORMS
def test_decoder_equals_torch(norm_placement, final_norm, activation, epsilon):
    form = (norm_placement, final_norm, activation, epsilon)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(len(LENGTHS), SIZE, D_MODEL)).astype(np.float32)
    memory = rng.normal(size=(len(LENGTHS), MEMORY_SIZE, D_MODEL)).astype(np.float32)
    memory_mask = AttentionMask(key_lengths=jnp.asarray(MEMORY_LENGTHS))
    causal = torch.nn.Transformer.generate_square_subsequent_mask(SIZE)
    compare(
        our_stack(*form, cross_attention=True),
        lambda stack: stack(
            jnp.asarray(x), jnp.asarray(memory), mask=AttentionMask(causal=True), memory_mask=memory_mask
        )[0],
        torch_stack(*form, cross_attention=True),
        lambda stack: stack(
            torch.tensor(x),
            torch.tensor(memory),
            tgt_mask=causal,
            memory_key_padding_mask=padding(MEMORY_LENGTHS, MEMORY_SIZE),
        ),
        cross_attention=True,
        rng=rng,
    )
