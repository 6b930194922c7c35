"""The Transformer of "Attention Is All You Need" as a JAX/Flax research codebase.

    import transformer_jax
    translator = transformer_jax.load("runs/quickstart")
    translator.translate(["jeudi 5 mars 2026"])

What an experiment file needs is imported from here; modules live in `transformer_jax.nn` and `transformer_jax.models`.
The names are listed in `__init__.pyi`, and each is imported where it is first used: `import transformer_jax` is quick.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
