"""Markov chains learned in context: statistical induction.

Dimension key: `T` positions, `K` states, `G` orders of the states on a circle.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import permutations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import at_least, checked
from .configs import attention_only
from .task import Drawn, Independent, require

CHAINS = 1 << 13
"""Number of chains that the losses are means over."""


@checked()
@dataclass(frozen=True)
class Markov(Independent):
    """Each example is a new chain: the rows of its transition matrix are Dirichlet(1), its start is stationary.

    The model must count the successors of the current state so far (Edelman et al. 2024). Models first predict all
    states equally, then the chain's most frequent states (unigram), then the current state's successors (bigram): a
    statistical induction head, in the second layer, attends to all states after copies of the current one. All
    positions are scored. For K ≥ 8 and T ≤ 100 the unigram is worse than uniform, and the three phases cannot be seen.

    The mark "target" `[B,T,S]` is True at the keys after an earlier copy of the query's state.

    The control's matrices are doubly stochastic: all states are equally frequent, so no unigram can be learned first.
    The states lie on a circle in random order, and each row is one Dirichlet(1) draw rotated to its state; for K = 2
    these are all doubly stochastic matrices.

    Attributes:
        states: K.
        length: T; one more token is drawn, the last target.
        doubly_stochastic: whether columns sum to 1 as well.
    """

    states: int = 3
    length: int = 100
    doubly_stochastic: bool = False
    kind = "decoder"

    def __post_init__(self):
        require(self.states >= 2 and self.length >= 10, "a chain needs 2 states and 10 positions or more", self)
        # The control's Bayes predictor goes through all labellings.
        require(self.states <= 7 or not self.doubly_stochastic, "doubly stochastic chains have at most 7 states", self)

    @property
    def name(self) -> str:
        return f"markov-{self.states}" + ("-control" if self.doubly_stochastic else "")

    @property
    def vocabulary(self) -> int:
        return self.states

    @property
    def optimum(self) -> float:
        """The loss of `bayes`, a mean over 8,192 chains; each position's loss is an expectation over the next state.

        Its standard error is 0.001 for K = 2 and less for more states. `bayes` ignores that the start is drawn from the
        stationary law; using it would gain at most (ln K − E H(stationary law)) / T a position, 0.0013 for K = 2 and 3,
        and less for 5. For the control it is exact.
        """
        return _losses(self)["bayes"]

    @property
    def anchors(self) -> Mapping[str, float]:
        """Losses of other predictors, means over chains as the optimum.

        "uniform", ln K; "unigram" and "bigram", both with Laplace's rule; "bigram_late", in the last 10 positions;
        "oracle", which uses the matrix.
        """
        losses = {name: loss for name, loss in _losses(self).items() if name != "bayes"}
        return {"uniform": math.log(self.states)} | losses

    def draw(self, key: Array) -> Drawn:
        """Draw one example."""
        tokens, _ = self.chain(key)
        now_T = tokens[:-1]
        at_T = jnp.arange(self.length)
        same_TS = now_T[:, None] == jnp.roll(now_T, 1)[None, :]
        target_TS = same_TS & (at_T > 0)[None, :] & (at_T[None, :] <= at_T[:, None])
        return Drawn({"tokens": now_T, "marks": {"target": target_TS}}, tokens[1:], jnp.ones(self.length))

    def chain(self, key: Array) -> tuple[Array, Array]:
        """Draw tokens `[T+1]`, and the transition matrix `[K,K]` they come from."""
        matrix_key, start_key, walk_key = jax.random.split(key, 3)
        matrix_KK = self._matrix(matrix_key)
        start = _pick(_stationary(matrix_KK), jax.random.uniform(start_key))

        def step(state: Array, chance: Array) -> tuple[Array, Array]:
            following = _pick(matrix_KK[state], chance)
            return following, following

        _, rest_T = jax.lax.scan(step, start, jax.random.uniform(walk_key, (self.length,)))
        return jnp.concatenate([start[None], rest_T]), matrix_KK

    def _matrix(self, key: Array) -> Array:
        K = self.states
        if not self.doubly_stochastic:
            return _simplex(key, (K, K))
        row_key, label_key = jax.random.split(key)
        labels_K = jax.random.permutation(label_key, K)
        return _simplex(row_key, (K,))[(labels_K[None, :] - labels_K[:, None]) % K]

    @checked()
    def bayes(self, tokens: Array) -> Array:
        """Return the posterior predictive of the next state at each position of a chain `[T]`, `[T,K]`.

        It averages over the matrices. Without double stochasticity it is Laplace's rule, (n_ij + 1) / (n_i + K).
        """
        return _circular(self.states, tokens) if self.doubly_stochastic else bigram(self.states, tokens)

    def control(self) -> "Markov":
        """Return the control: doubly stochastic chains."""
        return replace(self, doubly_stochastic=True)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return two attention-only layers of one head, as Edelman et al.; `n_layers=1` stops at the unigram."""
        return attention_only(self.vocabulary, self.length, changes, d_model=32, n_heads=1)


@checked(states=at_least(1))
def unigram(states: int, tokens: Array) -> Array:
    """Predict by Laplace's rule from the states' counts, at each position of a chain `[T]`: `[T,K]`."""

    def step(counts_K: Array, now_K: Array) -> tuple[Array, Array]:
        counts_K = counts_K + now_K
        return counts_K, _laplace(counts_K)

    return jax.lax.scan(step, jnp.zeros(states), jax.nn.one_hot(tokens, states))[1]


@checked(states=at_least(1))
def bigram(states: int, tokens: Array) -> Array:
    """Predict by Laplace's rule from the current state's successors, at each position of a chain `[T]`: `[T,K]`."""

    def step(carry: tuple[Array, Array], now_K: Array) -> tuple[tuple[Array, Array], Array]:
        counts_KK, before_K = carry
        counts_KK = counts_KK + before_K[:, None] * now_K[None, :]
        return (counts_KK, now_K), _laplace((now_K[:, None] * counts_KK).sum(axis=0))

    start = jnp.zeros((states, states)), jnp.zeros(states)
    return jax.lax.scan(step, start, jax.nn.one_hot(tokens, states))[1]


def _laplace(counts: Array) -> Array:
    return (counts + 1) / (counts.sum(axis=-1, keepdims=True) + counts.shape[-1])


def _circular(states: int, tokens: Array) -> Array:
    """Predict the control's next state by Bayes' rule, at each position of a chain `[T]`: `[T,K]`.

    In each order of the states on the circle Laplace's rule predicts the step along it; the orders are weighted by the
    likelihood of the chain so far.
    """
    K = states
    # Rotating the circle changes no step, so the first state is fixed.
    orders_GK = jnp.asarray([(0, *rest) for rest in permutations(range(1, K))], jnp.int32)
    G = len(orders_GK)

    def law(counts_GK: Array, evidence_G: Array, token: Array) -> Array:
        steps_GK = (orders_GK - orders_GK[:, token][:, None]) % K
        rule_GK = jnp.take_along_axis(_laplace(counts_GK), steps_GK, axis=1)
        return (jax.nn.softmax(evidence_G)[:, None] * rule_GK).sum(axis=0)

    def step(carry: tuple[Array, Array], pair: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        counts_GK, evidence_G = carry
        before, now = pair
        taken_GK = jax.nn.one_hot((orders_GK[:, now] - orders_GK[:, before]) % K, K)
        evidence_G = evidence_G + jnp.log((taken_GK * _laplace(counts_GK)).sum(axis=1))
        counts_GK = counts_GK + taken_GK
        return (counts_GK, evidence_G), law(counts_GK, evidence_G, now)

    start = jnp.zeros((G, K)), jnp.zeros(G)
    rest_TK = jax.lax.scan(step, start, (tokens[:-1], tokens[1:]))[1]
    return jnp.concatenate([law(*start, tokens[0])[None], rest_TK])


def _simplex(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw Dirichlet(1) along the last axis: normalised exponentials."""
    exponentials = jax.random.exponential(key, shape)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _pick(law_K: Array, chance: Array) -> Array:
    return (chance > jnp.cumsum(law_K)[:-1]).sum().astype(jnp.int32)


def _stationary(matrix_KK: Array) -> Array:
    # π(I − P) = 0 and π·1 = 1, added up: one equation, and never singular for an irreducible chain.
    K = len(matrix_KK)
    return jnp.linalg.solve((jnp.eye(K) - matrix_KK + 1.0).T, jnp.ones(K))


@cache
def _losses(task: Markov) -> dict[str, float]:
    """Return the predictors' mean losses over chains, with the rows' mean entropy as a control variate."""
    keys = jax.random.split(jax.random.key(0), CHAINS)
    per_chain = np.asarray(jax.jit(jax.vmap(partial(_losses_of, task)))(keys), np.float64)
    losses, entropy = per_chain[:, :-1], per_chain[:, -1] - per_chain[:, -1].mean()
    # The expected entropy of a Dirichlet(1) row is H_K − 1, the K-th harmonic number less one.
    excess = per_chain[:, -1].mean() - sum(1 / state for state in range(2, task.states + 1))
    slopes = entropy @ losses / (entropy @ entropy)
    uni, bi, late, bayes, oracle = (losses.mean(axis=0) - slopes * excess).tolist()
    return {"unigram": uni, "bigram": bi, "bigram_late": late, "bayes": bayes, "oracle": oracle}


def _losses_of(task: Markov, key: Array) -> Array:
    """Return one chain's losses, in expectation over each next state, then the mean entropy of its rows."""
    tokens, matrix_KK = task.chain(key)
    now_T, K = tokens[:-1], task.states
    truth_TK = matrix_KK[now_T]

    def nll(law_TK: Array) -> Array:
        return -jax.scipy.special.xlogy(truth_TK, law_TK).sum(axis=1)

    bigram_T = nll(bigram(K, now_T))
    bayes_T = nll(task.bayes(now_T)) if task.doubly_stochastic else bigram_T
    losses = (nll(unigram(K, now_T)), bigram_T, bigram_T[-10:], bayes_T, nll(truth_TK))
    entropy = -jax.scipy.special.xlogy(matrix_KK, matrix_KK).sum(axis=1).mean()
    return jnp.stack([*(loss.mean() for loss in losses), entropy])
