"""Weak scaling of GPT-2 small on TPU v5e as its compiler lays it out: nothing is run, and no TPU is needed.

    python benchmarks/scaling.py [--picture docs/scaling.png]       (needs the extra tpu; some minutes)

Eight rows of 1,024 tokens for every chip, on 1 to 256 chips, under data parallelism, fully sharded, and with layers
divided between 4 chips. What each device sends in a step, and what that and the matrix products take at least.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from transformer_jax.analysis.plan import make_plan, topology
from transformer_jax.parallel.chips import CHIPS
from transformer_jax.parallel.mesh import MeshConfig
from transformer_jax.runs.experiment_file import load_experiment_file

CHIP = CHIPS["v5e"]
SHAPES = {1: "2x2", 4: "2x2", 16: "4x4", 64: "8x8", 256: "16x16"}
ROWS = 8
MESHES = {
    "data": lambda chips: MeshConfig(data=chips),
    "fsdp": lambda chips: MeshConfig(data=1, fsdp=chips),
    "tensor 4 x data": lambda chips: MeshConfig(data=chips // 4, tensor=4) if chips >= 4 else None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", help="where to draw the times")
    options = parser.parse_args()
    experiment = load_experiment_file(Path(__file__).parents[1] / "experiments/gpt/gpt2_124m.py")
    experiment = replace(experiment, train=replace(experiment.train, accumulate=1))
    rows = []
    print("| mesh | chips | sent by a device, MiB | messages, ms | products, ms | memory of a device, GiB |")
    print("|---|---|---|---|---|---|")
    for name, mesh in MESHES.items():
        for chips, shape in SHAPES.items():
            if mesh(chips) is None:
                continue
            devices, _ = topology(f"v5e:{shape}")
            data = replace(experiment.data, tokens_per_batch=ROWS * 1_024 * chips, batch_multiple=ROWS * chips)
            plan = make_plan(replace(experiment, data=data, mesh=mesh(chips)), devices[:chips])
            sent = sum(traffic.sent for traffic in plan.messages.values())
            messages = 1e3 * sent / (CHIP.links * CHIP.link_bandwidth)
            products = 1e3 * plan.flops / chips / CHIP.flops
            rows.append((name, chips, messages, products))
            print(
                f"| {name} | {chips} | {sent / 2**20:,.0f} | {messages:.1f} | {products:.1f} "
                f"| {plan.bytes / 2**30:.1f} |",
                flush=True,
            )
    if options.picture:
        draw(rows, options.picture)


def draw(rows: list[tuple[str, int, float, float]], path: str) -> None:
    """Times over chips, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in dict.fromkeys(name for name, *_ in rows):
        points = [(chips, messages) for one, chips, messages, _ in rows if one == name and messages]
        axes.plot(*zip(*points, strict=True), marker="o", label=f"messages, {name}")
    products = {chips: value for name, chips, _, value in rows if name == "data"}
    axes.plot(list(products), list(products.values()), "k--", label="matrix products at the peak")
    axes.set_xscale("log", base=4)
    axes.set_yscale("log")
    axes.set_xticks(list(products), [str(chips) for chips in products])
    axes.set_xlabel("chips (TPU v5e)")
    axes.set_ylabel("milliseconds a step, at least")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
