"""Attention flow: the most that can run from a position of the last layer to each input (Abnar & Zuidema 2020).

Positions of the streams between layers are the nodes of a network; from position i after layer l to position j before
it leads a pipe as wide as `Ā[l,i,j]`, Ā = (A + I) / 2. A position's flow is the maximum flow to it, each input by
itself, and a row of flows is divided by its sum. NumPy in float64, for one example at a time.

Dimension key: L layers, T positions, P problems (one for each input that is asked of).
"""

from collections.abc import Callable
from typing import Literal

import networkx as nx
import numpy as np

Solver = Literal["batched", "networkx"]

_NOTHING = 1e-12
"""What a pipe or a node holds of less than this is rounding."""

_NUMBERS = 1 << 23
"""Pipes of all problems that are solved side by side."""


def flows(pipes_LTT: np.ndarray, source: int, solver: Solver = "batched") -> np.ndarray:
    """The flow from `source`, after the last layer, to each input, divided by their sum: `[T]`.

    Args:
        pipes_LTT: Ā, layers from the input up.
        solver: "networkx" is Edmonds and Karp's, one problem after the other; "batched" solves all of an example's side
            by side. Both are exact up to rounding.

    Raises:
        ValueError: for an unknown solver.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}; got {solver!r}")
    found_T = SOLVERS[solver](np.asarray(pipes_LTT, np.float64), source)
    return found_T / found_T.sum()


def networkx_flows(pipes_LTT: np.ndarray, source: int) -> np.ndarray:
    """Maximum flows to each input, `[T]`, one at a time."""
    L, T, _ = pipes_LTT.shape
    graph = nx.DiGraph()
    graph.add_nodes_from((0, at) for at in range(T))
    for layer, start, end in np.argwhere(pipes_LTT > 0):
        graph.add_edge((layer + 1, start), (layer, end), capacity=pipes_LTT[layer, start, end])
    if (L, source) not in graph:
        return np.zeros(T)
    edmonds_karp = nx.algorithms.flow.edmonds_karp
    return np.array([nx.maximum_flow_value(graph, (L, source), (0, at), flow_func=edmonds_karp) for at in range(T)])


def batched_flows(pipes_LTT: np.ndarray, source: int) -> np.ndarray:
    """The same, several inputs' problems side by side."""
    L, T, _ = pipes_LTT.shape
    size = max(1, _NUMBERS // (L * T * T))
    parts = [_Problems(pipes_LTT, source, np.arange(at, min(at + size, T))).solve() for at in range(0, T, size)]
    return np.concatenate(parts)


SOLVERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"batched": batched_flows, "networkx": networkx_flows}


class _Problems:
    """Maximum flow as a preflow (Goldberg & Tarjan 1988), in phases: find every node's distance to its sink in the
    residual network, then push what nodes hold along shortest ways, from the furthest nodes to the nearest. What can
    reach no sink any more stays where it is: the sink then holds the maximum flow.

    `down[p,l,i,j]` is the room left from node i above layer l to node j below it, `up[p,l,i,j]` what could be taken
    back from j to i; `held[p,l,i]` is what node i of level l holds.
    """

    def __init__(self, pipes_LTT: np.ndarray, source: int, sinks: np.ndarray):
        L, T, _ = pipes_LTT.shape
        self.problems, self.sinks = np.arange(len(sinks)), sinks
        self.down = np.repeat(pipes_LTT[None], len(sinks), axis=0)
        self.up = np.zeros_like(self.down)
        self.held = np.zeros((len(sinks), L + 1, T))
        self.held[:, L - 1] = pipes_LTT[L - 1, source]
        self.down[:, L - 1, source] = 0  # all that the source can give is given; nothing needs to come back to it

    def solve(self) -> np.ndarray:
        """The maximum flows, `[P]`."""
        while True:
            distance = self._distances()
            waiting = (self.held > _NOTHING) & np.isfinite(distance) & (distance > 0)
            if not waiting.any():
                return self.held[self.problems, 0, self.sinks]
            for far in range(int(distance[waiting].max()), 0, -1):
                self._push(distance, far)

    def _distances(self) -> np.ndarray:
        """How many pipes with room lie from each node to its problem's sink, `[P,L+1,T]`; infinite without a way."""
        distance = np.full(self.held.shape, np.inf)
        distance[self.problems, 0, self.sinks] = 0
        room, taken = self.down > _NOTHING, self.up > _NOTHING
        while True:
            before = distance.copy()
            below = np.where(room, distance[:, :-1, None, :], np.inf).min(axis=3) + 1
            distance[:, 1:] = np.minimum(distance[:, 1:], below)
            above = np.where(taken, distance[:, 1:, :, None], np.inf).min(axis=2) + 1
            distance[:, :-1] = np.minimum(distance[:, :-1], above)
            if np.array_equal(before, distance):
                return distance

    def _push(self, distance: np.ndarray, far: int) -> None:
        """From the nodes that are so far, all they hold or there is room for, to nodes that are nearer by one."""
        here, nearer = distance == far, distance == far - 1
        sent = _greedily(self.held[:, 1:], np.where(here[:, 1:, :, None] & nearer[:, :-1, None, :], self.down, 0.0))
        self._move(sent)
        back = np.where(here[:, :-1, None, :] & nearer[:, 1:, :, None], self.up, 0.0)
        returned = _greedily(self.held[:, :-1], np.swapaxes(back, 2, 3))
        self._move(-np.swapaxes(returned, 2, 3))

    def _move(self, sent: np.ndarray) -> None:
        self.down -= sent
        self.up += sent
        self.held[:, 1:] -= sent.sum(axis=3)
        self.held[:, :-1] += sent.sum(axis=2)


def _greedily(held: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Of what each node holds, what goes into each of its pipes, filled one after the other."""
    before = np.cumsum(room, axis=-1) - room
    return np.clip(held[..., None] - before, 0.0, room)
