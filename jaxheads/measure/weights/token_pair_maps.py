"""Relations between tokens that a head's weights implement: MAPS (Elhelo & Geva 2024).

Dimension key: P pairs of tokens, C tokens of a chunk of the vocabulary, L layers, N heads, H head dimension, D model
dimension.

Vectors are rows: attending to token s, a head moves the logit of token t by `E'(s) W_V W_O · u(t)`, up to a positive
factor of s. Ranks over t need no more.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array
from numpy.typing import ArrayLike

from ...arguments import at_least, checked
from ...checks import head_of, one_of
from ...models.inputs.answers import token_texts
from ...models.model import Model
from ...models.network import Network
from ...models.stack import Stack
from ...programs import compiled
from ...provenance import provenance
from ...statistics import mean_interval
from ...tables import Column, HeadTable
from .factored import Factored, ov_circuit, triangle
from .vocabulary import CHUNK, logit_directions, stack_of_last_stream, token_chunks

EMBEDDINGS = ("raw", "effective", "mlp")
PAIRS = 256
"""Most pairs that are ranked together."""


@checked(top=at_least(1))
def token_maps(
    model: Model,
    pairs: ArrayLike | Sequence[tuple[str, str]],
    *,
    top: int = 10,
    candidates: ArrayLike | None = None,
    embedding: Literal["raw", "effective", "mlp"] | None = None,
    level: float = 0.95,
    stack: str | None = None,
) -> HeadTable:
    """Measure for each head the share of pairs (s, t) in which attending to s moves t most, by its weights alone.

    This is MAPS of Elhelo & Geva 2024 (section 3.1): t is among the `top` tokens of `E'(s) W_V W_O W_U` (the head maps
    s to t) or among those that it lowers most (it suppresses t). Known heads are relations of their own: copying is
    `(t, t)`, with `top=5` that of name movers (Wang et al. 2022); copy suppression the other column of `(t, t)`, with
    `top=10` (McDougall et al. 2023); succession `(Monday, Tuesday)`, …, with `top=1` among all `candidates` (Gould et
    al. 2023). Ties count against a head. Weights say what a head would do, not where it looks: set attention beside.

    A null is the same question of pairs that hold nothing: `jh.shuffled_pairs`. The paper's dynamic score, from
    runs, is `rank < top` of `jh.logit_lens(model, batch, answers, by=("layer", "head"))`.

    Args:
        pairs: ids of sources and targets, `[P,2]`; or strings, of which the pairs are read that are one token each
            after a space.
        top: how many tokens count, of the vocabulary or of `candidates`.
        candidates: ids among which t is ranked, all targets among them; the whole vocabulary when left out.
        embedding: E' of all layers but the first, which reads the "raw" embeddings in any case: "mlp" is the first
            layer's MLP of the normed embedding, as in the paper's code; "effective" adds it to the embedding. When left
            out, "mlp" where the first layer has an MLP that adds to the stream, and else "raw".
        level: of the intervals, over pairs, clustered by source.
        stack: whose heads; the only stack when left out.

    Returns:
        Columns `maps` and `suppresses`, from 0 to 1, and the pairs' 0 and 1 as its examples.

    Raises:
        ValueError: for pairs or candidates that are no token ids, strings without a tokenizer, no pair, a `top` of as
            many tokens as are ranked, or an embedding that the model does not have; and where tokens have no logits of
            their own, as `jh.eigenvalue_copying`.
    """
    chosen = stack_of_tokens(model, stack)
    ids_P2, given = pair_ids(model, pairs)
    read = embedding_of(model, embedding)
    asked = _candidates(model, ids_P2, candidates)
    if top >= (count := sum(map(len, asked))):
        raise ValueError(
            f"top must be below the number of tokens that are ranked, {count}, or every pair counts; got {top}"
        )
    above, below = _ranks(model, chosen, ids_P2, asked, read)
    clusters = np.unique(ids_P2[:, 0], return_inverse=True)[1]
    columns = {}
    for name, rank_PLN in (("maps", above), ("suppresses", below)):
        hits_PLN = (rank_PLN < top).astype(np.float64)
        interval = mean_interval(hits_PLN, clusters=clusters, within=(0, 1), level=level)
        columns[name] = Column(*interval, hits_PLN, range=(0, 1))
    about = provenance(
        model,
        top=top,
        embedding=read,
        pairs=len(ids_P2),
        left_out=given - len(ids_P2),
        candidates=None if candidates is None else count,
        level=level,
    )
    return HeadTable.from_columns("token_maps", chosen.name, columns, about, clusters=clusters)


@checked(count=at_least(1), mapped=at_least(1))
def salient_tokens(
    model: Model,
    layer: int,
    head: int,
    *,
    count: int = 10,
    mapped: int = 5,
    embedding: Literal["raw", "effective", "mlp"] | None = None,
    stack: str | None = None,
) -> pd.DataFrame:
    """Return the tokens that a head's OV circuit lengthens most, with the tokens whose logits each of them raises.

    MAPS without a relation in mind (Elhelo & Geva 2024, section 5): the gain of a token is `‖E' W_V W_O‖ / ‖E'‖`.

    Args:
        layer, head: the head.
        count: how many tokens, the largest gain first; `mapped` how many tokens it raises, the largest logit first.
        embedding: as in `jh.token_maps`.
        stack: the head's stack; the only one when left out.

    Returns:
        One row a salient token and one that it raises: `token`, `gain`, `rank` (from 0), `mapped`, `value`, the logit
        up to a positive factor; where the model has a tokenizer `token_text` and `mapped_text`.

    Raises:
        ValueError: for an unknown head, and as `jh.token_maps`.
    """
    chosen = stack_of_tokens(model, stack)
    head_of((chosen.layers, chosen.heads), layer, head)
    circuit = ov_circuit(model, stack=stack), np.int32(layer), np.int32(head)
    use = "raw" if layer == 0 else embedding_of(model, embedding)
    gains = [np.asarray(_gains(model.network, ids, *circuit, embedding=use)) for ids in token_chunks(model)]
    gain_V = np.concatenate(gains)
    tokens = np.argsort(-gain_V, kind="stable")[:count]
    salient = tokens.astype(np.int32)
    values = [_logits(model.network, salient, ids, *circuit, embedding=use) for ids in token_chunks(model)]
    value_CV = np.concatenate([np.asarray(chunk) for chunk in values], axis=1)
    best_CM = np.argsort(-value_CV, axis=1, kind="stable")[:, :mapped]
    rows, columns = (axis.reshape(-1) for axis in np.indices(best_CM.shape))
    best = best_CM.reshape(-1)
    frame = pd.DataFrame(
        {"token": tokens[rows], "gain": gain_V[tokens[rows]], "rank": columns, "mapped": best}
        | {"value": value_CV[rows, best]}
    )
    if model.tokenizer is not None:
        for side in ("token", "mapped"):
            frame[f"{side}_text"] = token_texts(model.tokenizer, frame[side].to_numpy())
    return frame


def stack_of_tokens(model: Model, stack: str | None) -> Stack:
    """Return a stack whose values are of tokens that have logits, or raise ValueError."""
    chosen = stack_of_last_stream(model, stack)
    if chosen.is_cross:
        raise ValueError("in cross-attention values read another sequence's stream, not the tokens that are raised")
    return chosen


def embedding_of(model: Model, embedding: str | None) -> str:
    """Return the embedding that later layers read, or raise ValueError for one that the model does not have."""
    blocks = model.network.streams[-1].blocks
    has_mlp = blocks.additive and blocks.mlp_reads != "none"
    if embedding is None:
        return "mlp" if has_mlp else "raw"
    one_of("embedding", embedding, EMBEDDINGS)
    if embedding != "raw" and not has_mlp:
        raise ValueError(
            f"embedding={embedding!r} is made by the first layer's MLP; {model.name} has none that adds to the stream: "
            "use embedding='raw'"
        )
    return embedding


def pair_ids(model: Model, pairs: ArrayLike | Sequence[tuple[str, str]]) -> tuple[np.ndarray, int]:
    """Return pairs of token ids, `[P,2]`, and how many pairs were given."""
    array = np.asarray(pairs)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise ValueError(f"pairs must be token ids or strings, [P,2] of one pair or more; got {list(array.shape)}")
    given, V = len(array), model.config.vocab_size
    if array.dtype.kind == "U":
        tokens = [[single_token(model, str(text)) for text in row] for row in array]
        array = np.array([row for row in tokens if None not in row], np.int64).reshape(-1, 2)
        if not len(array):
            raise ValueError(f"pairs: none of the {given} has two words of one token each; give other words, or ids")
    if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() >= V:
        raise ValueError(f"pairs must be token ids in 0..{V - 1}, or strings; got {array.dtype} {array[:3].tolist()}")
    return array.astype(np.int64), given


def single_token(model: Model, text: str) -> int | None:
    """Return the token of a word after a space, or None where it is several tokens, or unknown."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError(f"strings need a tokenizer; {model.name} has none ({model.no_tokenizer}): give token ids")
    before, ids = (tokenizer.encode(words, add_special_tokens=False) for words in ("and", f"and {text.strip()}"))
    known = len(ids) == len(before) + 1 and ids[:-1] == before and ids[-1] != tokenizer.unk_token_id
    return int(ids[-1]) if known else None


def _candidates(model: Model, ids_P2: np.ndarray, candidates: ArrayLike | None) -> Sequence[Array]:
    """Return the ids among which targets are ranked, chunk by chunk."""
    if candidates is None:
        return list(token_chunks(model))
    ids, V = np.unique(np.asarray(candidates)), model.config.vocab_size
    if not np.issubdtype(ids.dtype, np.integer) or not np.isin(ids_P2[:, 1], ids).all() or ids[0] < 0 or ids[-1] >= V:
        raise ValueError(f"candidates must be token ids in 0..{V - 1}, all targets of the pairs among them")
    return [jnp.asarray(ids[at : at + CHUNK]) for at in range(0, len(ids), CHUNK)]


def _ranks(
    model: Model, chosen: Stack, ids_P2: np.ndarray, chunks: Sequence[Array], embedding: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many tokens each head raises, and lowers, at least as much as the target, `[P,L,N]` each."""
    ov, size = ov_circuit(model, stack=chosen.name), min(PAIRS, len(ids_P2))
    above, below = [], []
    for at in range(0, len(ids_P2), size):
        # the last chunk is filled up, so that it compiles once
        rows = np.minimum(np.arange(at, at + size), len(ids_P2) - 1)
        source, target = (jnp.asarray(ids, jnp.int32) for ids in ids_P2[rows].T)
        value, logit = _values(model.network, ov, source, target, embedding=embedding)
        counts = [_counts(model.network, ov.right, value, logit, target, ids) for ids in chunks]
        for ranks, side in ((above, 0), (below, 1)):
            total_LNP = np.sum([np.asarray(chunk[side], np.int64) for chunk in counts], axis=0)
            ranks.append(np.moveaxis(total_LNP, 2, 0)[: len(ids_P2) - at])
    return np.concatenate(above), np.concatenate(below)


@partial(compiled, static_argnames="embedding")
def _words(network: Network, ids_P: Array, *, embedding: str) -> Array:
    """Return E' of tokens, `[P,D]`, in float32."""
    words_PD = network.embed_tokens(ids_P)
    if embedding != "raw":
        block: Any = network.streams[-1].block(0)
        mapped_PD = block.feed_forward(words_PD[None])[0]
        words_PD = mapped_PD if embedding == "mlp" else words_PD + mapped_PD
    return words_PD.astype(jnp.float32)


def _directions(network: Network, ids_C: Array, words_PD: Array) -> Array:
    """Return the directions in the stream that raise the logits of tokens, `[C,D]`."""
    assert network.unembedding is not None, "stack_of_last_stream requires logits"
    return logit_directions(network, network.unembedding.weight[ids_C], words_PD).astype(jnp.float32)


@partial(compiled, static_argnames="embedding")
def _values(network: Network, ov: Factored, source_P: Array, target_P: Array, *, embedding: str) -> tuple[Array, Array]:
    """Return what each head's values hold of the sources, `[L,N,P,H]`, and the targets' logits, `[L,N,P]`."""
    raw_PD = _words(network, source_P, embedding="raw")
    later_PD = _words(network, source_P, embedding=embedding)
    direction_PD = _directions(network, target_P, raw_PD)

    def layer(inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        number, left_NDH, right_NHD = inputs
        value_NPH = jnp.einsum("pd,ndh->nph", jnp.where(number == 0, raw_PD, later_PD), left_NDH)
        return value_NPH, jnp.einsum("nph,nph->np", value_NPH, jnp.einsum("nhd,pd->nph", right_NHD, direction_PD))

    return jax.lax.map(layer, (jnp.arange(len(ov.left)), ov.left, ov.right))


@compiled
def _counts(
    network: Network, right_LNHD: Array, value_LNPH: Array, logit_LNP: Array, target_P: Array, ids_C: Array
) -> tuple[Array, Array]:
    """Return how many of some tokens have a logit at least, and at most, that of each pair's target, `[L,N,P]`."""
    direction_CD = _directions(network, ids_C, right_LNHD)
    is_other_PC = ids_C[None, :] != target_P[:, None]

    def layer(inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        right_NHD, value_NPH, logit_NP = inputs
        raised_NPC = jnp.einsum("nph,nhc->npc", value_NPH, jnp.einsum("nhd,cd->nhc", right_NHD, direction_CD))
        above_NPC, below_NPC = raised_NPC >= logit_NP[..., None], raised_NPC <= logit_NP[..., None]
        counted = [those & is_other_PC[None] for those in (above_NPC, below_NPC)]
        above_NP, below_NP = (those.sum(axis=2, dtype=jnp.int32) for those in counted)
        return above_NP, below_NP

    return jax.lax.map(layer, (right_LNHD, value_LNPH, logit_LNP))


@partial(compiled, static_argnames="embedding")
def _gains(network: Network, ids_C: Array, ov: Factored, layer: Array, head: Array, *, embedding: str) -> Array:
    """Return by how much a head lengthens tokens, `[C]`."""
    circuit = ov[layer, head]
    words_CD = _words(network, ids_C, embedding=embedding)
    written_CH = words_CD @ circuit.left @ triangle(circuit.right.T).T
    size_C = jnp.linalg.norm(words_CD, axis=1)
    return jnp.linalg.norm(written_CH, axis=1) / jnp.where(size_C > 0, size_C, 1)


@partial(compiled, static_argnames="embedding")
def _logits(
    network: Network, words_P: Array, ids_C: Array, ov: Factored, layer: Array, head: Array, *, embedding: str
) -> Array:
    """Return the logits of some tokens, `[P,C]`, that a head moves when it attends to words."""
    circuit, words_PD = ov[layer, head], _words(network, words_P, embedding=embedding)
    return words_PD @ circuit.left @ (circuit.right @ _directions(network, ids_C, words_PD).T)
