"""Options for XLA: asked for where they are known, left out where not."""

import jax
import pytest

from mlff import compiling


@pytest.fixture(autouse=True)
def asked_anew():
    compiling.known_options.cache_clear()
    yield
    compiling.known_options.cache_clear()


def test_this_version_knows_them():
    assert compiling.known_options() == compiling.OPTIONS


def test_options_that_xla_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(compiling, "OPTIONS", {"xla_cpu_no_such_option": True})
    assert compiling.known_options() == {}
    assert float(compiling.jit(lambda x: x + 1.0)(2.0)) == 3.0


def test_arguments_of_jit_are_passed_on_and_nothing_is_compiled_before_the_first_call():
    traced = []

    def power(x, k):
        traced.append(k)
        return x**k

    compiled = compiling.jit(power, static_argnames="k")
    assert compiled.__name__ == "power"
    assert not traced
    assert [float(compiled(3.0, k=k)) for k in (2, 3, 2)] == [9.0, 27.0, 9.0]
    assert traced == [2, 3]


def test_what_was_compiled_can_be_a_part_of_another_function():
    compiled = jax.jit(lambda x: 2.0 * x, compiler_options=compiling.known_options())
    with pytest.raises(ValueError, match="top-level"):
        jax.jit(lambda x: compiled(x) + 1.0)(1.0)
    assert float(jax.jit(lambda x: compiling.uncompiled(compiled)(x) + 1.0)(1.0)) == 3.0
