"""The scoped 64-bit switch."""

import subprocess
import sys

import jax
import jax.numpy as jnp

from mlff.precision import double_precision


@double_precision
def ones():
    """Docstring kept."""
    return jnp.ones(2)


def test_double_inside_single_outside():
    with jax.enable_x64(False):
        assert ones().dtype == jnp.float64
        assert jnp.ones(2).dtype == jnp.float32
        assert not jax.config.jax_enable_x64
    assert ones.__doc__ == "Docstring kept."


def test_a_forked_child_is_told_to_be_spawned(tmp_path):
    """JAX would wait for ever for threads that a fork does not bring along."""
    script = (
        "import os, numpy as np, jax.numpy as jnp\n"
        "from mlff.precision import double_precision\n"
        "ones = double_precision(lambda: jnp.ones(2))\n"
        "child = os.fork()\n"  # before anything is computed: its own process
        "if child == 0:\n    ones()\n    os._exit(0)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
        "ones()\n"
        "if os.fork() == 0:\n"
        "    try:\n        ones()\n    except RuntimeError as error:\n        print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    first, second = done.stdout.splitlines()
    assert first == "0"
    assert "forked from one that had computed" in second
    assert "get_context('spawn')" in second
