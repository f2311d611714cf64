"""Samples of every head's patterns on a stream of examples, with summaries of where it looks and what it carries.

Dimension key: B examples of a chunk, T query positions, S key positions, L layers, N heads, M = L N heads, k largest
weights of a row.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Unpack

import numpy as np
from jax import Array

from ...checks import whole
from ...execution.batching import is_new
from ...execution.cost import FLOAT
from ...execution.lengths import LEAST, Lengths
from ...execution.resources import Options, Resources, shares_options
from ...models.inputs.batch import Batch
from ...models.inputs.query_rows import block_rows
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Stack
from ...programs import compiled, to_device
from ...progress import progress as show_progress
from ...provenance import provenance
from ..example_chunks import choose_chunks, run_arrays
from ..patterns.compiler_options import lean_options
from ..patterns.example import counted, examples_of
from ..streams import Batches, each_batch, inputs_of
from .answer import Samples
from .counted import counted_positions, offset_labels
from .head_sample import HeadSample, TokenScores
from .kept import Fields, Kept, KeptExamples, example_fields, joined
from .readers import UNIT, TopKeys, summary_bytes, summary_reader
from .token_means import TokenMeans

ARRAYS = ("pairs", "counts", "collected", "spread", "moments")
"""Names of the arrays that the first pass computes of each chunk."""


@shares_options(without=("level",))
def samples(
    model: Model,
    batch: Batches,
    *,
    top: int = 10,
    buckets: int = 5,
    each: int = 3,
    per_row: int = 8,
    avoid: Sequence[int] | None = None,
    **options: Unpack[Options],
) -> Samples:
    """Sample examples for every head of a stack, and count where it looks, in one pass over a stream.

    A head's score of an example is its largest weight between two counted positions. Counted are real tokens but
    special ones and a text's first, on which heads rest that have nothing to do; an image's patches; all frames. Every
    head gets the examples with its largest scores, and random ones of each fifth of its scores (as Anthropic's HeadVis
    has it). The examples that are shown run a second time, for their patterns.

    Samples and counts do not depend on the order of the examples, nor on devices and stops: equal scores, up to 1e-4,
    go by a hash of what the examples hold, and examples of equal content are shown once. Memory does not grow with the
    number of examples.

    Args:
        batch: one batch or any iterable of batches, which is read once.
        top: examples of each head with the largest scores.
        buckets: ranges of a head's scores that are equally frequent.
        each: random examples of each range.
        per_row: the largest weights that are kept of each query.
        avoid: ids of tokens that do not count; the tokenizer's special tokens when left out.
        options: shared by all questions: stack, seed, memory, devices, progress, resume.

    Returns:
        The samples, with histograms of offsets and of weights, the tokens that are attended and that attend, and mean
        and covariance of the heads' outputs.

    Raises:
        ValueError: for counts below 1, no example, packed texts, or a batch or stack that does not fit the model.
    """
    for name, value in {"top": top, "buckets": buckets, "each": each, "per_row": per_row}.items():
        whole(name, value, 1)
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    skipped = _special(model) if avoid is None else tuple(map(int, avoid))
    kept = KeptExamples(stack.layers * stack.heads, top, buckets, each, options.get("seed", 0))
    totals, lengths = _Totals(stack), Lengths(model)
    count = len(inputs_of(model, stack, batch)) if isinstance(batch, Batch) else None
    with show_progress(count, f"sampling {kept.heads} heads of {model.name}", resources.progress) as advance:
        for current in each_batch(batch, "batch"):
            model.check(current)
            model.check_runs(stack, current)
            [padded] = lengths.alike(inputs_of(model, stack, current).without("marks"), patterns=True)
            _summarise(resources, model, stack, padded, skipped, kept, totals, advance)
        if not totals.examples:
            raise ValueError("batch: expected at least one example; the iterable gave none")
        rows = _rows_of_chosen(resources, model, stack, kept, per_row)
    about = {"top": top, "buckets": buckets, "each": each, "per_row": per_row, "avoid": list(skipped)}
    about |= {"stack": stack.name, "examples": totals.examples, "seed": kept.seed}
    return Samples(
        stack.name,
        (stack.layers, stack.heads),
        _samples(stack, kept, rows),
        totals.examples,
        totals.queries,
        offset_labels(),
        *totals.histograms(),
        *totals.tokens(),
        *totals.moments(),
        provenance(model, **about),
        model.tokenizer,
    )


def _special(model: Model) -> tuple[int, ...]:
    """Return the ids of the tokenizer's special tokens."""
    return tuple(sorted(getattr(model.tokenizer, "all_special_ids", ())))


@dataclass(eq=False)
class _Totals:
    """Sums over all chunks so far."""

    stack: Stack
    examples: int = 0
    queries: int = 0
    sums: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        heads = self.stack.layers * self.stack.heads
        self.collected, self.spread = TokenMeans(heads, UNIT), TokenMeans(heads, UNIT)

    def add(
        self, arrays: Mapping[str, np.ndarray], ids: Sequence[np.ndarray | None], counted: Sequence[np.ndarray]
    ) -> None:
        """Add a chunk: its arrays, and the ids and masks of its queries and keys."""
        self.examples += len(arrays["pairs"])
        self.queries += int(counted[0].sum())
        for name in ("counts", "moments"):
            self.sums[name] = self.sums.get(name, 0) + arrays[name][0]
        for means, name, own, mask in zip(
            (self.spread, self.collected), ("spread", "collected"), ids, counted, strict=True
        ):
            if own is not None:
                values_MBS = np.moveaxis(arrays[name], 0, 2).reshape(-1, *mask.shape)
                means.add(own[mask], values_MBS[:, mask])

    def histograms(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the counts by offset and by weight."""
        counts, bins = self.sums["counts"].astype(np.int64), len(offset_labels())
        return counts[..., :bins], counts[..., bins:]

    def tokens(self) -> tuple[TokenScores | None, TokenScores | None]:
        """Return the tokens that are attended, and those that attend."""
        attended, attending = (self._token_scores(own) for own in (self.collected, self.spread))
        return attended, attending

    def _token_scores(self, means: TokenMeans) -> TokenScores | None:
        if not len(means.ids):
            return None
        return TokenScores(means.ids, means.counts, means.means.reshape(self.stack.layers, self.stack.heads, -1))

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and covariance of z."""
        moments = self.sums["moments"] / max(self.queries, 1)
        mean, second = moments[..., 0], moments[..., 1:]
        return mean, second - mean[..., :, None] * mean[..., None, :]


def _summarise(
    resources: Resources,
    model: Model,
    stack: Stack,
    batch: Batch,
    avoid: Sequence[int],
    kept: KeptExamples,
    totals: _Totals,
    advance: Any,
) -> None:
    """Run one batch, and add its chunks to what is kept and to the totals."""
    T, S, heads = stack.queries.count(batch), stack.keys.count(batch), stack.heads
    first, network = totals.examples, resources.network(model)
    masks = counted_positions(stack, batch, avoid)
    real = [np.asarray(axis.of(batch).mask) for axis in (stack.queries, stack.keys)]
    ids = [None if (own := axis.of(batch).ids) is None else np.asarray(own) for axis in (stack.queries, stack.keys)]

    def compute(examples: np.ndarray) -> dict[str, Array]:
        queries_BT = masks[0][examples] & is_new(examples)[:, None]
        inputs = batch.take(examples).model_inputs, to_device(queries_BT), to_device(masks[1][examples])
        return _summaries(network, *resources.devices.examples(inputs), stack.name)

    def add(examples: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        own_ids = [None if own is None else own[examples] for own in ids]
        totals.add(arrays, own_ids, [mask[examples] for mask in masks])
        pairs_BM3 = arrays["pairs"].reshape(len(examples), -1, 3)
        for end, mask in enumerate(real):
            position_BS = np.cumsum(mask[examples], axis=1) - 1
            columns_BM = pairs_BM3[..., 1 + end].astype(int)
            pairs_BM3[..., 1 + end] = np.take_along_axis(position_BS, columns_BM, axis=1)
        kept.add(first + examples, example_fields(batch, examples, trim=_trims(model)), pairs_BM3)
        advance(len(examples))

    example_bytes = summary_bytes(heads, stack.head_size, T, S, block_rows(1, heads, T, S))
    example_bytes += FLOAT * stack.layers * heads * (T + S)
    run_arrays(
        choose_chunks(resources, model, stack, batch, example_bytes=example_bytes),
        len(batch),
        ARRAYS,
        compute,
        add,
        resources=resources,
        journal=resources.journal("samples", model, batch, stack.name, tuple(avoid), first),
        first=first,
    )


@partial(compiled, static_argnames=("stack",), compiler_options=lean_options())
def _summaries(network: Network, batch: Batch, queries_BT: Array, keys_BS: Array, stack: str) -> dict[str, Array]:
    """Return the arrays of the first pass, `[B|1,L,N,…]`."""
    own = network.stack(stack)
    reader = summary_reader(own, counted(examples_of(own, batch)), queries_BT, keys_BS)
    return {
        name: array.swapaxes(0, 1) for name, array in forward(network, batch, (), {stack: reader})[1][stack].items()
    }


@partial(compiled, static_argnames=("stack", "count"), compiler_options=lean_options())
def _top_keys(network: Network, batch: Batch, stack: str, count: int) -> Array:
    """Return the largest weights of all rows and their keys' columns, `[B,L,2,N,T,k]`."""
    own = network.stack(stack)
    B, T = own.queries.of(batch).shape
    reader = TopKeys((B, own.heads, T), count)
    return forward(network, batch, (), {stack: reader})[1][stack].swapaxes(0, 1)


def _trims(model: Model) -> bool:
    """Whether examples may be stored without their padding."""
    # SigLIP's text model reads its padding; a network of a user's own may have been made for one length.
    return model.network.text_length is None and type(model.network).__module__.startswith("jaxheads.")


Rows = dict[tuple[int, int], tuple[np.ndarray, np.ndarray, int]]
"""Keys and weights of all queries, `[T,k]` each, and the number of keys, by an example's hash and a head's number."""


def _rows_of_chosen(resources: Resources, model: Model, stack: Stack, kept: KeptExamples, per_row: int) -> Rows:
    """Run the examples that heads have chosen once more, and return their rows."""
    heads_of: dict[int, set[int]] = defaultdict(set)
    for m, own in enumerate(kept.chosen()):
        for _, key in own:
            heads_of[key].add(m)
    groups: dict[tuple, list[int]] = defaultdict(list)
    for key in sorted(heads_of):
        sizes = _sizes(model, kept.kept[key])
        shapes = [array.shape for name, array in kept.kept[key].fields.items() if name in ("pixels", "features")]
        groups[(*sizes.items(), *shapes)].append(key)
    rows: Rows = {}
    for keys in groups.values():
        batch = joined([kept.kept[key].fields for key in keys], _sizes(model, kept.kept[keys[0]]))
        _add_rows(resources, model, stack, batch, keys, heads_of, per_row, rows)
    return rows


def _sizes(model: Model, kept: Kept) -> dict[str, int]:
    """Return the lengths that an example's sequences are padded to: few different ones."""
    context = getattr(model.config, "max_position_embeddings", None)

    def padded(length: int) -> int:
        size = max(LEAST, 1 << (length - 1).bit_length())
        return max(length, size if context is None else min(size, context))

    lengths = {name: len(kept.fields[name]) for name in ("tokens", "targets") if name in kept.fields}
    return {name: padded(length) if _trims(model) else length for name, length in lengths.items()}


def _add_rows(
    resources: Resources,
    model: Model,
    stack: Stack,
    batch: Batch,
    keys: Sequence[int],
    heads_of: Mapping[int, set[int]],
    per_row: int,
    rows: Rows,
) -> None:
    """Run a batch of kept examples, and add the rows of the heads that chose them."""
    T, S = stack.queries.count(batch), stack.keys.count(batch)
    count, network = min(per_row, S), resources.network(model)
    queries_BT, keys_BS = (np.asarray(axis.of(batch).mask) for axis in (stack.queries, stack.keys))

    def compute(examples: np.ndarray) -> dict[str, Array]:
        return {"rows": _top_keys(network, resources.devices.examples(batch.take(examples)), stack.name, count)}

    def add(examples: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        rows_BL2NTk = arrays["rows"]
        for b, example in enumerate(examples):
            position_S = np.append(np.cumsum(keys_BS[example]) - 1, -1)  # column -1 stays -1
            for m in heads_of[keys[example]]:
                layer, head = divmod(m, stack.heads)
                weights_Tk, columns_Tk = rows_BL2NTk[b, layer, :, head][:, queries_BT[example]]
                own_keys = position_S[columns_Tk.astype(int)].astype(np.int32)
                rows[keys[example], m] = own_keys, weights_Tk.astype(np.float32), int(keys_BS[example].sum())

    run_arrays(
        choose_chunks(
            resources, model, stack, batch, example_bytes=2 * FLOAT * stack.layers * stack.heads * T * count + 1
        ),
        len(batch),
        ("rows",),
        compute,
        add,
        resources=resources,
        journal=resources.journal("samples", model, batch, stack.name, "rows", count),
    )


def _samples(stack: Stack, kept: KeptExamples, rows: Rows) -> dict[tuple[int, int], tuple[HeadSample, ...]]:
    """Return the samples of each head."""
    field_of = {"tokens": ("tokens", "mask"), "targets": ("targets", "target_mask")}

    def ids(fields: Fields, kind: str) -> np.ndarray | None:
        name, mask = field_of.get(kind, ("", ""))
        return fields[name][fields[mask]].astype(np.int64) if name in fields else None

    def sample(m: int, kind: str, key: int) -> HeadSample:
        own = kept.kept[key]
        score, query, place = own.pairs[m]
        queries, keys = (ids(own.fields, axis.kind) for axis in (stack.queries, stack.keys))
        pair = float(score), int(query), int(place)
        return HeadSample(kind, own.number, *pair, queries, keys, *rows[key, m], not stack.is_cross)

    return {
        divmod(m, stack.heads): tuple(sample(m, kind, key) for kind, key in own) for m, own in enumerate(kept.chosen())
    }
