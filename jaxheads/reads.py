"""What an objective reads of a model's output, and its check before anything runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from .arguments import checked, settles
from .checks import all_finite, as_array, shown, whole_numbers
from .models.given import as_objective
from .models.inputs.batch import Batch, Texts
from .models.model import Model
from .models.network import Network, forward
from .models.stack import take_rows
from .programs import compiled, take_examples, to_device


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reads:
    """Entries of a batch's output that an objective reads; the leading axis is always the examples.

    Attributes:
        rows: positions read, `[B,R]`.
        columns: vocabulary columns whose logits are read, `[B,C]`; None for all of them.
        target: token whose log-probability is read at each row, `[B,R]`; None for logits.
        weight: weight of each row, `[B,R]`, or of each column, `[B,C]`, in its example's value; or None.
        expected: numbers or classes that `value` compares with what is read, `[B,n]`; or None.
        shares: share of each row in the mean that the head reads, `[B,R]` (`Network.readout_shares`); or None.
        unedited: log-probabilities of the unedited run at the rows, `[B,R,V]`, for objectives that compare with it.
    """

    rows: Array
    columns: Array | None = None
    target: Array | None = None
    weight: Array | None = None
    expected: Array | None = None
    shares: Array | None = None
    unedited: Any = None

    @property
    def identity(self) -> tuple[Array | None, ...]:
        """What the reads are known by in a resume directory: not what model, batch and rows determine."""
        # Computed again, log-probabilities may differ in their last bits.
        return self.rows, self.columns, self.target, self.weight, self.expected, self.shares

    def repeat(self, times: int) -> "Reads":
        """Return the reads of the batch repeated `times` times."""
        return jax.tree.map(lambda field: jnp.tile(field, (times, *(1,) * (field.ndim - 1))), self)

    def take(self, examples: ArrayLike) -> "Reads":
        """Return the reads of these examples, by index."""
        return take_examples(self, np.asarray(examples))


class Objective(Protocol):
    """A function of a model's output with one value for each example.

    `value` is static because it is compiled into a sweep's program; all data reaches it through `reads`. An objective
    may have a `range`, the least and largest value, which no interval leaves, and a `unit`, which pictures name. It may
    have a method `resolved(model)`, which returns the objective with that model's token ids for its texts, and a method
    `completed(model, batch)`, which returns the batch with what it reads. Subclasses of `Evaluated` can be called.
    """

    @property
    def name(self) -> str:
        """Name in tables."""
        ...

    def reads(self, model: Model, batch: Batch) -> Reads:
        """Return the entries of this batch's output that are read; raise ValueError if the model has none."""
        ...

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        """Return the value of each example, `[B]`, of the entries that `read_out` returned."""
        ...


settles(Objective)(as_objective)


class Evaluated:
    """Base of objectives that can be called: `objective(model, batch)` is its value for each example."""

    @checked()
    def __call__(self, model: Model, batch: Batch | Texts) -> np.ndarray:
        """Return the value of each example in an unedited run, `[B]`; the batch may be texts.

        Raises:
            ValueError: for a batch that the model can't run, or one that the objective can't read.
        """
        objective: Any = as_objective("objective", self, {"model": model})
        reads = reads_of(objective, model, batch)
        return np.asarray(_values(model.network, batch, reads, objective.value))


@partial(compiled, static_argnames="value")
def _values(network: Network, batch: Batch, reads: Reads, value: Callable[[Array, Reads], Array]) -> Array:
    return value(read_out(network, take_rows(forward(network, batch)[0], reads.rows), reads), reads)


def read_out(network: Network, x_BRD: Array, reads: Reads) -> Array:
    """Return what an objective reads of the stream at its rows.

    The log-probabilities of its targets `[B,R]`, or the logits of its columns `[B,R,C]`, or all logits `[B,R,V]`.
    """
    unembedding = network.unembedding
    assert unembedding is not None, "the `reads` of every objective check for logits"
    features = network.pooled_features(x_BRD, reads.shares)
    if reads.target is not None:
        return unembedding.log_probability(features, reads.target)
    return unembedding.logits(features, reads.columns)


def reads_of(objective: Objective, model: Model, batch: Batch) -> Reads:
    """Return what an objective reads of a batch, checked against both before anything runs.

    JAX would take an index beyond the end for the last entry, and one example's reads for those of all.

    Raises:
        ValueError: for indices that the model or the batch does not have, reads that are not those of each example, or
            values that are not one real number for each example; the message names the objective.
    """
    packed = getattr(objective, "packed", False)
    model.check(batch, packed=packed)
    reads = objective.reads(model, batch)
    if type(objective).__module__.startswith("jaxheads."):
        return reads  # checked by its own `reads`
    if not isinstance(reads, Reads):
        raise ValueError(f"objective {objective.name!r}: `reads` must return jh.objectives.Reads, got {shown(reads)}")
    needs_logits(model, objective.name)
    vocabulary, last = model.network.unembedding.weight.shape[0], model.network.streams[-1]
    limits = {"rows": last.queries.count(batch), "columns": vocabulary, "target": vocabulary}
    fields = {
        field: _entries(f"the {field} of objective {objective.name!r}", getattr(reads, field), len(batch), limit)
        for field, limit in {**limits, "weight": None, "expected": None, "shares": None}.items()
        if getattr(reads, field) is not None
    }
    for field in fields.keys() & {"target", "weight"}:
        of_columns = field == "weight" and "columns" in fields and fields[field].shape == fields["columns"].shape
        if fields[field].shape != fields["rows"].shape and not of_columns:
            raise ValueError(
                f"the {field} of objective {objective.name!r} must have the shape of its rows {fields['rows'].shape}, "
                f"got {fields[field].shape}"
            )
    checked_reads = replace(Reads(**fields), shares=_shares(objective, model, batch, fields), unedited=reads.unedited)
    _check_value(objective, model.network, checked_reads)
    return checked_reads


def _shares(objective: Objective, model: Model, batch: Batch, fields: Mapping[str, Any]) -> Array | None:
    """Return the shares of the rows in the mean that the model's head reads, the model's own unless they are given.

    Raises:
        ValueError: for shares of a head that reads no mean, or other rows than those of the mean.
    """
    own, rows_BR = model.network.readout_shares(batch), fields["rows"]
    stated = fields.get("shares")
    if own is not None and rows_BR.shape != own.shape:
        raise ValueError(
            f"the head of {model.name} reads a mean of positions: the rows of objective {objective.name!r} must be "
            "all of `model.network.readout_positions(batch)`"
        )
    if stated is not None and (own is None or stated.shape != own.shape):
        raise ValueError(f"objective {objective.name!r} gives shares; the head of {model.name} has {shown(own)}")
    return own if stated is None else stated


def _entries(name: str, values: ArrayLike, examples: int, limit: int | None) -> Array:
    """Return one field of the reads, `[B,n]`: indices below the limit, or finite weights where there is none."""
    array = as_array(name, values)
    if array.ndim != 2 or len(array) != examples or array.shape[1] == 0:
        raise ValueError(f"{name} must be [examples, n] for {examples} examples, got shape {array.shape}")
    if limit is None:
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} must be real numbers, got {array.dtype}")
        all_finite(name, array)
        return to_device(array, np.float32)
    whole_numbers(name, array)
    if array.min() < 0 or array.max() >= limit:
        wrong = array[(array < 0) | (array >= limit)][0]
        raise ValueError(f"{name} must lie in 0..{limit - 1}, got {wrong}")
    return to_device(array, np.int32)


def _check_value(objective: Objective, network: Network, reads: Reads) -> None:
    """Raise ValueError unless the objective gives one real number for each example; shapes alone are computed."""
    last, (B, R) = network.streams[-1], reads.rows.shape
    x_BRD = jax.ShapeDtypeStruct((B, R, last.site_shape("resid_post", B, R)[-1]), jnp.float32)
    read = jax.eval_shape(read_out, network, x_BRD, reads)
    about = f"objective {objective.name!r}: `value` must return a real number for each of {B} examples, [{B}]"
    try:
        value = jax.eval_shape(objective.value, read, reads)
    except Exception as error:  # whatever a user's function raises
        raise ValueError(
            f"{about}; on an array {list(read.shape)} it raised {type(error).__name__}: {error}"
        ) from error
    if getattr(value, "shape", None) != (B,) or (value.dtype.kind not in "iuf" and str(value.dtype) != "bfloat16"):
        raise ValueError(f"{about}; of an array {list(read.shape)} it returned {shown(value)}")


def needs_derivative(objective: Objective) -> None:
    """Raise ValueError for an objective that is a step (`flat`), which a question that differentiates can't use."""
    if getattr(objective, "flat", False):
        raise ValueError(
            f"the derivative of {objective.name} is 0 everywhere: it can be ablated and patched, but not "
            "differentiated; use jh.class_loss or jh.class_logit"
        )


def needs_logits(model: Model, name: str) -> None:
    """Raise ValueError for a model without logits, which an objective of this name reads."""
    if model.network.unembedding is None:
        raise ValueError(f"{name} needs logits over a vocabulary; {model.name} {model.network.without_logits}")


def positions_read(
    model: Model, batch: Batch, name: str, positions: np.ndarray | None
) -> tuple[np.ndarray, Array | None]:
    """Return the positions where an objective of this name reads logits, `[B,R]`, and their shares in a mean, if any.

    They are the given ones, or those that the model's head reads.

    Raises:
        ValueError: for a model without logits; for positions that are not there, or padding; or for any of them where
            the model's head reads several positions together.
    """
    needs_logits(model, name)
    last_stream = model.network.streams[-1].queries.of(batch)
    B, T = last_stream.shape
    rows_BR = np.asarray(model.network.readout_positions(batch)).reshape(B, -1)
    if positions is not None:
        if rows_BR.shape[1] > 1:
            raise ValueError(f"the head of {model.name} reads {rows_BR.shape[1]} positions together: give none")
        if len(positions) not in (1, B):
            raise ValueError(f"positions must be one number or {B}, one for each example; got {len(positions)}")
        rows_BR = np.broadcast_to(positions, (B,))[:, None]
    if rows_BR.min() < 0 or rows_BR.max() >= T:
        raise ValueError(f"positions must lie in 0..{T - 1}, got {rows_BR[:, 0].tolist()}")
    real_BR, shares_BR = np.take_along_axis(np.asarray(last_stream.mask), rows_BR, axis=1), None
    if positions is None and (shares_BR := model.network.readout_shares(batch)) is not None:
        real_BR = real_BR | (np.asarray(shares_BR) == 0)
    padding = np.flatnonzero(~real_BR.all(axis=1))
    if padding.size:
        raise ValueError(f"a {name.replace('_', ' ')} can't be read at padding, as in examples {padding[:8].tolist()}")
    return rows_BR, shares_BR


def whole_positions(positions: ArrayLike) -> np.ndarray:
    """Return positions as integers, one for all examples or one for each; raises ValueError for others."""
    array = np.atleast_1d(np.asarray(positions))
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"positions must be a whole number or one for each example, got {positions!r}")
    return array


def gather_rows(counted_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices `[B,R]` of the counted positions, padded by others, and which of them count, bool `[B,R]`."""
    counts_B = counted_BT.sum(axis=1)
    rows_BR = np.argsort(~counted_BT, axis=1, kind="stable")[:, : counts_B.max()].astype(np.int32)
    return rows_BR, np.arange(rows_BR.shape[1])[None] < counts_B[:, None]


def needs_tokens(model: Model, name: str) -> None:
    """Raise ValueError for a model whose logits are not of tokens, which an objective or a measure of this name reads.

    A model without logits passes, and so does one that is not causal: their own errors say more.
    """
    if model.network.classes_of is not None and model.causal:
        raise ValueError(
            f"{name} needs logits over a vocabulary; those of {model.name} are of classes"
            f" ({', '.join(model.labels or ())}): use jh.class_logit or jh.class_loss"
        )
