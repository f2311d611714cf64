"""Function vectors: which heads carry a task from its examples to its answers (Todd et al. 2023, arXiv 2310.15213).

Dimension key: E prompts (B of a chunk), T positions, L layers, N heads, H head dimension, D model dimension.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...arguments import checked
from ...execution.batching import is_new
from ...execution.lengths import Lengths, sweep_runs
from ...execution.resources import Options, Resources
from ...models.inputs.answers import first_tokens
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Stack, take_rows
from ...objectives import Reads
from ...programs import compiled, to_device
from ...reads import reads_of
from ...tables import HeadTable
from ..cached_run import start_column
from ..grid import site_grid
from ..question import Question, sweep
from .plan import edit_groups
from .replacement import OneValue, forward_chunks
from .work import Chunk, exact


@dataclass(frozen=True, eq=False)
class FunctionVectors:
    """The answer of `function_vectors`.

    Attributes:
        effects: one row a head, column `effect`: the average indirect effect.
        outputs: each head's mean output at the last token of the clean prompts, `[L,N,H]`.
        written: these outputs as they are added to the stream, `[L,N,D]`.
    """

    effects: HeadTable
    outputs: np.ndarray
    written: np.ndarray

    @checked()
    def vector(self, heads: int | Sequence[tuple[int, int]] = 10) -> np.ndarray:
        """Return the function vector `[D]`: the sum of what heads write into the stream.

        Added to the stream (`jh.steer` at "resid_post"), it should set off the task without examples.

        Args:
            heads: (layer, head) pairs, or how many heads with the largest effects.

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


@sweep(returns=FunctionVectors)
def function_vectors(
    model: Model,
    clean: Batch | Texts,
    shuffled: Batch | Texts,
    answers: ArrayLike | Sequence[str],
    **options: Unpack[Options],
) -> Iterator[Question]:
    """Measure each head's average indirect effect on prompts whose labels are shuffled.

        prompts = jh.data.few_shot(pairs, prompts=25)
        jh.function_vectors(model, prompts.clean, prompts.shuffled, prompts.answers)

    The effect is `p(answer | the head's output at the last token is its mean over clean prompts) − p(answer)`, per
    prompt, then averaged; −1 to 1. The paper averages over tasks too, and over 25 prompts of 10 examples each: ask task
    by task, and average tables.

    Args:
        clean: few-shot prompts of the task, each ending where the answer is due.
        shuffled: prompts with labels that do not belong to their inputs, ending likewise; any number of them.
        answers: the answer that is right for each of `shuffled`, `[E]`, or one for all: token ids, or texts, each with
            the space that it begins with. Of a text its first token counts, as in the paper.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Raises:
        ValueError: for a model without logits or that is no language model; answers that are neither tokens nor texts,
            or of another number; texts for a model without tokenizer; a batch that does not fit the model; or a stack
            of another sequence than the one that answers.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    model.check(clean)
    if stack.queries != model.network.streams[-1].queries:
        raise ValueError(
            f"the {stack.name} of {model.name} has no last token: it reads another sequence than is answered"
        )
    objective = _Probability(first_tokens(model, "answers", answers))
    model.check(shuffled)
    reads, grid = reads_of(objective, model, shuffled), site_grid(stack, "z", shuffled, ("layer", "head"))
    reads, shuffled = Lengths(model).read(objective, reads, shuffled, runs=sweep_runs(grid.size))
    [clean], T = Lengths(model).alike(clean), stack.queries.count(shuffled)
    # Only the last token of each prompt is edited: in a causal stack nothing before the earliest of them changes.
    first = int(start_column(int(np.asarray(reads.rows).min()), T)) if stack.causal else 0
    means = _MeanOutputs(model, stack, clean, resources, np.asarray(reads.rows)[:, 0], T)

    # The means are those that the sweep put in place; where it went on from finished parts they are computed here.
    def finish(table: HeadTable) -> FunctionVectors:
        outputs = np.asarray(means.values, np.float64)
        written = np.einsum("lnh,lnhd->lnd", outputs, np.asarray(stack.weights.W_O, np.float64))
        return FunctionVectors(table, outputs, written)

    question = exact(
        model,
        stack,
        shuffled,
        objective,
        reads,
        (grid, edit_groups(stack, "z", shuffled, grid, first)),
        means,
        resources,
        identity=(clean,),
        about={"clean_prompts": len(clean)},
    )
    yield replace(question, finish=finish)


@dataclass(frozen=True, eq=False)
class _Probability:
    """The probability of each prompt's answer, where the model answers."""

    answers: np.ndarray
    name: str = "probability"

    def reads(self, model: Model, batch: Batch) -> Reads:
        unembedding = model.network.unembedding
        if unembedding is None or model.network.classes_of is not None:
            kind = "is a classifier" if model.network.classes_of is not None else model.network.without_logits
            raise ValueError(f"function vectors are of language models; {model.name} {kind}")
        answers, count = self.answers, unembedding.weight.shape[0]
        if not np.issubdtype(answers.dtype, np.integer) or answers.shape not in ((1,), (len(batch),)):
            raise ValueError(
                f"answers must be one token id or {len(batch)}, got {answers.dtype} of shape {answers.shape}"
            )
        if answers.min() < 0 or answers.max() >= count:
            raise ValueError(f"answers must lie in 0..{count - 1}, got {answers.tolist()}")
        rows_B1 = _last_rows(model, batch)
        target_B1 = np.broadcast_to(answers, (len(batch),))[:, None]
        return Reads(to_device(rows_B1, np.int32), None, to_device(target_B1, np.int32))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        del reads
        return jnp.exp(read[:, 0])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ValuesAtOnePosition:
    """Outputs `[L,N,H]` for one position of each example only, `where` bool `[B,T,1,1]`."""

    values: Array
    where: Array

    def at(self, stack: Stack, site: str, layer: Array) -> Array:
        """Return the outputs of one layer, `[1,1,N,H]`."""
        del stack, site
        return self.values[layer][None, None]


class _MeanOutputs(OneValue):
    """A source of mean outputs over the clean prompts, for one column of each shuffled prompt.

    Args:
        columns: the column of each example that is edited, `[E]`, of `width` columns.
    """

    def __init__(self, model: Model, stack: Stack, clean: Batch, resources: Resources, columns: np.ndarray, width: int):
        self.model, self.stack, self.clean, self.resources = model, stack, clean, resources
        self.columns, self.width = columns, width

    def of(self, chunk: Chunk) -> Iterator[ValuesAtOnePosition]:
        """Yield the mean outputs, at these examples' columns."""
        where_BT = self.columns[chunk.examples][:, None] == np.arange(self.width)
        where_BT11 = chunk.devices.examples(to_device(where_BT[..., None, None]))
        yield ValuesAtOnePosition(chunk.devices.everywhere(self.values), where_BT11)

    @cached_property
    def values(self) -> Array:
        """Each head's mean `z` at the clean prompts' last tokens, `[L,N,H]`."""
        stack, devices, network = self.stack, self.resources.devices, self.resources.network(self.model)
        rows_B1 = _last_rows(self.model, self.clean)
        sums = np.zeros((stack.layers, stack.heads, stack.head_size))
        for chunk in forward_chunks(stack, self.clean, self.resources).example_chunks(len(self.clean)):
            inputs = self.clean.take(chunk), to_device(rows_B1[chunk]), to_device(is_new(chunk))
            sums += devices.fetch(_sum_rows(network, *devices.examples(inputs), stack=stack.name))
        return to_device(sums / len(self.clean), np.float32)


def _last_rows(model: Model, batch: Batch) -> np.ndarray:
    """Return the column of each prompt's last token, `[B,1]`."""
    return np.asarray(model.network.readout_positions(batch)).reshape(len(batch), 1)


@partial(compiled, static_argnames="stack")
def _sum_rows(network: Network, batch: Batch, rows_B1: Array, counts_B: Array, *, stack: str) -> Array:
    """Return the sum of `z` at these rows over the examples that count (bool `[B]`), `[L,N,H]`."""

    def read(values: Mapping[str, Array]) -> Array:
        z_BNH = take_rows(values["z"], rows_B1)[:, 0].astype(jnp.float32)
        return jnp.where(counts_B[:, None, None], z_BNH, 0).sum(axis=0)

    return forward(network, batch, read={stack: read})[1][stack]
