"""Function vectors: which heads carry a task from its examples to its answers (Todd et al. 2023, arXiv 2310.15213).

Dimension key: E prompts (B of a piece), T positions, L layers, N heads, H head dimension, D model dimension.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...execution.devices import Devices
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Stack, take_rows
from ...objectives import Reads
from ...tables import HeadTable
from ..grid import grid
from ..question import SweepAsked, answer
from .plan import bucket, forward_pieces
from .work import Prepared, Resources, Sweep


@dataclass(frozen=True, eq=False)
class FunctionVectors:
    """What `function_vectors` found.

    Attributes:
        effects: one row a head, column `effect`: the average indirect effect.
        outputs: each head's mean output at the last token of the clean prompts, `[L,N,H]`.
        written: the same as it is added to the stream, `[L,N,D]`.
    """

    effects: HeadTable
    outputs: np.ndarray
    written: np.ndarray

    def vector(self, heads: int | Sequence[tuple[int, int]] = 10) -> np.ndarray:
        """The function vector `[D]`: the sum of what these (layer, head) pairs write, or of so many with the largest
        effects. Added to the stream (`jh.steer` at "resid_post"), it is to set off the task without examples.

        Raises:
            ValueError: for no head, more than there are, or one that is not there.
        """
        L, N = self.written.shape[:2]
        if isinstance(heads, int | np.integer):
            if not 1 <= heads <= L * N:
                raise ValueError(f"a function vector is of 1 to {L * N} heads, got {heads}")
            best = np.argsort(-self.effects.values, axis=None, kind="stable")[:heads]
            pairs = [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(best, (L, N)), strict=True)]
        else:
            pairs = list(heads)
        if not pairs or any(not (0 <= layer < L and 0 <= head < N) for layer, head in pairs):
            raise ValueError(f"heads are (layer, head) pairs with layers 0..{L - 1} and heads 0..{N - 1}; got {pairs}")
        return sum(self.written[layer, head] for layer, head in pairs)  # type: ignore[return-value]


def function_vectors(
    model: Model,
    clean: Batch,
    shuffled: Batch,
    answers: ArrayLike,
    *,
    stack: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
    devices: jax.sharding.Mesh | None = None,
    progress: bool = False,
) -> FunctionVectors:
    """Each head's average indirect effect: what its mean output over clean prompts does to prompts whose labels are
    shuffled: `p(answer | its output at the last token replaced) − p(answer)`, per prompt, then averaged; −1 to 1.

    The paper averages over tasks too, and over 25 prompts of 10 examples each: ask task by task, and average tables.

    Args:
        clean: few-shot prompts of the task, each ending where the answer is due.
        shuffled: prompts with labels that do not belong to their inputs, ending likewise; as many as wanted.
        answers: the token that is right for each of `shuffled`, `[E]`, or one for all.
        stack: whose heads: of the stack that reads the prompts; the only one when left out.
        level, seed: of the bootstrap over prompts.
        memory, devices, progress: as in `ablate`.

    Raises:
        ValueError: for a model without logits or that is no language model, answers that are no tokens or of another
            number, a batch that does not fit the model, or a stack of another sequence than the one that answers.
    """
    part = model.stack(stack)
    model.check(clean)
    if part.queries != model.network.streams[-1].queries:
        raise ValueError(
            f"the {part.name} of {model.name} has no last token: it reads another sequence than is answered"
        )
    objective = _Probability(np.atleast_1d(np.asarray(answers)))
    model.check(shuffled)
    reads, room = objective.reads(model, shuffled), Resources(memory, Devices.of(devices))
    T = part.queries.count(shuffled)
    first = int(bucket(int(np.asarray(reads.rows).min()), T)) if part.causal else 0
    cells = grid(part, "z", shuffled, ("layer", "head"), first)
    means: list[Array] = []

    def prepare(sweep: Sweep) -> "_Outputs":
        means.append(_mean_outputs(sweep, clean))
        return _Outputs(means[0], np.asarray(reads.rows)[:, 0], T)

    sweep = Sweep.planned(model, part, shuffled, objective, reads, Prepared(1, prepare), cells.steps, room)
    asked = SweepAsked(sweep, cells, (clean,))
    about = {"clean_prompts": len(clean)}
    table = answer(
        "function_vectors", [asked], about, stream=False, level=level, seed=seed, progress=progress, resume=None
    )
    if not means:  # while planning
        return table  # type: ignore[return-value]
    outputs = np.asarray(means[0], np.float64)
    written = np.einsum("lnh,lnhd->lnd", outputs, np.asarray(part.weights.W_O, np.float64))
    return FunctionVectors(table, outputs, written)


@dataclass(frozen=True, eq=False)
class _Probability:
    """The probability of each prompt's answer, where the model answers."""

    answers: np.ndarray
    name: str = "probability"

    def reads(self, model: Model, batch: Batch) -> Reads:
        unembedding = model.network.unembedding
        if unembedding is None or not model.network.at_every_position:
            raise ValueError(f"function vectors are of language models; {model.name} {model.network.without_logits}")
        given, count = self.answers, unembedding.weight.shape[0]
        if not np.issubdtype(given.dtype, np.integer) or given.shape not in ((1,), (len(batch),)):
            raise ValueError(f"answers must be one token id or {len(batch)}, got {given.dtype} of shape {given.shape}")
        if given.min() < 0 or given.max() >= count:
            raise ValueError(f"answers must lie in 0..{count - 1}, got {given.tolist()}")
        rows_B1 = np.asarray(model.network.readout_positions(batch)).reshape(len(batch), 1)
        target_B1 = np.broadcast_to(given, (len(batch),))[:, None]
        return Reads(jnp.asarray(rows_B1, jnp.int32), None, jnp.asarray(target_B1, jnp.int32))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        del reads
        return jnp.exp(read[:, 0])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AtOnePosition:
    """Outputs `[L,N,H]` for one position of each example only, `where` `[B,T,1,1]`."""

    values: Array
    where: Array

    def at(self, stack: Stack, site: str, layer: Array) -> Array:
        """`[1,1,N,H]`."""
        del stack, site
        return self.values[layer][None, None]


@dataclass(frozen=True)
class _Outputs:
    """Mean outputs, and the column of each example that they go to, `[E]`, of `width`."""

    values: Array
    columns: np.ndarray
    width: int

    def of(self, piece: Batch, examples: np.ndarray, sweep: Sweep) -> Iterator[AtOnePosition]:
        """Of these examples."""
        del piece
        devices = sweep.room.devices
        where_BT11 = (self.columns[examples][:, None] == np.arange(self.width))[..., None, None]
        yield AtOnePosition(devices.everywhere(self.values), devices.examples(jnp.asarray(where_BT11)))


def _mean_outputs(sweep: Sweep, clean: Batch) -> Array:
    """Each head's mean `z` at the clean prompts' last tokens, `[L,N,H]`."""
    stack, devices = sweep.stack, sweep.room.devices
    rows_B1 = np.asarray(sweep.model.network.readout_positions(clean)).reshape(len(clean), 1)
    sums = np.zeros((stack.layers, stack.heads, stack.head_size))
    for piece in forward_pieces(stack, clean, memory=sweep.room.memory, multiple=devices.multiples[0]):
        counted_B = np.arange(len(piece)) < len(np.unique(piece))  # the last is repeated to fill the piece
        given = devices.examples((clean.take(piece), jnp.asarray(rows_B1[piece]), jnp.asarray(counted_B)))
        sums += devices.fetch(_sums(sweep.network, *given, stack=stack.name))
    return jnp.asarray(sums / len(clean), jnp.float32)


@partial(jax.jit, static_argnames="stack")
def _sums(network: Network, batch: Batch, rows_B1: Array, counted_B: Array, *, stack: str) -> Array:
    """Sums over the examples that are counted, `[L,N,H]`."""

    def read(seen: Mapping[str, Array]) -> Array:
        z_BNH = take_rows(seen["z"], rows_B1)[:, 0].astype(jnp.float32)
        return jnp.where(counted_B[:, None, None], z_BNH, 0).sum(axis=0)

    return forward(network, batch, read={stack: read})[1][stack]
