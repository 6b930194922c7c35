"""`python -m transformer_jax` is the command `transformer-jax`."""

import sys

from transformer_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
