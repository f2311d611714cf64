"""What a head's attention pattern looks like, in numbers: written for one head of one example, vmapped once.

Dimension key: B batch, T query positions, S key positions, N query heads, O offsets.

A metric is a function `(pattern_TS, example) -> (value, counts)`. `value` is a mean over the queries that
count; `counts` says whether there are any, and where there are none the value is 0, never NaN. Only real
queries and real keys count. Positions are those of the model, counted over real tokens: "the previous token"
is the previous real one, also where padding lies between, and left padding equals no padding.

A metric says what it `needs` of the positions, and is not asked of a stack that lacks it: in cross-attention queries
and keys are different sequences, patches of an image have places but no order, and only tokens have ids.

Every example weighs the same in a table's mean, however long it is (as in Clark et al. 2019; Vig & Belinkov
2019 sum over the corpus, where long sentences weigh more).
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..models.batch import Batch
from ..models.positions import count_positions
from ..models.stack import Stack

OFFSETS = tuple(range(-5, 6))
"""The relative positions, key minus query, among which `positional_share` looks for the best."""


NEEDS = ("any", "places", "order", "ids")
"""What a metric may need of the positions: nothing; that queries and keys are the same positions, with distances; that
these have an order; that they have ids. Each includes those before it."""


class Example(NamedTuple):
    """One example.

    Attributes:
        tokens: ids of the queries, `[T]`, where they have any.
        mask: which queries are real, `[T]`.
        seen: which keys are real, `[S]`, where they are other positions.
        pixels: where patches are in an image, row and column in pixels, `[T,2]`.
        patch: which positions are patches, not special tokens, `[T]`.
    """

    tokens: Array | None
    mask: Array
    seen: Array | None = None
    pixels: Array | None = None
    patch: Array | None = None

    @property
    def keys(self) -> Array:
        """Which keys are real, `[S]`."""
        return self.mask if self.seen is None else self.seen

    @property
    def key_positions(self) -> Array:
        """Places of the keys among the real ones, `[S]`."""
        return count_positions(self.keys[None])[0]

    @property
    def positions(self) -> Array:
        """Places among the real tokens, from 0, `[T]`; padding gets 0."""
        return count_positions(self.mask[None])[0]

    @property
    def length(self) -> Array:
        """How many keys are real."""
        return self.keys.sum(dtype=jnp.int32)

    @property
    def steps(self) -> Array:
        """How far apart query and key are, `[T,S]`: in real tokens; between patches in pixels, centre to centre."""
        if self.pixels is None:
            return jnp.abs(self.offsets).astype(jnp.float32)
        apart_TS2 = self.pixels[:, None] - self.pixels[None]
        return jnp.sqrt(jnp.square(apart_TS2).sum(axis=-1))

    @property
    def offsets(self) -> Array:
        """Position of the key minus position of the query, `[T,S]`."""
        return self.positions[None, :] - self.positions[:, None]

    @property
    def pairs(self) -> Array:
        """Where both query and key are real, `[T,S]`."""
        return self.mask[:, None] & self.keys[None, :]

    @property
    def apart(self) -> Array:
        """Where query and key are real and have a distance, `[T,S]`: special tokens of an image have no place."""
        return self.pairs if self.patch is None else self.pairs & self.patch[:, None] & self.patch[None, :]

    @property
    def last(self) -> Array:
        """Which key is the last real one, `[S]`."""
        return self.keys & (self.key_positions == self.length - 1)

    def neighbours(self, offset: int) -> tuple[Array, Array]:
        """Of each place the token `offset` real positions on, and whether there is one; both `[T]`."""
        assert self.tokens is not None
        place_T = jnp.argsort(~self.mask, stable=True)
        wanted_T = self.positions + offset
        there_T = self.mask & (wanted_T >= 0) & (wanted_T < self.length)
        return self.tokens[place_T[jnp.clip(wanted_T, 0, self.tokens.shape[0] - 1)]], there_T


Scored = tuple[Array, Array]
"""A metric's value for one head and one example, and whether it counts."""


@dataclass(frozen=True)
class Metric:
    """A named number of one head's pattern. Equal by value and hashable, so that equal metrics trace once.

    Attributes:
        name: the column of the table.
        needs: one of NEEDS.
        function: `(pattern_TS, example, **options)` to value and counts, scalars, or `[O]` with `best_of`.
        options: of the function, as (name, value) pairs.
        best_of: labels of a vector's O entries. The table then has the entry whose mean over the examples is
            largest, chosen for each head (of equal ones that with the label nearest to 0), and that entry's
            label in a column of integers called `label`.
    """

    name: str
    function: Callable[..., Scored]
    options: tuple[tuple[str, Any], ...] = ()
    best_of: tuple[int, ...] = ()
    label: str = ""
    needs: str = "any"

    def __call__(self, pattern_TS: Array, example: Example) -> Scored:
        return self.function(pattern_TS.astype(jnp.float32), example, **dict(self.options))

    def variant(self, name: str, **options: Any) -> "Metric":
        """The same metric with other options, under a name that tells them apart."""
        merged = {**dict(self.options), **options}
        return replace(self, name=name, options=tuple(sorted(merged.items())))


def evaluate(metrics: Sequence[Metric], pattern_BNTS: Array, examples: Example) -> dict[str, Scored]:
    """Every metric of one layer's heads and examples: value and counts `[B,N]`, or `[B,N,O]` with `best_of`.

    Args:
        examples: with a leading axis of the batch.
    """

    def everywhere(metric: Metric) -> Scored:
        over_heads = jax.vmap(metric, in_axes=(0, None))
        return jax.vmap(over_heads)(pattern_BNTS, examples)

    return {metric.name: everywhere(metric) for metric in metrics}


def examples_of(stack: Stack, batch: Batch) -> Example:
    """What a stack's positions are in each example, with a leading axis of the batch."""
    queries, keys = stack.queries.of(batch), stack.keys.of(batch)
    if stack.queries.kind != "patches":
        return Example(queries.ids, queries.mask, keys.mask if stack.is_cross else None)
    specials, (rows, columns) = len(stack.queries.specials), stack.queries.grid(batch)
    centres_T2 = np.moveaxis(np.indices((rows, columns)), 0, -1).reshape(-1, 2) * float(stack.queries.size)
    pixels_T2 = np.concatenate([np.zeros((specials, 2)), centres_T2]).astype(np.float32)
    patch_T = np.arange(len(pixels_T2)) >= specials
    pixels_BT2, patch_BT = (jnp.broadcast_to(part, (len(batch), *part.shape)) for part in (pixels_T2, patch_T))
    return Example(None, queries.mask, None, pixels_BT2, patch_BT)


def fits(metric: Metric, stack: Stack) -> bool:
    """Whether a stack's positions are what the metric needs."""
    kind = {"tokens": "ids", "targets": "ids", "frames": "order", "patches": "places"}[stack.queries.kind]
    return NEEDS.index(metric.needs) <= NEEDS.index("any" if stack.is_cross else kind)


def entropy(pattern_TS: Array, example: Example, smoothing: float = 0.0) -> Scored:
    """Mean over queries of −Σ_k A log A, in nats, with 0 log 0 = 0; from 0 to ln n (Clark et al. 2019).

    `smoothing` s takes (1 − s) A + s / n for A, over the example's n real keys: Clark's code has s = 1e-4.
    """
    A_TS = jnp.where(example.pairs, (1 - smoothing) * pattern_TS + smoothing / example.length.astype(jnp.float32), 0.0)
    return _mean(-(A_TS * jnp.log(jnp.where(A_TS > 0, A_TS, 1.0))).sum(axis=1), example.mask)


def confidence(pattern_TS: Array, example: Example, without_last: bool = False) -> Scored:
    """Mean over queries of the largest weight, max_k A; from 1/n to 1 (Voita et al. 2019).

    Voita leaves out EOS: `without_last` leaves out the last real token as query and as key, without
    renormalising.
    """
    real_T, keys_S = example.mask, example.keys
    if without_last:
        keys_S = keys_S & ~example.last
        real_T = real_T & (example.positions < real_T.sum() - 1)
    return _mean(jnp.where(keys_S[None, :], pattern_TS, 0.0).max(axis=1), real_T)


def distance(pattern_TS: Array, example: Example, without_first: bool = False) -> Scored:
    """Σ A |i − j| / Σ A over queries i and keys j, in tokens; from 0 to n − 1 (Vig & Belinkov 2019). Of an image in
    pixels between centres of patches, special tokens left out and the rest renormalised (Dosovitskiy et al. 2021).

    They leave out attention to the first token, where heads rest that have nothing to do: so does
    `without_first`, and the quotient renormalises what is left. Nothing counts where nothing is left.
    """
    pairs_TS = example.apart
    if without_first:
        pairs_TS = pairs_TS & (example.positions > 0)[None, :]
    A_TS = jnp.where(pairs_TS, pattern_TS, 0.0)
    total = A_TS.sum()
    return (A_TS * example.steps).sum() / jnp.where(total > 0, total, 1.0), total > 0


def previous_token(pattern_TS: Array, example: Example) -> Scored:
    """Mean of A[i, i−1] over the queries i ≥ 1 (Olsson et al. 2022)."""
    return _attention_to(pattern_TS, example.pairs & (example.offsets == -1))


def next_token(pattern_TS: Array, example: Example) -> Scored:
    """Mean of A[i, i+1] over the queries i ≤ n − 2; 0 if causal (Clark et al. 2019, who divide by n)."""
    return _attention_to(pattern_TS, example.pairs & (example.offsets == 1))


def self_token(pattern_TS: Array, example: Example) -> Scored:
    """Mean of A[i, i] over all queries (Clark et al. 2019)."""
    return _attention_to(pattern_TS, example.pairs & (example.offsets == 0))


def first_token(pattern_TS: Array, example: Example) -> Scored:
    """Mean over all queries of the attention to the first real token: the sink's α_1 (Gu et al. 2025)."""
    return _attention_to(pattern_TS, example.pairs & (example.key_positions == 0)[None, :])


def duplicate_token(pattern_TS: Array, example: Example) -> Scored:
    """Mean of Σ A[q, j] over the j < q with the same token, over queries that have one (Wang et al. 2022)."""
    assert example.tokens is not None
    same_TS = example.tokens[:, None] == example.tokens[None, :]
    return _attention_to(pattern_TS, example.pairs & same_TS & (example.offsets < 0))


def induction(pattern_TS: Array, example: Example, after: int = 1) -> Scored:
    """Prefix matching: attention to what came after the same token before (Olsson et al. 2022).

    Mean of Σ A[q, j + 1] over all j < q with the same token as q and j + 1 < q, over the queries q that have
    such a j. Olsson's text says "preceded"; their mechanism, and this, takes the token *after* it. `after=-1`
    is the literal reading. A head that merely looks back by a fixed distance scores too where that is the
    period: vary it.
    """
    assert example.tokens is not None
    token_T, there_T = example.neighbours(-after)
    back_TS = example.offsets - after
    match_TS = (example.tokens[:, None] == token_T[None, :]) & there_T[None, :]
    return _attention_to(pattern_TS, example.pairs & match_TS & (example.offsets < 0) & (back_TS < 0))


def positional_share(pattern_TS: Array, example: Example, offsets: tuple[int, ...] = OFFSETS) -> Scored:
    """Share of queries whose largest weight is at a fixed offset, for each offset, `[O]` (Voita et al. 2019).

    At each offset those queries count where there is a key at that offset, whether the model may look there
    or not: the numbers of a causal model and of a bidirectional one are over the same queries. Of equal
    weights the first counts as the largest. The table has the best offset; Voita calls a head positional from
    0.9 up. The best of eleven shares is too large by chance, most where examples are so short that few
    queries have a far key: give long ones, and give a null the same choice.
    """
    real_TS = jnp.where(example.mask[None, :], pattern_TS, -1.0)
    found_T = example.positions[jnp.argmax(real_TS, axis=1)] - example.positions
    wanted_O1 = jnp.asarray(offsets, jnp.int32)[:, None]
    key_OT = example.positions[None, :] + wanted_O1
    there_OT = example.mask[None, :] & (key_OT >= 0) & (key_OT < example.length)
    return jax.vmap(_mean)((found_T[None, :] == wanted_O1).astype(jnp.float32), there_OT)


METRICS: dict[str, Metric] = {
    function.__name__: Metric(function.__name__, function, needs=needs)
    for function, needs in (
        (entropy, "any"),
        (confidence, "any"),
        (distance, "places"),
        (previous_token, "order"),
        (next_token, "order"),
        (self_token, "places"),
        (first_token, "any"),
        (duplicate_token, "ids"),
        (induction, "ids"),
    )
} | {"positional_share": Metric("positional_share", positional_share, (), OFFSETS, "positional_offset", "order")}
"""What is measured unless told otherwise, by name."""

VARIANTS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        METRICS["entropy"].variant("entropy_smoothed", smoothing=1e-4),
        METRICS["confidence"].variant("confidence_without_last", without_last=True),
        METRICS["distance"].variant("distance_without_first", without_first=True),
        METRICS["induction"].variant("induction_literal", after=-1),
    )
}
"""The same as particular papers have them, by name."""


def resolve(metrics: str | Metric | Sequence[str | Metric]) -> tuple[Metric, ...]:
    """Metrics by name or by value.

    Raises:
        ValueError: for none, for a name that is not known (with those that are), or for one name twice.
    """
    given = (metrics,) if isinstance(metrics, str | Metric) else tuple(metrics)
    if not given:
        raise ValueError(f"metrics: expected at least one of {', '.join(METRICS)}; got none")
    found = tuple(one if isinstance(one, Metric) else _known(one) for one in given)
    names = [metric.name for metric in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"metrics: each name may come once, got {', '.join(twice)} twice; use Metric.variant")
    return found


def _known(name: str) -> Metric:
    known = METRICS | VARIANTS
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"metric {name!r} is not known; known are {', '.join(known)}{hint}")
    return known[name]


def _mean(values_T: Array, counts_T: Array) -> Scored:
    number = counts_T.sum(dtype=jnp.float32)
    return jnp.where(counts_T, values_T, 0.0).sum() / jnp.maximum(number, 1.0), number > 0


def _attention_to(pattern_TS: Array, target_TS: Array) -> Scored:
    """Mean attention to the targets, over the queries that have one."""
    return _mean(jnp.where(target_TS, pattern_TS, 0.0).sum(axis=1), target_TS.any(axis=1))
