"""A batch's texts, chunk by chunk of its examples and copies, segment by segment of their steps.

Dimension key: E examples, B examples of a chunk, C edited copies, T steps, W steps of a segment, L layers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..execution.batching import Chunks
from ..execution.cost import forward_bytes
from ..execution.example_edits import placed_edits, take_edits
from ..execution.resources import Resources
from ..measure.example_chunks import run_arrays
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.network import Network
from ..models.sites import SITES, SiteEdit
from ..models.stack import Stack
from ..programs import to_device
from .beams import Beams, BeamSteps, begin_search, search_on
from .choosing import Sampling
from .prompts import Prompts
from .segments import SEGMENT, Sites, State, Steps, begin, go_on, marked_done
from .stops import Stops


@dataclass(frozen=True)
class Writer:
    """A question of text that every batch is asked.

    Attributes:
        steps: T, the number of tokens to write.
        sampling: how tokens are chosen; None for the likeliest.
        stops: what ends a text.
        sites: what is captured.
        logits: whether logits are kept.
        seed: of the random numbers.
        copies: C, the number of edited copies; None without an axis of copies.
    """

    model: Model
    steps: int
    stops: Stops
    sampling: Sampling | Beams | None = None
    sites: Sites = ()
    logits: bool = False
    seed: int = 0
    copies: int | None = None

    @property
    def _beams(self) -> int:
        # A search holds the beams as they were and as they go on.
        return 2 * self.sampling.count if isinstance(self.sampling, Beams) else 1

    @property
    def segments(self) -> tuple[int, int]:
        """The number of segments, and W, the steps of each."""
        count = -(-self.steps // SEGMENT)
        return count, -(-self.steps // count)

    def check(self) -> None:
        """Raise ValueError for what a beam search does not give: logits, captured sites, ends by a string."""
        if isinstance(self.sampling, Beams) and (self.logits or self.sites or self.stops.strings):
            raise ValueError(
                "sample: a beam search goes back to other beams at every step: expected no logits, capture or strings "
                "in stop beside jh.Beams; read those of its text by jh.run(model, writing.batch)"
            )

    def prompts(self, batch: Batch) -> Prompts:
        """Return a batch's prompts, with room for the text."""
        count, size = self.segments
        return Prompts.of(self.model, batch, count * size)

    def write(
        self,
        prompts: Prompts,
        edits: tuple[SiteEdit, ...],
        resources: Resources,
        first: int = 0,
        advance: Callable[[int], None] = lambda _: None,
    ) -> dict[str, np.ndarray]:
        """Write all texts of a batch.

        Args:
            edits: with copies, those of all copies, on a leading axis.
            first: the number of the first example in its stream.

        Returns:
            By name `[E,…]` or `[C,E,…]`: "tokens" and "lengths", "logits", and captured sites with layers behind the
            examples; NaN after a text's end.
        """
        E = len(prompts.whole)
        chunks = self.chunks(prompts, resources)
        parts: dict[str, list[np.ndarray]] = {}

        def compute(examples: np.ndarray) -> dict[str, np.ndarray]:
            own = [self._edits(edits, examples, copies) for copies in self._copy_chunks(chunks)]
            some = [self.chunk(prompts, each, examples, resources, first) for each in own]
            return {name: self._of_copies([arrays[name] for arrays in some]) for name in some[0]}

        def add(examples: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
            for name, values in arrays.items():
                parts.setdefault(name, []).append(values)
            advance(len(examples))

        identity = (prompts.whole, edits, self.steps, self.sampling, self.stops.identity, self.sites, self.logits)
        journal = resources.journal("generate", self.model, *identity, self.seed, first)
        names = ("tokens", "lengths", *(("logits",) if self.logits else ()), *(name for name, _, _ in self.sites))
        run_arrays(chunks, E, names, compute, add, resources=resources, journal=journal, first=first)
        whole = {name: np.concatenate(values) for name, values in parts.items()}
        integers = {name: whole.pop(name).astype(np.int32) for name in ("tokens", "lengths")}
        # The journal's numbers have 64 bits; what was computed has 32.
        whole = integers | {name: values.astype(np.float32) for name, values in whole.items()}
        return whole if self.copies is None else {name: np.moveaxis(own, 1, 0) for name, own in whole.items()}

    def cache_bytes(self, prompts: Prompts) -> int:
        """Return the bytes of the keys and values that are kept for one example of one copy."""
        last = self.model.network.streams[-1]
        kept = _bytes_of(last, prompts.length + self.steps)
        return kept if last.cross is None else kept + _bytes_of(last.cross, last.cross.keys.count(prompts.whole))

    def chunks(self, prompts: Prompts, resources: Resources) -> Chunks:
        """Return the examples and copies that are written together."""
        widest = max(forward_bytes(stream, prompts.whole) for stream in self.model.network.streams)
        return Chunks.fitting(
            len(prompts.whole),
            self.copies or 1,
            # A step has one token of each example: only the prompt fills matrix units by itself.
            tokens=-(-prompts.length // 16),
            copy_bytes=self._beams * self.cache_bytes(prompts) + widest,
            memory=resources.memory,
            multiples=resources.devices.multiples if self.copies else (resources.devices.multiples[0], 1),
        )

    def _copy_chunks(self, chunks: Chunks) -> Iterator[np.ndarray | None]:
        if self.copies is None:
            yield None
            return
        yield from chunks.copy_chunks(self.copies)

    def _edits(
        self, edits: tuple[SiteEdit, ...], examples: np.ndarray, copies: np.ndarray | None
    ) -> tuple[SiteEdit, ...]:
        """Return the edits of a chunk's examples and copies."""
        if copies is None:
            return take_edits(edits, examples)
        return jax.tree.map(lambda array: array[copies], take_edits(edits, examples, axis=2))

    def _of_copies(self, chunks: Sequence[np.ndarray]) -> np.ndarray:
        """Return the values of all copies, `[B,C,…]`, of chunks `[C,B,…]` of which the last has fillers."""
        if self.copies is None:
            return chunks[0]
        return np.moveaxis(np.concatenate(chunks)[: self.copies], 0, 1)

    def chunk(
        self,
        prompts: Prompts,
        edits: tuple[SiteEdit, ...],
        examples: np.ndarray,
        resources: Resources,
        first: int = 0,
    ) -> dict[str, np.ndarray]:
        """Write the texts of some examples: arrays `[B,…]` or `[C,B,…]` by name, nothing after a text's end.

        Args:
            edits: those of these examples, with copies on a leading axis.
            first: the number of the batch's first example in its stream.
        """
        devices, copied, field = resources.devices, self.copies is not None, prompts.field
        network, numbers_B = resources.network(self.model), first + examples
        whole_batch = np.array_equal(examples, np.arange(len(prompts.whole)))
        prompts = prompts if whole_batch else prompts.take(examples)
        edits = devices.copies(edits) if copied else placed_edits(devices, edits)
        read, whole = devices.examples(prompts.read), devices.examples(prompts.whole)
        (count, size), stops = self.segments, self.stops
        # The last column of the text is never read: it needs no room.
        columns, ids = prompts.length + count * size, getattr(whole, field)
        state = begin(network, read, ids, edits, columns=columns, copies=copied)
        if isinstance(self.sampling, Beams):
            return self._searched(network, prompts, whole, state, edits, self.sampling, resources)
        settings = Steps(size, field, self.sampling, stops.tokens, stops.padding, self.sites, self.logits)
        key, numbers = jax.random.key(self.seed), devices.examples(to_device(numbers_B, np.int32))
        written: list[dict[str, np.ndarray]] = []
        for segment in range(count):
            at = (jnp.int32(prompts.length - 1 + segment * size), jnp.int32(segment * size))
            state, steps = go_on(network, whole, state, edits, key, numbers, *at, steps=settings, copies=copied)
            written.append({name: self._examples_first(name, devices.fetch(own)) for name, own in steps.items()})
            if stops.any and segment < count - 1:
                done = self._ended(np.concatenate([own["tokens"] for own in written], axis=-1))
                if done.all():
                    break
                if stops.strings:
                    state = marked_done(state, jnp.asarray(done))
        return self._cut(written)

    def _searched(
        self,
        network: Network,
        prompts: Prompts,
        whole: Batch,
        state: State,
        edits: tuple[SiteEdit, ...],
        beams: Beams,
        resources: Resources,
    ) -> dict[str, np.ndarray]:
        """Return the likeliest texts that a beam search finds."""
        copied, (count, size) = self.copies is not None, self.segments
        search = begin_search(state, width=beams.count, copies=copied)
        settings = BeamSteps(size, self.steps - 1, prompts.field, beams, self.stops.tokens)
        for segment in range(count):
            at = (jnp.int32(prompts.length - 1 + segment * size), jnp.int32(segment * size))
            search = search_on(network, whole, search, edits, *at, steps=settings, copies=copied)
            if not resources.devices.fetch(search.open).any():
                break
        ids = resources.devices.fetch(search.ended_ids)[..., 0, prompts.length :]
        return self._cut([{"tokens": ids}])

    def _examples_first(self, name: str, values: np.ndarray) -> np.ndarray:
        """Return a segment's values with examples (after copies) first, and its steps where the queries are."""
        c = int(self.copies is not None)
        if name in ("tokens", "logits"):
            return np.moveaxis(values, c, c + 1)  # [W,B,…]
        query = self._query_axis(name)
        # [W,L,B,…] with one query becomes [B,L,…] with W queries.
        values = np.moveaxis(np.squeeze(values, query + 1), c, query)
        return np.moveaxis(values, c + 1, c)

    def _query_axis(self, name: str) -> int:
        """Return the axis of queries of what was captured, behind those of copies, examples and layers."""
        site = next(site for known, _, site in self.sites if known == name)
        return int(self.copies is not None) + 1 + SITES[site].index("T")

    def _ended(self, tokens: np.ndarray) -> np.ndarray:
        rows = tokens.reshape(-1, tokens.shape[-1])
        return self.stops.has_ended(rows).reshape(tokens.shape[:-1])

    def _cut(self, written: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the segments' values together, with nothing after a text's end."""
        c = int(self.copies is not None)
        tokens = np.concatenate([own["tokens"] for own in written], axis=-1)[..., : self.steps]
        tokens = _filled(tokens, self.steps, -1, self.stops.padding)
        lengths = self.stops.lengths(tokens.reshape(-1, self.steps)).reshape(tokens.shape[:-1])
        past = np.arange(self.steps) >= lengths[..., None]
        arrays = {"tokens": np.where(past, self.stops.padding, tokens), "lengths": lengths}
        for name in written[0]:
            if name == "tokens":
                continue
            axis = c + 1 if name == "logits" else self._query_axis(name)
            values = np.concatenate([own[name] for own in written], axis=axis)
            values = _filled(
                np.take(values, range(min(self.steps, values.shape[axis])), axis), self.steps, axis, np.nan
            )
            shape = [*past.shape[:-1], *(1 for _ in range(values.ndim - past.ndim + 1))]
            shape[axis] = self.steps
            arrays[name] = np.where(past.reshape(shape), np.nan, values)
        return arrays


def _filled(values: np.ndarray, size: int, axis: int, value: Any) -> np.ndarray:
    """Return an array whose axis is filled up to a size."""
    width = [(0, 0)] * values.ndim
    width[axis] = (0, size - values.shape[axis])
    return np.pad(values, width, constant_values=value)


def _bytes_of(stack: Stack, positions: int) -> int:
    """Return the bytes of a stack's keys and values at all layers, of one example."""
    heads, size = stack.kv_heads, stack.blocks.attention.W_K.dtype.itemsize
    attention = stack.blocks.attention
    values = attention.W_V.shape[-1]
    return stack.layers * positions * heads * (stack.head_size + values) * size
