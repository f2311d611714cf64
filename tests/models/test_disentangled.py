"""DeBERTa's position terms: part of the scores, computed of queries and keys as they are used."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

import jaxheads as jh
from jaxheads.models.disentangled import distances
from jaxheads.train import merge_kv_heads, remove_heads

from .huggingface import assert_close
from .specs import SPECS
from .specs.spec import pair, small


@pytest.mark.parametrize(("buckets", "furthest"), [(256, 512), (32, 64), (8, 20), (48, 128), (10, 512), (6, 12)])
def test_far_distances_share_rows_as_in_transformers(buckets: int, furthest: int):
    theirs = make_log_bucket_position(torch.arange(-1499, 1500), buckets, furthest).to(torch.long).numpy()
    ours = distances(1500, buckets, furthest)
    np.testing.assert_array_equal(ours, theirs[1499:])
    np.testing.assert_array_equal(-ours[::-1], theirs[:1500])


def scores_by_hand(model: jh.Model, q: np.ndarray, k: np.ndarray, layer: int, terms: str) -> np.ndarray:
    """Scores `[N,T,S]` of one example without padding, pair by pair."""
    network, weights = model.network, model.stack().weights
    assert weights.b_K is not None
    assert weights.b_Q is not None
    embedding = np.asarray(network.relative_norm(network.embed_relative.embedding[...]))
    keys = np.einsum("rd,ndh->rnh", embedding, weights.W_K[layer]) + np.asarray(weights.b_K[layer])
    queries = np.einsum("rd,ndh->rnh", embedding, weights.W_Q[layer]) + np.asarray(weights.b_Q[layer])
    T, N, H = q.shape
    rows, span = distances(T, model.config.position_buckets, model.config.max_relative_positions), len(embedding) // 2
    scores = np.zeros((N, T, T))
    for t in range(T):
        for s in range(T):
            row = np.clip(span + np.sign(t - s) * rows[abs(t - s)], 0, 2 * span - 1)
            summed = (q[t] * k[s]).sum(axis=-1)
            if "c2p" in terms:
                summed = summed + (q[t] * keys[row]).sum(axis=-1)
            if "p2c" in terms:
                summed = summed + (queries[row] * k[s]).sum(axis=-1)
            scores[:, t, s] = summed / np.sqrt(H * 3)
    return scores


@pytest.mark.parametrize("site", ["q", "k"])
def test_an_edited_query_or_key_changes_its_position_term(site: str):
    model = small("deberta_v2").ours
    batch = jh.Batch(np.random.default_rng(0).integers(4, 37, (1, 13)))
    value = jnp.asarray(np.random.default_rng(1).standard_normal((1, 1, 13, 4, 6), np.float32))
    edit = jh.SiteEdit(jnp.array([1]), jnp.ones((1, 1, 1, 1, 1)), value, site, "encoder")
    seen = jh.run(model, batch, ["q", "k", "scores"], edit).seen
    q, k, scores = (np.asarray(seen[name])[1, 0] for name in ("q", "k", "scores"))
    assert_close((q, k)[site == "k"], value[0, 0])
    assert_close(scores, scores_by_hand(model, q, k, 1, "c2p p2c"))
    without = scores_by_hand(model, q, k, 1, "")
    assert np.abs(scores - without).max() > 0.1


def test_patching_queries_of_one_run_into_itself_changes_nothing_and_positions_are_those_of_real_tokens():
    both = small("deberta_v2")
    batch = SPECS["deberta_v2"].batch(both.theirs, "left")
    objective = jh.logit_difference(5, 6)
    for site in ("q", "k", "scores"):
        table = jh.patch(both.ours, batch, batch, objective, site)
        assert table.per_example is not None
        assert np.nanmax(np.abs(table.per_example)) < 1e-5


def test_version_one_has_no_bias_of_keys_and_a_row_for_each_distance():
    model = pair(SPECS["deberta"], "DebertaModel", max_relative_positions=5).ours
    attention = model.stack().blocks.attention
    assert attention.b_K is None
    assert attention.P_K.shape == attention.P_Q.shape == attention.W_Q.shape
    assert model.network.embed_relative.embedding.shape[0] == 10


def test_heads_are_removed_where_positions_use_their_projections():
    model = small("deberta_v2").ours
    batch = SPECS["deberta_v2"].batch(small("deberta_v2").theirs)
    gates = np.ones((2, 4), np.float32)
    gates[0, 1] = gates[1, 3] = gates[1, 0] = 0
    smaller = remove_heads(model, gates)
    assert smaller.stack().heads == 3
    gated = jh.run(model, batch, edits=jh.gate(model, gates)).output
    assert_close(jh.run(smaller, batch).output, gated)
    with pytest.raises(ValueError, match="project positions by weights of their own"):
        remove_heads(small("deberta").ours, gates)
    with pytest.raises(ValueError, match="can't be merged"):
        merge_kv_heads(model, [[0, 0, 1, 1]] * 2)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"conv_kernel_size": 3}, "conv_kernel_size=3; supported is 0"),
        ({"pos_att_type": ["c2p", "p2p"]}, "of 'c2p' and 'p2c', got"),
        ({"attention_head_size": 5}, "attention_head_size=5"),
    ],
)
def test_what_is_not_understood_is_refused(field: dict, message: str):
    config = {**SPECS["deberta_v2"].sizes, "model_type": "deberta-v2"}
    with pytest.raises(ValueError, match=message):
        jh.init(config | field)
