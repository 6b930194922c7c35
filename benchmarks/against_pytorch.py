r"""One training step of an encoder-decoder or a GPT-2, here and in PyTorch, side by side.

    python benchmarks/against_pytorch.py [--rows 64 --length 32 --width 128 --layers 4 --rounds 15]
    python benchmarks/against_pytorch.py --family gpt2 --rows 16 --length 1024 --width 768 --heads 12 --layers 12 \
        --feed-forward 3072 --vocabulary 50304 --dtype bfloat16 --compile

Both do the same work on as many parameters. The encoder-decoder: embeddings, post-norm stacks with causal and padding
masks, tied output, dropout at the paper's places (behind every sub-layer and the embeddings), label smoothing, backward
pass, Adam; in PyTorch `torch.nn.Transformer`. GPT-2, without dropout: there that of Hugging Face's transformers with
PyTorch's fused attention, which is causal alone; here rows are of packed documents, as in training, and of one each.
Vocabularies are multiples of 8, as they are padded here.

PyTorch runs eagerly, or with --compile its forward and backward pass by `torch.compile`, on as many threads as there
are cores; on a GPU where both find one. There both multiply float32 in TF32, or in bfloat16 with --dtype (PyTorch by
autocast), and PyTorch has its fused Adam. Rounds alternate, so that a busy machine slows both.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import torch

from transformer_jax import LanguageModelling, MeshConfig, OptimizerConfig, Translation, base, gpt2
from transformer_jax.nn.parameters import parameter_axes
from transformer_jax.parallel.mesh import make_mesh
from transformer_jax.training.optimizer import make_optimizer, make_schedule
from transformer_jax.training.step import abstract_model, init_state, make_step

DROPOUT, SMOOTHING = 0.1, 0.1


def ours(options: argparse.Namespace, source: np.ndarray, target: np.ndarray) -> Callable[[], float]:
    """A function that makes one step and waits for its loss."""
    sizes = {
        "d_model": options.width,
        "num_heads": options.heads,
        "d_ff": options.feed_forward,
        "num_layers": options.layers,
        "vocab_size": options.vocabulary,
        "dtype": options.dtype,
        "unroll": options.unroll,
    }
    if options.family == "gpt2":
        model = gpt2(**sizes, max_length=options.length, dropout=0.0, attention_dropout=0.0)
        task, shape = LanguageModelling(), (options.rows, options.length + 1)
        positions = np.broadcast_to(np.arange(options.length + 1, dtype=np.int32), shape)
        batch = {"tokens": target, "segments": np.ones(shape, np.int32), "positions": positions}
    else:
        model = base(**sizes, dropout=DROPOUT, source_vocab_size=options.vocabulary)
        task, lengths = Translation(label_smoothing=SMOOTHING), np.full(options.rows, options.length, np.int32)
        batch = {"source": source, "source_length": lengths, "target": target, "target_length": lengths}
    print(f"transformer_jax: {model.num_parameters():,} parameters")
    config = OptimizerConfig(learning_rate=1e-3, schedule="constant", warmup_steps=1)
    schedule = make_schedule(config, options.width, 1000)
    optimizer = make_optimizer(config, parameter_axes(abstract_model(model)), schedule)
    step = make_step(task, optimizer, schedule)
    mesh = make_mesh(MeshConfig(data=1))
    state = init_state(model, optimizer, 0, mesh)
    key = jax.random.key(0, impl=options.random_bits)
    batch = jax.device_put(batch)

    def run() -> float:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = step(state, batch, key)
        return float(metrics["loss"])

    return run


class Reference(torch.nn.Module):
    """`torch.nn.Transformer` with shared embeddings, sinusoids and a tied output, less what the paper has not."""

    def __init__(self, options: argparse.Namespace):
        super().__init__()
        width = options.width
        self.embedding = torch.nn.Embedding(options.vocabulary, width)
        torch.nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.transformer = torch.nn.Transformer(
            width, options.heads, options.layers, options.layers, options.feed_forward, DROPOUT, batch_first=True
        )
        # It has dropout of attention weights and between the maps of the feed-forward network as well, biases in
        # attention, and a norm behind each stack.
        self.transformer.encoder.norm = self.transformer.decoder.norm = None
        for module in self.transformer.modules():
            if isinstance(module, torch.nn.MultiheadAttention):
                module.dropout = 0.0
                module.in_proj_bias = module.out_proj.bias = None
            elif isinstance(module, torch.nn.TransformerEncoderLayer | torch.nn.TransformerDecoderLayer):
                module.dropout = torch.nn.Identity()
        self.dropout = torch.nn.Dropout(DROPOUT)
        angles = torch.arange(options.length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
        self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], -1).reshape(options.length, width))
        self.scale = width**0.5

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.embedding(tokens) * self.scale + self.positions[: tokens.shape[1]])

    def forward(self, source: torch.Tensor, target: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        causal = torch.nn.Transformer.generate_square_subsequent_mask(target.shape[1], device=target.device)
        y = self.transformer(
            self.embed(source),
            self.embed(target),
            tgt_mask=causal,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )
        return y @ self.embedding.weight.T


def gpt2_reference(options: argparse.Namespace) -> torch.nn.Module:
    """GPT-2 as transformers has it, from tokens to logits."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=options.vocabulary,
        n_positions=options.length,
        n_embd=options.width,
        n_layer=options.layers,
        n_head=options.heads,
        n_inner=options.feed_forward,
        attn_implementation="sdpa",
        use_cache=False,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2LMHeadModel(config)


def theirs(options: argparse.Namespace, source: np.ndarray, target: np.ndarray) -> Callable[[], float]:
    """The same in PyTorch."""
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as JAX has it
    is_gpt2 = options.family == "gpt2"
    model = (gpt2_reference(options) if is_gpt2 else Reference(options)).to(device).train()
    print(f"PyTorch: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-9, fused=device == "cuda")
    source_ids, target_ids = (torch.tensor(array, dtype=torch.int64, device=device) for array in (source, target))
    padding = torch.zeros(source_ids.shape, dtype=torch.bool, device=device)

    def loss_of_batch() -> torch.Tensor:
        if is_gpt2:
            logits = model(input_ids=target_ids[:, :-1]).logits
        else:
            logits = model(source_ids, target_ids, padding)[:, :-1]
        labels, smoothing = target_ids[:, 1:].reshape(-1), 0.0 if is_gpt2 else SMOOTHING
        flat = logits.reshape(-1, logits.shape[-1])
        return torch.nn.functional.cross_entropy(flat, labels, label_smoothing=smoothing)

    compute = torch.compile(loss_of_batch) if options.compile else loss_of_batch

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            loss = compute()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def at_least(least: int, text: str) -> int:
    """The number in an argument; ArgumentTypeError for a smaller one."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from {least} on")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value, least in (
        ("rows", 64, 1),
        ("length", 32, 2),
        ("width", 128, 1),
        ("heads", 4, 1),
        ("feed-forward", 512, 1),
        ("layers", 4, 1),
        ("vocabulary", 10_000, 8),
        ("rounds", 15, 1),
    ):
        parser.add_argument(f"--{name}", type=partial(at_least, least), metavar="N", default=value)
    parser.add_argument("--random-bits", default="rbg", choices=("rbg", "threefry2x32"))
    parser.add_argument("--family", default="encoder_decoder", choices=("encoder_decoder", "gpt2"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--unroll", action="store_true", help="every layer is compiled by itself, here")
    parser.add_argument("--compile", action="store_true", help="torch.compile, there")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (options.rows, options.length + (options.family == "gpt2"))  # whose last token is only predicted
    source, target = (rng.integers(4, options.vocabulary, shape).astype(np.int32) for _ in range(2))
    runs = {"transformer_jax": ours(options, source, target), "PyTorch": theirs(options, source, target)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():  # the first step compiles
        print(f"loss of the first step {run():.3f}", flush=True)
        run()
    for _ in range(options.rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    for name, times in seconds.items():
        median = statistics.median(times)
        speed = target[:, 1:].size / median
        print(f"{name:<16} median {median:.4f} s a step, best {min(times):.4f} s, {speed:,.0f} target tokens a second")
    ratios = sorted(b / a for a, b in zip(*seconds.values(), strict=True))
    print(f"PyTorch / transformer_jax, round by round: median {statistics.median(ratios):.2f}", end="")
    print(f", from {ratios[0]:.2f} to {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()
