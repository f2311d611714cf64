"""Attention flow: the maximum flow from a position of the last layer to each input (Abnar & Zuidema 2020).

Nodes of the network are the positions between layers; from position i after layer l to position j before it there is an
edge of capacity `Ā[l,i,j]`, with Ā = (A + I) / 2. A position's flow is the maximum flow to it, each input by itself,
and a row of flows is divided by its sum. NumPy in float64, for one example at a time.

Dimension key: L layers, T positions, P problems (one for each input).
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np

from ...checks import one_of
from ...extras import extra
from .rollout import with_residual

Solver = Literal["batched", "networkx"]

_ROUNDING = 1e-12
"""Capacities and excesses below this are taken as 0."""

_MOST_EDGES = 1 << 23
"""Most edges of all problems that are solved side by side."""


def flow_relevance(attention_ELTT: np.ndarray, rows_ET: np.ndarray, solver: Solver) -> np.ndarray:
    """Return the flow from each example's row of weights, `[E,T]`: the weighted sum of its positions' flows.

    Raises:
        ValueError: for an unknown solver.
    """
    tokens_ET = np.zeros(rows_ET.shape)
    for tokens_T, attention_LTT, row_T in zip(tokens_ET, attention_ELTT, rows_ET, strict=True):
        capacity_LTT = np.asarray(with_residual(jnp.asarray(attention_LTT)), np.float64)
        for position in np.flatnonzero(row_T):
            tokens_T += row_T[position] * flows(capacity_LTT, int(position), solver)
    return tokens_ET


def flows(capacity_LTT: np.ndarray, source: int, solver: Solver = "batched") -> np.ndarray:
    """Return the flow from `source`, after the last layer, to each input, divided by their sum: `[T]`.

    Args:
        capacity_LTT: Ā, layers from the input up.
        source: a position.
        solver: "networkx" is Edmonds and Karp's, one problem at a time; "batched" solves all of an example's side by
            side. Both are exact up to rounding.

    Raises:
        ValueError: for an unknown solver.
    """
    one_of("solver", solver, SOLVERS)
    flow_T = SOLVERS[solver](np.asarray(capacity_LTT, np.float64), source)
    return flow_T / flow_T.sum()


def networkx_flows(capacity_LTT: np.ndarray, source: int) -> np.ndarray:
    """Return maximum flows to each input, `[T]`, one problem at a time."""
    nx = extra("networkx", 'solver="networkx"')
    L, T, _ = capacity_LTT.shape
    graph = nx.DiGraph()
    graph.add_nodes_from((0, sink) for sink in range(T))
    for layer, start, end in np.argwhere(capacity_LTT > 0):
        graph.add_edge((layer + 1, start), (layer, end), capacity=capacity_LTT[layer, start, end])
    if (L, source) not in graph:
        return np.zeros(T)
    edmonds_karp = nx.algorithms.flow.edmonds_karp
    return np.array([nx.maximum_flow_value(graph, (L, source), (0, sink), flow_func=edmonds_karp) for sink in range(T)])


def batched_flows(capacity_LTT: np.ndarray, source: int) -> np.ndarray:
    """Return maximum flows to each input, `[T]`, several problems side by side."""
    L, T, _ = capacity_LTT.shape
    size = max(1, _MOST_EDGES // (L * T * T))
    flows = [
        _Preflow(capacity_LTT, source, np.arange(start, min(start + size, T))).solve() for start in range(0, T, size)
    ]
    return np.concatenate(flows)


SOLVERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"batched": batched_flows, "networkx": networkx_flows}


class _Preflow:
    """Maximum flow from one source to several sinks by preflows (Goldberg & Tarjan 1988), in phases.

    A phase finds every node's distance to its sink in the residual network, then pushes excess along shortest paths,
    from the furthest nodes to the nearest. Excess that can reach no sink any more stays where it is: the sink then has
    received the maximum flow.

    Attributes:
        down: residual capacity from node i above layer l to node j below it, `[P,L,T,T]`.
        up: flow on that edge, which can be pushed back, `[P,L,T,T]`.
        excess: flow into each node less flow out of it, `[P,L+1,T]`.
    """

    def __init__(self, capacity_LTT: np.ndarray, source: int, sinks: np.ndarray):
        L, T, _ = capacity_LTT.shape
        self.problems, self.sinks = np.arange(len(sinks)), sinks
        self.down = np.repeat(capacity_LTT[None], len(sinks), axis=0)
        self.up = np.zeros_like(self.down)
        self.excess = np.zeros((len(sinks), L + 1, T))
        # the source's edges are saturated at once, and nothing needs to return to it
        self.excess[:, L - 1] = capacity_LTT[L - 1, source]
        self.down[:, L - 1, source] = 0

    def solve(self) -> np.ndarray:
        """Return the maximum flows, `[P]`."""
        while True:
            distance = self._distances()
            active = (self.excess > _ROUNDING) & np.isfinite(distance) & (distance > 0)
            if not active.any():
                return self.excess[self.problems, 0, self.sinks]
            for far in range(int(distance[active].max()), 0, -1):
                self._push(distance, far)

    def _distances(self) -> np.ndarray:
        """Return the number of residual edges from each node to its problem's sink, `[P,L+1,T]`; inf without a path."""
        distance = np.full(self.excess.shape, np.inf)
        distance[self.problems, 0, self.sinks] = 0
        can_push, can_return = self.down > _ROUNDING, self.up > _ROUNDING
        while True:
            before = distance.copy()
            below = np.where(can_push, distance[:, :-1, None, :], np.inf).min(axis=3) + 1
            distance[:, 1:] = np.minimum(distance[:, 1:], below)
            above = np.where(can_return, distance[:, 1:, :, None], np.inf).min(axis=2) + 1
            distance[:, :-1] = np.minimum(distance[:, :-1], above)
            if np.array_equal(before, distance):
                return distance

    def _push(self, distance: np.ndarray, far: int) -> None:
        """Push as much excess as capacities allow from nodes at distance `far` to nodes nearer by one."""
        here, nearer = distance == far, distance == far - 1
        pushed = _fill(self.excess[:, 1:], np.where(here[:, 1:, :, None] & nearer[:, :-1, None, :], self.down, 0.0))
        self._add_flow(pushed)
        back = np.where(here[:, :-1, None, :] & nearer[:, 1:, :, None], self.up, 0.0)
        returned = _fill(self.excess[:, :-1], np.swapaxes(back, 2, 3))
        self._add_flow(-np.swapaxes(returned, 2, 3))

    def _add_flow(self, flow: np.ndarray) -> None:
        self.down -= flow
        self.up += flow
        self.excess[:, 1:] -= flow.sum(axis=3)
        self.excess[:, :-1] += flow.sum(axis=2)


def _fill(excess: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Distribute each node's excess over its edges, filling one after the other."""
    before = np.cumsum(capacity, axis=-1) - capacity
    return np.clip(excess[..., None] - before, 0.0, capacity)
