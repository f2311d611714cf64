"""Programs that hold as little as they can while they run."""

from functools import cache

import jax

ON_CPU = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
"""XLA's order of operations on CPU is for running many of them at once, so that all their inputs are held together."""


@cache
def lean_options() -> dict[str, str]:
    """What to give `jax.jit` as `compiler_options` on the default backend; nothing where the compiler has no choice."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=ON_CPU).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # another version's compiler may not know the option
        return {}
    return ON_CPU
