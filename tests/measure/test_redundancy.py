"""How alike heads are: closed forms (literature 12.1), whole computations by hand, and what follows."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

import jaxheads as jh
from jaxheads.measure.similarity import redundancy
from jaxheads.measure.similarity.comparisons import COMPARISONS
from jaxheads.measure.similarity.redundancy import HeadPairs, compare_heads

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import small


def of_patterns(by: str, *patterns: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Compared as heads of one layer, on one example."""
    A = jnp.asarray(np.stack(patterns)[None], jnp.float32)
    real = jnp.ones(A.shape[-1], bool) if mask is None else jnp.asarray(mask)
    row = np.asarray(COMPARISONS[by].function({"pattern": A}, real[: A.shape[2]], real, len(patterns)), np.float64)
    return COMPARISONS[by].of_mean(row, 1)


def test_divergence_in_closed_form():
    uniform, first, second = np.full((1, 8), 1 / 8), np.eye(8)[:1], np.eye(8)[1:2]
    mask = np.ones(8, bool)
    found = of_patterns("js", uniform, first, second, first, mask=mask)
    assert found[1, 2] == pytest.approx(np.log(2), rel=1e-6)
    assert found[0, 1] == pytest.approx(0.496929, abs=1e-6)
    assert found[1, 3] == pytest.approx(0, abs=1e-6)
    assert of_patterns("js_sum", first, second, mask=mask)[0, 1] == pytest.approx(0.691379, abs=1e-5)


def test_similarities_in_closed_form():
    shift = np.eye(6)[[0, 0, 1, 2, 3, 4]]
    same = of_patterns("cosine", shift, shift, np.eye(6)[[1, 1, 0, 0, 0, 0]])
    assert same[0, 1] == pytest.approx(1)
    assert same[0, 2] == pytest.approx(0, abs=1e-6)
    assert of_patterns("overlap", shift, shift)[0, 1] == pytest.approx(1)


def written(*outputs_TH: np.ndarray) -> np.ndarray:
    """CKA of heads that write these, W_O being the identity."""
    z = jnp.asarray(np.stack(outputs_TH, axis=1)[None], jnp.float32)
    W_O = jnp.broadcast_to(jnp.eye(z.shape[-1]), (1, z.shape[2], z.shape[-1], z.shape[-1]))
    real = jnp.ones(z.shape[1], bool)
    return COMPARISONS["cka"].of_mean(
        np.asarray(COMPARISONS["cka"].function({"z": z, "W_O": W_O}, real, real, 2), np.float64), 1
    )


def test_cka_sees_through_rotation_and_scale_and_is_not_fooled_by_independence():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    x = rng.standard_normal((200, 16))
    assert written(x, 3 * x @ turn)[0, 1] == pytest.approx(1, abs=1e-4)
    apart = [written(*rng.standard_normal((2, 200, 16)))[0, 1] for _ in range(30)]
    assert abs(np.mean(apart)) < 0.005  # the plain estimate is .076 (literature 10)


def test_unbiased_hsic_is_the_formula_with_kernels():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 9, 4))
    K, L = ((one - one.mean(axis=0)) @ (one - one.mean(axis=0)).T for one in (x, y))
    np.fill_diagonal(K, 0)
    np.fill_diagonal(L, 0)
    n, ones = 9, np.ones(9)
    expected = np.trace(K @ L) + (ones @ K @ ones) * (ones @ L @ ones) / ((n - 1) * (n - 2))
    expected = (expected - 2 / (n - 2) * ones @ K @ L @ ones) / (n * (n - 3))
    z = jnp.asarray(np.stack([x, y], axis=1)[None], jnp.float32)
    W_O = jnp.broadcast_to(jnp.eye(4), (1, 2, 4, 4))
    found = COMPARISONS["cka"].function({"z": z, "W_O": W_O}, jnp.ones(9, bool), jnp.ones(9, bool), 2)
    assert float(found[0, 1]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_whole_model_by_hand(side: str):
    """Grouped queries and padding: patterns by SciPy, values and outputs token by token."""
    both, spec = small("llama"), SPECS["llama"]
    model, batch = both.ours, spec.batch(both.theirs, side).take([0, 1])
    seen = jh.run(model, batch, ("pattern", "v", "z")).seen
    part, mask = model.stack(), np.asarray(batch.mask)
    expected = {kind: np.zeros((8, 8)) for kind in ("js", "values", "outputs")}
    for b in range(2):
        A = np.asarray(seen["pattern"], np.float64)[:, b][:, :, mask[b]][..., mask[b]].reshape(8, mask[b].sum(), -1)
        v = np.repeat(np.asarray(seen["v"])[:, b], part.heads // part.kv_heads, axis=2)[:, mask[b]]
        z = np.asarray(seen["z"])[:, b, mask[b]]
        for i, j in np.ndindex(8, 8):
            apart = [jensenshannon(p, q) ** 2 for p, q in zip(A[i], A[j], strict=True)]
            expected["js"][i, j] += np.nanmean(np.nan_to_num(apart)) / 2
            for kind, x in (("values", v), ("outputs", z)):
                a, c = x[i // 4, :, i % 4], x[j // 4, :, j % 4]
                cosines = (a * c).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(c, axis=1)
                expected[kind][i, j] += cosines.mean() / 2
    for kind, values in expected.items():
        found = compare_heads(model, batch, kind)
        assert_close(found.values, values)
        assert (found.low <= found.values).all()
        assert (found.values <= found.high).all()
    assert expected["values"][0, 1] == pytest.approx(1, abs=1e-6)  # they share a value head


def pairs(values: np.ndarray, shape: tuple[int, int], kind: str = "outputs") -> HeadPairs:
    return HeadPairs(kind, "decoder", shape, values, values, values, np.ones(values.shape, int), {})


def test_what_follows_from_identical_and_from_orthogonal_heads():
    alike, apart = pairs(np.ones((8, 8)), (2, 4)), pairs(np.eye(8), (2, 4))
    np.testing.assert_allclose(alike.effective_heads(), 1, rtol=1e-6)
    np.testing.assert_allclose(apart.effective_heads(), 4, rtol=1e-6)
    np.testing.assert_allclose(alike.disagreement(), -1)
    np.testing.assert_allclose(apart.disagreement(), -1 / 4)
    np.testing.assert_allclose(np.exp(apart.disagreement()), np.exp(-0.25))


def test_clusters_and_places_find_planted_groups():
    kinds = np.array([[0, 1, 0, 1], [2, 2, 0, 1]])
    flat = kinds.reshape(-1)
    values = np.where(flat[:, None] == flat[None, :], 0.02, 0.5) * (1 - np.eye(8))
    found = pairs(values, (2, 4), "js")
    for clusters in (found.clusters(3), found.clusters(within=0.1)):
        assert all(len(np.unique(clusters[kinds == kind])) == 1 for kind in range(3))
        assert len(np.unique(clusters)) == 3
    nearest = found.nearest()
    assert nearest[0].tolist() == [[0, 2], [0, 3], [0, 0], [0, 1]]
    anywhere = found.nearest(same_layer=False)
    assert anywhere[1, 3].tolist() in [[0, 1], [0, 3]]
    places = found.embedding(seed=0).reshape(8, 2)
    apart = np.linalg.norm(places[:, None] - places[None, :], axis=-1)
    assert apart[flat[:, None] == flat[None, :]].max() < apart[flat[:, None] != flat[None, :]].min()
    with pytest.raises(ValueError, match="give one of count and within"):
        found.clusters()
    assert len(found.frame) == 28


def test_permuting_heads_permutes_the_pairs():
    patterns = np.random.default_rng(0).dirichlet(np.ones(5), size=(4, 5))
    order = [2, 0, 3, 1]
    plain, permuted = of_patterns("js", *patterns), of_patterns("js", *patterns[order])
    np.testing.assert_allclose(permuted, plain[np.ix_(order, order)], atol=1e-6)


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch):
    model, batch = small("llama").ours, jh.Batch(np.arange(8).reshape(2, 4))
    with pytest.raises(ValueError, match=r"compared by one of js, .*; got 'kl'"):
        compare_heads(model, batch, "kl")
    with pytest.raises(ValueError, match="needs 4 positions of every example; the shortest has 3"):
        compare_heads(model, jh.Batch([[1, 2, 3]]), "cka")
    with pytest.raises(ValueError, match="at least one example"):
        compare_heads(model, [])
    monkeypatch.setattr(redundancy, "BYTES", 100)
    with pytest.raises(ValueError, match="cut the texts"):
        compare_heads(model, batch)
