"""The work of an attribution on one chunk of examples: a method's estimates, summed to cells.

Dimension key: B examples of the chunk, C cells, L layers, T positions, N heads.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from ...checks import one_of
from ...execution.batching import Later
from ...execution.cost import FLOAT
from ...execution.resources import Resources
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ..estimates import WITHOUT_SIGN
from ..grid import heads_of_cells
from ..question import CellGroup
from .estimators import Estimator
from .folding import fold

RULES = {"left": 0.0, "midpoint": 0.5, "right": 1.0}
"""The point of each step of a path at which the gradient is taken."""

THROUGH_PATTERN = ("q", "k")
"""Sites that act through the attention pattern only."""

STREAM = ("resid_pre", "resid_mid", "resid_post")
"""Sites of the stream itself, past which it goes on whatever layer is dropped."""


@dataclass(frozen=True)
class NodeMethod:
    """An attribution method at one site.

    Attributes:
        name: as `attribute` explains it.
        site: without its stack's prefix.
        rule, steps: of "ig"; None for the other methods.
    """

    name: str
    site: str
    rule: str | None = None
    steps: int | None = None

    @classmethod
    def of(cls, name: str, stack: Stack, site: str, rule: str | None, steps: int | None) -> "NodeMethod":
        """Check a method's arguments, and fill in what a user left out.

        Raises:
            ValueError: for a rule or steps that the method does not take or that are not known, a site that the method
                has nothing to say about, or GradDrop in a stack of one layer.
        """
        if name != "ig" and not (rule is None and steps is None):
            raise ValueError(f"rule and steps are arguments of 'ig' and 'eap-ig'; method={name!r} takes none")
        if name == "ig":
            rule, steps = "midpoint" if rule is None else rule, 5 if steps is None else steps
            one_of("rule", rule, RULES)
        if name == "atp+qk" and site not in THROUGH_PATTERN:
            raise ValueError(f"'atp+qk' mends estimates at {' and '.join(THROUGH_PATTERN)}; at {site} use 'atp'")
        method = cls(name, site, rule, steps)
        if method.drops_layers and stack.layers == 1 and site not in STREAM:
            raise ValueError(f"GradDrop at {site} needs at least 2 layers, the {stack.name} has one; use 'atp'")
        return method

    @property
    def fixes_pattern(self) -> bool:
        """Whether the attention pattern is recomputed: the QK fix."""
        return self.name in ("atp+qk", "atp*") and self.site in THROUGH_PATTERN

    @property
    def drops_layers(self) -> bool:
        """Whether gradients are taken once for each layer, with that layer's contributions frozen: GradDrop."""
        return self.name in WITHOUT_SIGN

    @property
    def fractions(self) -> tuple[float, ...]:
        """Fractions of the way from the base run's values to the other run's at which gradients are taken; of "ig"."""
        if self.rule is None or self.steps is None:
            return ()
        return tuple((step + RULES[self.rule]) / self.steps for step in range(self.steps))

    def extra_bytes(self, stack: Stack, batch: Batch) -> int:
        """Return about how much an example holds beside a gradient's own activations, in bytes."""
        T, S = stack.queries.count(batch), stack.keys.count(batch)
        values, pattern, stream = (
            math.prod(stack.site_shape(site, 1, T, S)) for site in (self.site, "pattern", "resid_pre")
        )
        # In each layer: the site in both runs, their difference, and weights with their gradient. For the QK fix
        # scores and patterns of both runs, the slope of the pattern, and what `key_effects` makes of them. For GradDrop
        # the layer's two contributions.
        floats = 4 * values + 10 * pattern * self.fixes_pattern + 2 * stream * self.drops_layers
        return FLOAT * stack.layers * floats


@dataclass(frozen=True)
class AttributionWork:
    """Estimates for one chunk of examples.

    Attributes:
        base, other: the run that is edited and the one that values come from.
        by: the table's axes.
        remat: as in `weight_gradient`.
        examples: indices of the chunk's examples.
    """

    model: Model
    stack: Stack
    method: NodeMethod
    by: Sequence[str]
    base: Batch
    other: Batch
    objective: Objective
    reads: Reads
    resources: Resources
    remat: bool
    examples: np.ndarray

    def baselines(self) -> Later[np.ndarray]:
        """Return the function that computes the objective of both runs, `[2,B]`."""
        return lambda: self._estimator.objectives

    def effects(self, group: CellGroup) -> Later[np.ndarray]:
        """Return the function that computes the estimate of every cell, `[B,C]`."""
        del group
        # An estimate goes to the host and back several times: there is nothing to send ahead.
        return lambda: self._cells().reshape(len(self.examples), -1)

    def _cells(self) -> np.ndarray:
        """Return the estimate of every cell, `[B, *by]`."""
        method, estimator = self.method, self._estimator
        if method.fractions:
            return self._fold(estimator.along_path(method.fractions))
        estimate: Callable[..., np.ndarray] = estimator.first_order
        if method.fixes_pattern:
            estimate = partial(estimator.through_pattern, key_by_key="position" in self.by)
        if not method.drops_layers:
            return self._fold(estimate())
        # A cell's effects along several paths may cancel in its gradient. Dropping a layer takes some of the paths
        # away, so effects that cancel in one estimate seldom do in all: hence a mean of sizes.
        layers = range(self.stack.layers)
        sizes = [np.abs(self._fold(estimate(estimator.frozen_contributions(layer)))) for layer in layers]
        # A cell's own layer adds nothing, as freezing it cuts the cell off: L - 1 terms count, as in the paper. No
        # layer cuts the stream's own sites off: there all L do.
        return np.sum(sizes, axis=0) / (len(sizes) - (method.site not in STREAM))

    def _fold(self, estimates_BLTN: np.ndarray) -> np.ndarray:
        """Sum estimates to cells, `[B, *by]`."""
        # Without positions the QK fix gives the effects of the pattern's rows: at `k`, too, they are those of queries,
        # which in cross-attention are positions of another sequence than the keys.
        by_query = self.method.fixes_pattern and "position" not in self.by
        site = "pattern" if by_query else self.method.site
        positions = self.stack.positions_at(site, self.base)
        mask_BT = np.asarray(positions.mask)[self.examples]
        longest = int(np.asarray(positions.lengths).max())
        cells_LCN = None
        if "kv_head" in self.by:
            every = range(self.stack.layers)
            cells_LCN = np.stack([heads_of_cells(self.stack, self.method.site, self.by, layer) for layer in every])
        # The table has as many positions as the longest example of the whole batch, whichever are in this chunk.
        return fold(estimates_BLTN, mask_BT, self.by, longest, cells_LCN)

    @cached_property
    def _estimator(self) -> Estimator:
        devices, examples = self.resources.devices, self.examples
        base, other, reads = devices.examples(
            (self.base.model_inputs.take(examples), self.other.model_inputs.take(examples), self.reads.take(examples))
        )
        return Estimator(
            self.resources.network(self.model),
            self.stack,
            self.method.site,
            base,
            other,
            reads,
            self.objective.value,
            self.remat,
            devices,
        )
