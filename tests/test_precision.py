"""The scoped 64-bit switch."""

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
