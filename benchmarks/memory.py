"""Memory of a training step of the paper's models at 32,768 target tokens, as XLA plans it: nothing is run.

    JAX_PLATFORMS=cpu python benchmarks/memory.py

State, gradients and activations of one device; a plan for the CPU, from which those for a GPU or a TPU differ somewhat.
"""

import jax
import jax.numpy as jnp

from transformer_jax import EncoderDecoderConfig, MeshConfig, OptimizerConfig, Translation, base, big
from transformer_jax.nn.parameters import parameter_axes
from transformer_jax.parallel.mesh import make_mesh
from transformer_jax.training.optimizer import make_optimizer, make_schedule
from transformer_jax.training.step import abstract_model, fresh_state, make_step

ROWS, LENGTH = 1024, 32


def gibibytes(model: EncoderDecoderConfig, accumulate: int) -> float:
    """Of the compiled step."""
    config = OptimizerConfig()
    schedule = make_schedule(config, model.d_model, 100_000)
    optimizer = make_optimizer(config, parameter_axes(abstract_model(model)), schedule)
    task = Translation()
    state = jax.eval_shape(lambda: fresh_state(model, optimizer, 0))
    key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
    batch = {
        name: jax.ShapeDtypeStruct((ROWS, LENGTH)[: len(array.shape)], jnp.int32)
        for name, array in task.abstract_batch(ROWS, LENGTH).items()
    }
    with jax.set_mesh(make_mesh(MeshConfig(data=1))):
        compiled = make_step(task, optimizer, schedule, accumulate).lower(state, batch, key).compile()
    plan = compiled.memory_analysis()
    return (plan.temp_size_in_bytes + plan.argument_size_in_bytes) / 2**30


def main() -> None:
    sizes = {"vocab_size": 37_000, "source_vocab_size": 37_000, "dtype": "bfloat16"}
    for name, preset in (("base", base), ("big", big)):
        for remat in (False, True):
            for accumulate in (1, 4, 8):
                memory = gibibytes(preset(**sizes, remat=remat), accumulate)
                print(f"{name}  remat {remat!s:<5}  accumulate {accumulate}  {memory:5.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
