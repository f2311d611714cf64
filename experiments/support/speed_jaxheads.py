"""jaxheads as a side of `experiments.speed`."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxheads as jh

from .speed_machine import fastest_product
from .speed_worker import Way
from .speed_works import COLUMNS_COMPARED, WRITTEN, Inputs, Work


class JaxHeads:
    """A side whose works are one call each."""

    devices: jax.sharding.Mesh | None = None
    arithmetic: Literal["differences"] | None = None

    def __init__(self, weights: Path):
        self.model = jh.load(str(weights))

    def ways(self, work: Work, inputs: Inputs) -> Mapping[str, Way]:
        """Return the one way to do the work."""
        calls = {"ablate": self._sweep, "patch": self._sweep, "importance": self._importance, "forward": self._forward}
        calls |= {"measure": self._measure, "write": self._write}
        return {"one call": partial(calls[work.kind], work, inputs)}

    def about(self, work: Work, inputs: Inputs) -> Mapping[str, Any]:
        """Return the FLOPs of the plan (`needed`) and of whole runs one after the other, last logits only (`loop`).

        Measures have no plan: they return the bytes that are `held` while measuring.
        """
        if work.kind in ("importance", "write"):
            return {}
        if work.kind == "measure":
            return {"held": self._held(jh.Batch(inputs.tokens))}
        call, examples = self._call(work, inputs), len(inputs.tokens)
        plan: Any = jh.plan(call.func, *call.args, **call.keywords)  # type: ignore[arg-type]
        costs, cost = plan.costs, plan.cost()
        if work.kind == "forward":
            return {"needed": costs.forward(examples), "loop": costs.forward(examples)}
        one_run = examples * (costs.positions * costs.layers * costs.layer_of_one + costs.rows * costs.vocabulary)
        runs = 1 + plan.sources + sum(map(len, plan.groups))
        return {"needed": cost.flops, "loop": float(one_run * runs), "planned_memory": cost.bytes}

    def matmul(self) -> float:
        """Return the rate of a compiled `jnp.matmul`."""

        def multiply(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
            product, on_device = jax.jit(jnp.matmul), (jnp.asarray(a), jnp.asarray(b))
            return lambda: product(*on_device).block_until_ready()

        return fastest_product(multiply)

    def _call(self, work: Work, inputs: Inputs) -> "partial[jh.HeadTable]":
        """Return the call of a sweep; for other works, that of an ablation."""
        batch, objective = jh.Batch(inputs.tokens), jh.logit_difference(inputs.right, inputs.wrong)
        options: Any = {"devices": self.devices, "arithmetic": self.arithmetic}
        if work.kind != "patch":
            return partial(jh.ablate, self.model, batch, objective, "zero", **options)
        assert inputs.source is not None
        by = ("layer", work.by)
        pair = self.model, jh.Batch(inputs.source), batch
        return partial(jh.patch, *pair, objective, site=work.site, by=by, arithmetic=self.arithmetic)

    def _sweep(self, work: Work, inputs: Inputs) -> np.ndarray:
        table = self._call(work, inputs)()
        assert table.per_example is not None
        return table.per_example if work.kind == "ablate" else table.per_example[table.metrics.index("effect")]

    def _importance(self, work: Work, inputs: Inputs) -> np.ndarray:
        del work
        objective = jh.logit_difference(inputs.right, inputs.wrong)
        table = jh.importance(self.model, jh.Batch(inputs.tokens), objective)
        assert table.per_example is not None
        return table.per_example

    def _measure(self, work: Work, inputs: Inputs) -> np.ndarray:
        """Take all of `METRICS` in one pass; return entropy and previous token, `[E,L,2N]`."""
        del work
        table = jh.measure(self.model, jh.Batch(inputs.tokens))
        assert table.per_example is not None
        compared = [table.per_example[table.metrics.index(name)] for name in ("entropy", "previous_token")]
        return np.concatenate(compared, axis=-1)

    def _write(self, work: Work, inputs: Inputs) -> np.ndarray:
        """Return the tokens that are written, `[E,L=1,W]`."""
        del work
        return jh.generate(self.model, jh.Batch(inputs.tokens), WRITTEN, stop=()).tokens[:, None]

    def _held(self, batch: jh.Batch) -> int:
        """Return the bytes beside weights, inputs and results while measuring, as the compiler plans them."""
        jax.clear_caches()
        jh.measure(self.model, batch)
        client: Any = jax.devices()[0].client
        sizes = [program.get_compiled_memory_stats().temp_size_in_bytes for program in client.live_executables()]
        jax.clear_caches()  # the first call that is timed compiles, too
        return max(sizes)

    def _forward(self, work: Work, inputs: Inputs) -> np.ndarray:
        del work
        logits = jh.run(self.model, jh.Batch(inputs.tokens)).output.block_until_ready()
        return np.asarray(logits[:, :, ::COLUMNS_COMPARED])


class JaxHeadsByDifferences(JaxHeads):
    """jaxheads with what edits change computed of bfloat16 factors."""

    arithmetic = "differences"


class JaxHeadsOnDevices(JaxHeads):
    """jaxheads with the edited copies split over all devices."""

    def __init__(self, weights: Path):
        super().__init__(weights)
        self.devices = jax.make_mesh((jax.device_count(),), ("questions",))
