"""XLA options for programs that hold little memory while they run."""

from functools import cache

import jax

ON_CPU = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
"""XLA's default order on CPU runs many operations at once, so that the inputs of all of them are held together."""


@cache
def lean_options() -> dict[str, str]:
    """Return `jax.jit`'s `compiler_options` for the default backend; empty where its compiler has no such choice."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=ON_CPU).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # another version's compiler may not know the option
        return {}
    return ON_CPU
