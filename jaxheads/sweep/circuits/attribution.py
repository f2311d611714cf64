"""Edges: how much each matters by itself, exactly or from gradients, and what is left when only some are kept."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ...progress import progress as show_progress
from ...statistics import rank_correlation
from ...tables import HeadTable
from ..answers import asked_of, effect_table
from ..chunks import Chunks, even, matmul_tokens
from ..patch import DIRECTIONS, check_pair
from .edges import Graph, Nodes, edge_gradients, judge, patch_each_edge, run_circuits, run_nodes

METHODS = ("eap", "eap-ig")
RULES = {"left": 0.0, "midpoint": 0.5, "right": 1.0}
ABLATIONS = ("patching", "zero", "mean")

Direction = Literal["denoising", "noising"]


def edge_attribution(
    model: Model,
    clean: Batch,
    corrupt: Batch,
    objective: Objective,
    *,
    method: Literal["eap", "eap-ig"] = "eap",
    rule: Literal["left", "right", "midpoint"] = "left",
    steps: int = 5,
    direction: Direction = "denoising",
    exact: bool = False,
    stack: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
    progress: bool = False,
) -> HeadTable:
    """The effect of patching each edge, estimated for all edges at once from gradients.

    An edge's score is `sum over positions of (other_u - own_u) · d objective / d in_v`: what its sender would say
    differently, times how the objective answers to its receiver's input. It estimates `patch_edges`, with the same
    signs: with "denoising" the corrupt run is edited with clean values, with "noising" the other way round.

    "eap" (Syed et al. 2023) takes the gradient in the run that is edited. The paper's scores, the clean run's gradient
    times corrupted minus clean, are those of `direction="noising"`. "eap-ig" (Hanna et al. 2024) averages gradients
    over `steps` runs whose embeddings lie between the two; the change stays that between the two real runs, so the
    direction only turns the sign, and the authors' is that of "noising".

    Args:
        clean, corrupt: of one shape, with padding in the same places.
        rule: which points "eap-ig" takes, from the corrupted end: "left" k/steps for k from 0, as the authors' code
            does; "right" the same from 1; "midpoint" (k + 1/2)/steps, whose error falls with steps².
        exact: patch every edge as well: adds the column `exact`, and to the provenance `spearman`, the rank
            correlation of the two over edges. Costs part of a forward pass for each edge and example.
        memory: bytes for the activations of one piece of work.

    Returns:
        A table over senders and receivers (named in `sender_node`, `receiver_node`), NaN where no edge is: `effect`,
        and `normalised`, the share of the objective's whole change from the run that is edited to the other.

    Raises:
        ValueError: for a model whose stream is no sum (post-norm), batches that don't fit each other, an objective
            that the model can't give, or an unknown option.
    """
    _one_of("method", method, METHODS)
    _one_of("rule", rule, tuple(RULES))
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    pair = _Pair.of(model, clean, corrupt, objective, direction, stack, level)
    ways: dict[str, Any] = {"method": method, "direction": direction}
    shares = np.zeros(1)
    if method == "eap-ig":
        ways |= {"rule": rule, "steps": steps}
        from_corrupt = (np.arange(steps) + RULES[rule]) / steps
        shares = from_corrupt if direction == "denoising" else 1 - from_corrupt
    effects = {"effect": pair.scores(shares, memory, progress)}
    if exact:
        effects["exact"] = pair.exact(memory, progress)
        ways["spearman"] = rank_correlation(*(values.mean(axis=0) for values in effects.values()))
    return pair.table("edge_attribution", effects, ways, level=level, seed=seed)


def patch_edges(
    model: Model,
    clean: Batch,
    corrupt: Batch,
    objective: Objective,
    *,
    direction: Direction = "denoising",
    stack: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
    progress: bool = False,
) -> HeadTable:
    """The effect of patching each edge by itself: its receiver hears of its sender what the other run's said.

    All that follows from the receiver is recomputed; what else the sender says, others hear as it was. Effects are
    `objective(edited) - objective(unedited)` of the run that is edited, the corrupt one with "denoising", the clean one
    with "noising". Arguments, the table and what raises are as in `edge_attribution`.
    """
    pair = _Pair.of(model, clean, corrupt, objective, direction, stack, level)
    effects = {"effect": pair.exact(memory, progress)}
    return pair.table("patch_edges", effects, {"direction": direction}, level=level, seed=seed)


def keep_edges(
    model: Model,
    clean: Batch,
    corrupt: Batch | None,
    objective: Objective,
    kept: np.ndarray,
    *,
    ablation: Literal["patching", "zero", "mean"] = "patching",
    stack: str | None = None,
    memory: int = 1 << 30,
    progress: bool = False,
) -> np.ndarray:
    """The objective `[G,E]` of the clean run when only the edges of a circuit are kept, for each of G circuits.

    Over an edge that is not kept its receiver hears, of its sender, what was said in the corrupt run.

    Args:
        corrupt: for "patching" of the clean batch's shape, with padding in the same places; for "mean" any batch; for
            "zero" none is needed.
        kept: bool `[G,U,V]`, in the order of `Graph.senders` and `Graph.receivers`; pairs that are no edges are passed
            over.
        ablation: what is heard instead: "patching" what the sender said in the corrupt run, "mean" its mean over the
            corrupt batch's examples and real positions, "zero" nothing.

    Raises:
        ValueError: as in `edge_attribution`, and for circuits of another shape.
    """
    part, graph = _graph(model, stack)
    kept = _circuits(graph, kept)
    _check_ablation(model, clean, corrupt, ablation)
    reads, senders = objective.reads(model, clean), len(graph.senders)
    streams = senders + 6 * graph.receivers_a_layer
    chunks = _chunks(part, clean, len(kept), streams, 2 * senders, memory)
    instead = _instead(model, part, graph, corrupt, ablation, chunks)
    found_GE = np.empty((len(kept), len(clean)))
    with show_progress(found_GE.size, f"running {len(kept)} circuits", progress) as advance:
        for examples in chunks.example_pieces(len(clean)):
            some = model.network, clean.take(examples), reads.take(examples)
            other_UBTD = instead(examples)
            for circuits in _pieces(len(kept), chunks.copies):
                cut_GVU = jnp.asarray(np.swapaxes(~kept[circuits] & graph.exists, 1, 2), jnp.float32)
                values = run_circuits(*some, cut_GVU, other_UBTD, stack=part.name, value=objective.value)
                found_GE[np.ix_(circuits, examples)] = np.asarray(values)
                advance(len(np.unique(circuits)) * len(np.unique(examples)))
    return found_GE


@dataclass(frozen=True)
class _Pair:
    """A run that is edited and the other, whose values it gets.

    Attributes:
        values: the objective of the two runs, `[2,E]`, filled in as they are run.
    """

    model: Model
    part: Stack
    graph: Graph
    edited: Batch
    other: Batch
    objective: Objective
    reads: Reads
    values: np.ndarray

    @classmethod
    def of(
        cls,
        model: Model,
        clean: Batch,
        corrupt: Batch,
        objective: Objective,
        direction: str,
        stack: str | None,
        level: float,
    ) -> "_Pair":
        """From the arguments of a question, checked."""
        _one_of("direction", direction, DIRECTIONS)
        if not 0 < level < 1:
            raise ValueError(f"level: expected a number between 0 and 1, got {level}")
        part, graph = _graph(model, stack)
        check_pair(model, clean, corrupt)
        edited, other = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
        reads = objective.reads(model, edited)
        return cls(model, part, graph, edited, other, objective, reads, np.empty((2, len(clean))))

    def scores(self, shares: np.ndarray, memory: int, progress: bool) -> np.ndarray:
        """Estimates of every edge's effect, `[E,C]`: from gradients in runs whose embeddings are so many parts of the
        other run's, averaged."""
        E = len(self.edited)
        sums_EUV = np.zeros((E, *self.graph.exists.shape))
        streams = 10 * self.graph.receivers_a_layer + 2 * len(self.graph.senders)
        with show_progress(E * len(shares), "gradients of all edges", progress) as advance:
            for examples in self._chunks(1, streams, memory).example_pieces(E):
                some, own, other = self._piece(examples)
                change_UBTD = other.said - own.said
                found_BVU = np.zeros((len(examples), *self.graph.exists.T.shape))
                for share in map(float, shares):
                    embedded = (1 - share) * own.said[0] + share * other.said[0]
                    found_BVU += np.asarray(edge_gradients(*some, embedded, change_UBTD, **self._static))
                    advance(len(np.unique(examples)))
                sums_EUV[examples] = np.swapaxes(found_BVU, 1, 2)
        return sums_EUV[:, self.graph.exists] / len(shares)

    def exact(self, memory: int, progress: bool) -> np.ndarray:
        """Every edge's effect, `[E,C]`."""
        E, edges = len(self.edited), int(self.graph.exists.sum())
        found_EUV = np.empty((E, *self.graph.exists.shape))
        chunks = self._chunks(edges, 0, memory)
        with show_progress(E * edges, f"patching {edges} edges", progress) as advance:
            for examples in chunks.example_pieces(E):
                some, own, other = self._piece(examples)
                change_UBTD = other.said - own.said
                for kind, layer, first, u_C, v_C in _pieces_of_edges(self.graph, chunks.copies):
                    edges_C = layer, jnp.asarray(u_C), jnp.asarray(v_C)
                    values_CB = patch_each_edge(*some, own, change_UBTD, *edges_C, kind=kind, **self._static)
                    found_EUV[examples[:, None], u_C[None], first + v_C[None]] = np.asarray(values_CB).T
                    advance(len({*zip(u_C, v_C, strict=True)}) * len(np.unique(examples)))
        return found_EUV[:, self.graph.exists] - self.values[0][:, None]

    def table(
        self, name: str, effects: Mapping[str, np.ndarray], ways: Mapping[str, Any], *, level: float, seed: int
    ) -> HeadTable:
        """Effects of edges `[E,C]` as a table over all senders and receivers."""
        exists = self.graph.exists
        unedited_E, other_E = self.values
        about = {**asked_of(self.model, self.objective, unedited_E), **ways, "edges": int(exists.sum())}
        names = np.meshgrid(self.graph.senders, self.graph.receivers, indexing="ij")
        return effect_table(
            name, self.part.name, {metric: self._grid(cells_EC) for metric, cells_EC in effects.items()}, about,
            axes=("sender", "receiver"), total=other_E - unedited_E, there=exists, level=level, seed=seed,
            extras=dict(zip(("sender_node", "receiver_node"), names, strict=True)),
        )  # fmt: skip

    def _grid(self, cells_EC: np.ndarray) -> np.ndarray:
        """Edges over all senders and receivers, `[E,U,V]`, NaN where there is none."""
        whole_EUV = np.full((len(cells_EC), *self.graph.exists.shape), np.nan)
        whole_EUV[:, self.graph.exists] = cells_EC
        return whole_EUV

    @property
    def _static(self) -> dict[str, Any]:
        return {"stack": self.part.name, "value": self.objective.value}

    def _piece(self, examples: np.ndarray) -> tuple[tuple[Any, Batch, Reads], Nodes, Nodes]:
        """Of these examples: network, the batch that is edited, what is read of it; its run, and the other."""
        network, reads = self.model.network, self.reads.take(examples)
        edited, other = self.edited.take(examples), self.other.take(examples)
        runs = [run_nodes(network, batch, stack=self.part.name) for batch in (edited, other)]
        for place, run in enumerate(runs):
            self.values[place, examples] = np.asarray(judge(network, run.post, reads, value=self.objective.value))
        return (network, edited, reads), runs[0], runs[1]

    def _chunks(self, copies: int, streams: int, memory: int) -> Chunks:
        """Pieces for work that holds so many streams a copy, beside what the two runs hold."""
        runs = 3 * len(self.graph.senders) + 6 * self.graph.layers
        return _chunks(self.part, self.edited, copies, streams, runs, memory)


def _chunks(part: Stack, batch: Batch, copies: int, streams: int, shared: int, memory: int) -> Chunks:
    """The largest pieces that fit the memory and the device's best matmul size; never less than one.

    Args:
        copies: of each example, at most.
        streams: floats a token of a copy holds, in units of D; `shared` likewise, of an example.
    """
    (examples, T), D = part.queries.of(batch).shape, part.width
    widest = max(leaf.shape[-1] for leaf in jax.tree.leaves(part.blocks))
    layer = 6 * D + 3 * widest + 3 * part.heads * (T + part.head_size)
    of_example, of_copy = 4 * T * shared * D, 4 * T * (streams * D + layer)
    most = max(1, min(matmul_tokens() // T, (memory - of_example) // of_copy))
    copies = even(copies, most)
    return Chunks(even(examples, min(most // copies, memory // (of_example + copies * of_copy))), copies)


def _pieces(count: int, size: int) -> Iterator[np.ndarray]:
    """Indices of each piece, all of one length: the last repeats its last."""
    return Chunks(size, 1).example_pieces(count)


def _pieces_of_edges(graph: Graph, size: int) -> Iterator[tuple[str, int, int, np.ndarray, np.ndarray]]:
    """Edges into one kind of a layer's receivers: kind, layer, the first such receiver; senders, and receivers from the
    first on; all of one length, the last repeating its last."""
    for kind, layer, receivers in graph.parts():
        u, v = np.nonzero(graph.exists[:, receivers])
        for piece in _pieces(len(u), size):
            yield kind, layer, receivers.start, u[piece], v[piece]


def _instead(
    model: Model, part: Stack, graph: Graph, corrupt: Batch | None, ablation: str, chunks: Chunks
) -> Callable[[np.ndarray], Array]:
    """From examples to what is heard over edges that are not kept, `[U,B|1,T|1,D]`."""

    def said(examples: np.ndarray) -> Array:
        assert corrupt is not None
        return run_nodes(model.network, corrupt.take(examples), stack=part.name).said

    if ablation == "patching":
        return said
    sums_UD, count = np.zeros((len(graph.senders), part.width)), 0.0
    if corrupt is not None and ablation == "mean":
        for piece in map(np.unique, chunks.example_pieces(len(corrupt))):
            real_BT = part.queries.of(corrupt.take(piece)).mask.astype(jnp.float32)
            said_UBTD = said(piece).astype(jnp.float32)
            sums_UD += np.asarray(jnp.einsum("ubtd,bt->ud", said_UBTD, real_BT))
            count += float(real_BT.sum())
    mean_UBTD = jnp.asarray(sums_UD / max(count, 1.0), jnp.float32)[:, None, None]
    return lambda _: mean_UBTD


def _graph(model: Model, stack: str | None) -> tuple[Stack, Graph]:
    part = model.stack(stack)
    if len(model.stacks) > 1:
        raise ValueError(f"edges are those of a model with one stack; {model.name} has {', '.join(model.stacks)}")
    return part, Graph.of(part)


def _circuits(graph: Graph, kept: np.ndarray) -> np.ndarray:
    kept = np.asarray(kept)
    if kept.dtype != bool or kept.ndim != 3 or kept.shape[1:] != graph.exists.shape or not len(kept):
        raise ValueError(
            f"kept must be bool [circuits, senders, receivers], at least one circuit by {graph.exists.shape}; "
            f"got {kept.dtype} {kept.shape}"
        )
    return kept


def _check_ablation(model: Model, clean: Batch, corrupt: Batch | None, ablation: str) -> None:
    _one_of("ablation", ablation, ABLATIONS)
    if corrupt is None and ablation != "zero":
        raise ValueError(f"ablation={ablation!r} takes what is heard instead from a corrupt batch; got none")
    model.check(clean)
    if corrupt is not None and ablation == "patching":
        check_pair(model, clean, corrupt)
    elif corrupt is not None:
        model.check(corrupt)


def _one_of(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {given!r}")
