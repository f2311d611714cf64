"""Groups of a reference's tokens that share a mean: which there are, how they are chosen, and which a token takes.

Dimension key: E examples of the batch, R of the reference, B of a chunk, T positions of the batch, S of the reference,
P groups, X layers or senders, F features.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...models.inputs.batch import Batch, Positions
from ...programs import compiled

BY_POSITION, FIRST_APART, POOLED = LAYOUTS = ("by position", "first position apart", "pooled")
ENOUGH = 8
"""The least number of examples of a mean by position, unless a user insists on means by position."""

Labels = tuple[np.ndarray, np.ndarray]
"""Labels of the batch's examples `[E]` and of the reference's `[R]`."""


@dataclass(frozen=True)
class MeanGroups:
    """Groups of a reference's tokens that share a mean: by position (over real tokens) and by label.

    Attributes:
        groups: of the reference's tokens, `[R,S]`; group `position + width * label`.
        tokens, examples: how many real tokens each group has, and of how many examples, `[P]`.
        known: the labels, sorted.
        layout: one of LAYOUTS.
        width: the number of positions that the layout tells apart.
        needed: the least number of examples of the reference that a mean is taken over.
        own: whether the reference is the batch itself: each example is then left out of its own means.
    """

    groups: np.ndarray
    tokens: np.ndarray
    examples: np.ndarray
    known: np.ndarray
    layout: str
    width: int
    needed: int
    own: bool

    @classmethod
    def choose(
        cls, reference: Positions, batch: Positions, labels: Labels | None, *, per_position: bool | None, own: bool
    ) -> "MeanGroups":
        """Return the groups that a user asked for; None leaves the choice to the numbers of examples.

        The choice is made for one batch, and holds for all that follow it in a stream.
        """
        batch_labels, labels_R = (None, None) if labels is None else labels
        if per_position is not None and not per_position:
            # The mean of one long text's tokens is a mean, unless that text itself is what is ablated.
            return cls.of(reference, labels_R, POOLED, needed=2 if own else 1, own=own)
        if per_position:
            return cls.of(reference, labels_R, BY_POSITION, needed=2, own=own)
        by_position = cls.of(reference, labels_R, BY_POSITION, needed=ENOUGH, own=own)
        if by_position.least_examples(batch, batch_labels) >= ENOUGH:
            return by_position
        # The first token attends to nothing but itself, and begins the text: its outputs are like no other position's,
        # and a mean over all positions would put an effect there that no head has.
        return cls.of(reference, labels_R, FIRST_APART, needed=2, own=own)

    @classmethod
    def of(
        cls, reference: Positions, labels: np.ndarray | None, layout: str, *, needed: int, own: bool
    ) -> "MeanGroups":
        """Group the tokens of a reference whose examples have these labels `[R]`; None for one label."""
        # As many as columns, not as the longest example has positions: a shape should not depend on what is padding.
        width = {BY_POSITION: reference.shape[1], FIRST_APART: 2, POOLED: 1}[layout]
        known, label_R = np.unique(_labels_or_zeros(labels, reference), return_inverse=True)
        groups_RS = _group_positions(reference, layout) + width * label_R[:, None]
        real_RS, size = np.asarray(reference.mask), width * len(known)
        tokens = np.bincount(groups_RS[real_RS], minlength=size)
        # One number for each pair of a group and an example: an example counts once for each of its groups.
        pairs_RS = groups_RS * len(groups_RS) + np.arange(len(groups_RS))[:, None]
        examples = np.bincount(np.unique(pairs_RS[real_RS]) // len(groups_RS), minlength=size)
        return cls(groups_RS, tokens, examples, known, layout, width, needed, own)

    def least_examples(self, batch: Positions, labels: np.ndarray | None) -> int:
        """Return the least number of the reference's examples that have a group which the batch needs."""
        groups_ET, has_group_ET = self._groups_of(batch, labels)
        return int(np.where(has_group_ET, self.examples[groups_ET], 0)[np.asarray(batch.mask)].min())

    def index(self, batch: Positions, labels: np.ndarray | None) -> np.ndarray:
        """Return the group of each position of a batch whose examples have these labels `[E]`: `[E,T]`.

        Raises:
            ValueError: if a mean that the batch needs has no token, or too few examples.
        """
        groups_ET, has_group_ET = self._groups_of(batch, labels)
        examples_ET = np.where(has_group_ET, self.examples[groups_ET], 0)
        few = np.argwhere(np.asarray(batch.mask) & (examples_ET < self.needed))
        if few.size:
            example, column = few[0]
            position = np.asarray(batch.positions)[example, column]
            where = f"position {position} of group {_labels_or_zeros(labels, batch)[example]}"
            raise ValueError(self._complaint(where, len(few), int(examples_ET[example, column])))
        return groups_ET

    def _groups_of(self, batch: Positions, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the group of each position of a batch, and whether the reference has it, `[E,T]` each."""
        label_E, positions_ET = _labels_or_zeros(labels, batch), _group_positions(batch, self.layout)
        number_E = np.minimum(np.searchsorted(self.known, label_E), len(self.known) - 1)
        groups_ET = np.minimum(positions_ET, self.width - 1) + self.width * number_E[:, None]
        has_group_ET = (self.known[number_E] == label_E)[:, None] & (positions_ET < self.width)
        return groups_ET, has_group_ET & (self.tokens[groups_ET] > 0)

    def _complaint(self, where: str, count: int, examples: int) -> str:
        """Return what is wrong with the means of some tokens, and what to do."""
        source = "batch" if self.own else "reference"
        advice = "give a reference" if self.own else "give a longer or larger reference"
        if self.layout == BY_POSITION and self.needed > 2:
            advice += ", begin the stream with its longest batch, or say per_position=True or False"
        elif self.layout == BY_POSITION:
            advice += ", or per_position=None (the first position apart) or False (all positions together)"
        elif self.layout == FIRST_APART and not self.own:
            advice += ", or per_position=False (all positions together)"
        if not examples:
            return f"the {source} has no token for the means of {count} tokens, such as {where}; {advice}"
        return (
            f"the means of {count} tokens need at least {self.needed} examples each, so that no example is its own "
            f"mean; the {source} has {examples} for {where}; {advice}"
        )


def read_labels(groups: ArrayLike | None, reference_groups: ArrayLike | None) -> Labels | None:
    """Return labels of the batch `[E]` and of the reference `[R]`, or None; raises ValueError for other shapes."""
    if groups is None:
        if reference_groups is not None:
            raise ValueError("reference_groups label the reference by the batch's groups: give groups as well")
        return None
    own = np.asarray(groups)
    reference = own if reference_groups is None else np.asarray(reference_groups)
    if own.ndim != 1 or reference.ndim != 1:
        raise ValueError(f"groups must be one label for each example, got shapes {own.shape} and {reference.shape}")
    return own, reference


def check_labels(labels: Labels | None, batch: Batch, reference: Batch) -> None:
    """Raise ValueError unless there is one label for each example of the batch and of the reference."""
    if labels is not None and tuple(map(len, labels)) != (len(batch), len(reference)):
        raise ValueError(
            f"groups must label each of {len(batch)} examples, and of the reference each of {len(reference)} (by "
            f"reference_groups, if these are others); got {len(labels[0])} and {len(labels[1])} labels"
        )


class Means(NamedTuple):
    """Means over the tokens of each group; those that are not finite are apart, so that they can be left out.

    Attributes:
        finite: sums of the finite values, divided by the number of all tokens, `[X,P,F]`.
        broken: number of tokens whose value is not finite, `[X,P,F]`.
    """

    finite: Array
    broken: Array

    @property
    def values(self) -> Array:
        """The means, NaN where a value is not finite."""
        return jnp.where(self.broken > 0, jnp.nan, self.finite)


def sum_groups(values_XBTF: Array, group_BT: Array, real_BT: Array, groups: int) -> Array:
    """Return, over the real tokens of each group, the sum of finite values and the number of others, `[2,X,P,F]`."""
    real_BTX = jnp.broadcast_to(real_BT[:, :, None], (*real_BT.shape, len(values_XBTF)))[..., None]
    values_BTXF = jnp.moveaxis(values_XBTF.astype(jnp.float32), 0, 2)
    finite_BTXF = jnp.isfinite(values_BTXF)
    # Selected, not multiplied by 0: padding may hold NaN.
    counted = jnp.where(real_BTX & finite_BTXF, values_BTXF, 0.0), (real_BTX & ~finite_BTXF).astype(jnp.float32)
    sums_2PXF = jnp.stack(
        [jax.ops.segment_sum(x.reshape(-1, *x.shape[2:]), group_BT.reshape(-1), num_segments=groups) for x in counted]
    )
    return jnp.moveaxis(sums_2PXF, 1, 2)


@compiled
def leave_own_out(means: Means, own: Array, group_BT: Array, real_BT: Array, tokens_P: Array) -> Array:
    """Return each position's mean over the other examples of its group, `[X,B,T,…]`; NaN where one is not finite.

    Args:
        means: over all examples of each group, `[X,P,…]`.
        own: the chunk's own values, which are part of these means, `[X,B,T,…]`.
        tokens_P: the number of tokens of each group.
    """
    # An example whose own value overflows takes the mean of the others, which the sum over all of them can't give back:
    # infinity less infinity is NaN. So what is not finite is counted apart.
    own_XBTF = own.reshape(*own.shape[:3], -1)
    means = Means(*(mean.reshape(*mean.shape[:2], -1) for mean in means))
    broken_XBTF = ~jnp.isfinite(own_XBTF)
    same_BTS = (group_BT[:, :, None] == group_BT[:, None, :]) & real_BT[:, None, :]
    own_count_BT = jnp.maximum(same_BTS.sum(axis=2), 1).astype(jnp.float32)
    own_XBTF = jnp.where(broken_XBTF, 0.0, own_XBTF.astype(jnp.float32))
    own_means_XBTF = jnp.einsum("bts,xbsf->xbtf", same_BTS.astype(jnp.float32), own_XBTF)
    own_means_XBTF = own_means_XBTF / own_count_BT[None, :, :, None]
    own_broken_XBTF = jnp.einsum("bts,xbsf->xbtf", same_BTS.astype(jnp.float32), broken_XBTF.astype(jnp.float32))
    others_BT = jnp.maximum(tokens_P[group_BT].astype(jnp.float32) - own_count_BT, 1)
    means_XBTF = means.finite[:, group_BT]
    # (n · mean - c · own) / (n - c), written so that large sums do not cancel.
    means_XBTF = means_XBTF + (own_count_BT / others_BT)[None, :, :, None] * (means_XBTF - own_means_XBTF)
    return jnp.where(means.broken[:, group_BT] > own_broken_XBTF, jnp.nan, means_XBTF).reshape(own.shape)


def _labels_or_zeros(labels: np.ndarray | None, positions: Positions) -> np.ndarray:
    return np.zeros(positions.shape[0], int) if labels is None else labels


def _group_positions(positions: Positions, layout: str) -> np.ndarray:
    """Return the position of each token, as far as the layout tells positions apart."""
    numbers_ET = np.asarray(positions.positions)
    return {BY_POSITION: numbers_ET, FIRST_APART: np.minimum(numbers_ET, 1), POOLED: np.zeros_like(numbers_ET)}[layout]
