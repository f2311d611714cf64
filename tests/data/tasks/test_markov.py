from functools import partial
from itertools import pairwise

import jax
import numpy as np
import pytest
from scipy.stats import beta

from jaxheads.data.tasks import Markov
from jaxheads.data.tasks.markov import bigram, unigram

from .laws import drawn, loss

# uniform, unigram, bigram, oracle; bigram in the last 10 positions. Published Monte Carlo, of a few thousand chains.
TABLE = {
    2: (0.693, 0.578, 0.511, 0.481, 0.494),
    3: (1.099, 1.001, 0.883, 0.815, 0.845),
    5: (1.609, 1.571, 1.421, 1.279, 1.360),
}


def laplace(states: int, row: np.ndarray, position: int) -> np.ndarray:
    """Written out: what followed this state so far."""
    counts = np.ones(states)
    for before in range(position):
        if row[before] == row[position]:
            counts[row[before + 1]] += 1
    return counts / counts.sum()


@pytest.mark.parametrize("states", TABLE)
def test_the_table(states: int):
    anchors = Markov(states).anchors
    losses = [anchors[name] for name in ("uniform", "unigram", "bigram", "oracle", "bigram_late")]
    assert np.abs(np.subtract(losses, TABLE[states])).max() < 0.01
    assert Markov(states).optimum == anchors["bigram"]
    assert sorted(losses, reverse=True)[:3] == losses[:3]


@pytest.mark.parametrize("states", [2, 3])
def test_laplaces_rule_reaches_the_optimum(states: int):
    task = Markov(states)
    sample = drawn(task, 300)
    rows = sample.batch["tokens"]
    p_BTK = np.stack([[laplace(states, row, position) for position in range(100)] for row in rows])
    assert np.abs(jax.jit(jax.vmap(task.bayes))(rows) - p_BTK).max() < 1e-6
    assert loss(p_BTK, sample) == pytest.approx(task.optimum, abs=0.03)
    assert loss(np.asarray(jax.jit(jax.vmap(lambda row: unigram(states, row)))(rows)), sample) > task.optimum + 0.03


def test_the_law_of_chains():
    # Long chains show their matrix: rows are Dirichlet(1), so for two states each staying chance is uniform.
    task = Markov(2)
    tokens, matrix = jax.jit(jax.vmap(task.chain))(jax.random.split(jax.random.key(0), 4000))
    assert np.abs(matrix.sum(axis=-1) - 1).max() < 1e-6
    assert np.abs(np.quantile(matrix[:, 0, 0], (0.25, 0.5, 0.75)) - (0.25, 0.5, 0.75)).max() < 0.03
    tokens, matrix = np.asarray(tokens), np.asarray(matrix)
    # The start is stationary: π = (b, a) / (a + b); a and b are the chances to leave.
    leave = np.stack([matrix[:, 0, 1], matrix[:, 1, 0]])
    expected = (leave[0] / leave.sum(axis=0)).mean(), (leave[0] / leave.sum(axis=0))
    high = expected[1] > 0.8
    assert tokens[high, 0].mean() == pytest.approx(expected[1][high].mean(), abs=0.03)
    assert tokens[high, 50].mean() == pytest.approx(expected[1][high].mean(), abs=0.03)
    # And steps follow the matrix.
    stays = (tokens[:, :-1] == 0) & (tokens[:, 1:] == 0)
    share = stays.sum() / (tokens[:, :-1] == 0).sum()
    weight = (tokens[:, :-1] == 0).sum(axis=1)
    assert share == pytest.approx((weight * matrix[:, 0, 0]).sum() / weight.sum(), abs=0.01)


def test_every_position_is_scored_with_the_next_state():
    sample = drawn(Markov(3), 10)
    assert (sample.weights == 1).all()
    assert (sample.targets[:, :-1] == sample.batch["tokens"][:, 1:]).all()
    for row, mark in zip(sample.batch["tokens"], sample.marks["target"], strict=True):
        for query in (0, 1, 37, 99):
            assert np.flatnonzero(mark[query]).tolist() == [k + 1 for k in range(query) if row[k] == row[query]]


@pytest.mark.parametrize("states", [2, 3, 5])
def test_the_control_has_no_unigram_to_learn(states: int):
    control = Markov(states).control()
    _, matrix = jax.jit(jax.vmap(control.chain))(jax.random.split(jax.random.key(0), 50))
    assert np.abs(matrix.sum(axis=-1) - 1).max() < 1e-5
    assert np.abs(matrix.sum(axis=-2) - 1).max() < 1e-5
    # Laplace's unigram is no better than saying all alike; the bigram still is.
    assert control.anchors["unigram"] > control.anchors["uniform"] - 0.01
    assert control.anchors["bigram"] < control.anchors["uniform"] - 0.1
    assert control.optimum < control.anchors["bigram"] - 0.01
    assert control.anchors["oracle"] < control.optimum


def test_the_controls_bayes_predictor():
    # Two states: staying has one chance, whichever the state, and it is uniform; a Beta posterior, here by its mean.
    row = drawn(Markov(2).control(), 1).batch["tokens"][0]
    predicted = jax.jit(Markov(2).control().bayes)(row)
    for position in (0, 1, 10, 99):
        stays = int((row[1 : position + 1] == row[:position]).sum())
        stay = beta(stays + 1, position - stays + 1).mean()
        assert predicted[position, row[position]] == pytest.approx(stay, abs=1e-5)
    # Three states and more: by importance sampling of the matrices themselves.
    task = Markov(4, doubly_stochastic=True)
    row = drawn(task, 1, seed=3).batch["tokens"][0][:6]
    _, matrix = jax.jit(jax.vmap(task.chain))(jax.random.split(jax.random.key(5), 20_000))
    likelihood = np.prod([np.asarray(matrix)[:, a, b] for a, b in pairwise(row)], axis=0)
    expected = (likelihood[:, None] * np.asarray(matrix)[:, row[-1]]).sum(axis=0) / likelihood.sum()
    predicted = np.asarray(jax.jit(task.bayes)(row))
    assert np.abs(predicted[-1] - expected).max() < 0.02
    assert np.abs(predicted - np.asarray(jax.jit(partial(bigram, 4))(row))).max() > 0.01


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="2 states"):
        Markov(1)
    with pytest.raises(ValueError, match="at most 7 states"):
        Markov(8).control()
