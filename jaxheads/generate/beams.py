"""Beam search: the likeliest texts, of which several are written side by side.

Dimension key: B examples, W beams, I = B * W, S columns of prompt and text, V vocabulary, X continuations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from ..arguments import at_least, checked
from ..models.inputs.batch import Batch
from ..models.network import Network
from ..models.sites import SiteEdit
from ..programs import compiled
from .cached import Cache, attention_inputs, run_next
from .prompts import with_fields
from .segments import State

NEVER = -1e9
"""Score of a beam that is not there."""


@checked(count=at_least(2))
@dataclass(frozen=True)
class Beams:
    """Beam search, for `generate(…, sample=…)`: texts by the sum of their tokens' log-probabilities.

    As in `transformers`, that sum is divided by the text's length to the power `length_penalty`, and the search ends
    where no text that goes on is likelier, by its length so far, than the worst of `count` that have ended.

    Attributes:
        count: the number of texts that are written side by side.
        length_penalty: above 0 it favours long texts.

    Raises:
        ValueError: for fewer than 2 beams.
    """

    count: int = 4
    length_penalty: float = 1.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Search:
    """Texts that are being written, and the best that have ended.

    Attributes:
        cache: of all columns, of all beams `[L,I,…]`.
        ids, scores: prompt and text of each beam, `[B,W,S]`, and the sum of its log-probabilities, `[B,W]`.
        ended_ids, ended_scores, ended: texts that have ended, their scores, and which are there.
        open: whether a likelier text may be found, `[B]`.
    """

    cache: Cache
    ids: Array
    scores: Array
    ended_ids: Array
    ended_scores: Array
    ended: Array
    open: Array


@dataclass(frozen=True)
class BeamSteps:
    """Settings of a segment of a search.

    Attributes:
        count: the steps of the program.
        last: the number of the last step of the text.
        field: the batch's field that is written.
        beams: the search that is asked for.
        ends: token ids that end a text.
    """

    count: int
    last: int
    field: str
    beams: Beams
    ends: tuple[int, ...]


@partial(compiled, static_argnames=("width", "copies"))
def begin_search(state: State, width: int, copies: bool) -> Search:
    """Return the search that begins with the prompts, each in as many beams as `width`."""

    def search(state: State) -> Search:
        ids_BWS = jnp.repeat(state.ids[:, None], width, axis=1)
        # All beams begin alike: only the first may go on.
        scores_BW = jnp.full(ids_BWS.shape[:2], NEVER).at[:, 0].set(0)
        none_BW, never_BW = jnp.zeros(scores_BW.shape, bool), jnp.full(scores_BW.shape, NEVER)
        cache = repeated_cache(state.cache, width)
        return Search(cache, ids_BWS, scores_BW, ids_BWS, never_BW, none_BW, jnp.ones(len(ids_BWS), bool))

    return jax.vmap(search)(state) if copies else search(state)


@partial(compiled, static_argnames=("steps", "copies"))
def search_on(
    network: Network,
    whole: Batch,
    search: Search,
    edits: Sequence[SiteEdit],
    column: Array,
    step: Array,
    steps: BeamSteps,
    copies: bool,
) -> Search:
    """Go on with a search for some steps; arguments as in `segments.go_on`."""
    beams = jax.tree.map(lambda field: jnp.repeat(field, steps.beams.count, axis=0), whole)

    def write(search: Search, edits: Sequence[SiteEdit]) -> Search:
        own = [_of_beams(edit, len(search.ids), steps.beams.count) for edit in edits]
        context = attention_inputs(network, beams, search.cache)

        def one(search: Search, number: Array) -> tuple[Search, None]:
            here, (B, W, S) = column + number, search.ids.shape
            batch = with_fields(beams, {steps.field: search.ids.reshape(B * W, S)})
            x_I1D, cache, _ = run_next(network, batch, search.cache, context, here, own, {})
            assert network.unembedding is not None, "a model without logits is refused"
            logits_IV = network.unembedding.logits(network.features(x_I1D))[:, 0]
            log_p_BWV = jax.nn.log_softmax(logits_IV, axis=-1).reshape(B, W, -1)
            return _chosen(replace(search, cache=cache), log_p_BWV, here + 1, step + number, steps), None

        return jax.lax.scan(one, search, jnp.arange(steps.count))[0]

    return jax.vmap(write)(search, edits) if copies else write(search, edits)


def _chosen(search: Search, log_p_BWV: Array, column: Array, step: Array, steps: BeamSteps) -> Search:
    """Return the search with one more token in each beam."""
    (B, W, V), beams = log_p_BWV.shape, steps.beams
    total_BY = (log_p_BWV + search.scores[:, :, None]).reshape(B, W * V)
    # So many that enough go on, even where the likeliest of each beam are all end tokens.
    top_BX, index_BX = jax.lax.top_k(total_BY, min(max(2, 1 + len(steps.ends)) * W, W * V))
    beam_BX, token_BX = index_BX // V, (index_BX % V).astype(search.ids.dtype)
    ids_BXS = _taken(search.ids, beam_BX)
    ids_BXS = jax.lax.dynamic_update_slice(ids_BXS, token_BX[:, :, None], (0, 0, column))
    ends = jnp.asarray(steps.ends, token_BX.dtype)[None, None]
    stops_BX = (token_BX[:, :, None] == ends).any(axis=2) | (step == steps.last)
    # Of those that end here only the likeliest count; the others go on.
    new_BX = stops_BX & (jnp.arange(top_BX.shape[1]) < W)[None]
    length = (step + 1).astype(top_BX.dtype) ** beams.length_penalty
    counts_BX = new_BX & search.open[:, None]
    scores_BY = jnp.concatenate([search.ended_scores, jnp.where(counts_BX, top_BX / length, NEVER)], axis=1)
    ended_scores_BW, place_BW = jax.lax.top_k(scores_BY, W)
    ended_ids = _taken(jnp.concatenate([search.ended_ids, ids_BXS], axis=1), place_BW)
    ended_BW = jnp.take_along_axis(jnp.concatenate([search.ended, counts_BX], axis=1), place_BW, axis=1)
    scores_BW, place_BW = jax.lax.top_k(jnp.where(stops_BX, top_BX + NEVER, top_BX), W)
    beam_BW = jnp.take_along_axis(beam_BX, place_BW, axis=1)
    rows_I = (beam_BW + W * jnp.arange(B)[:, None]).reshape(-1)
    keys, values = (kept[:, rows_I] for kept in search.cache.own)
    worst_BW = jnp.where(ended_BW, ended_scores_BW.min(axis=1, keepdims=True), NEVER)
    likelier_B = (scores_BW[:, :1] / length > worst_BW).any(axis=1)
    return Search(
        replace(search.cache, own=(keys, values)),
        _taken(ids_BXS, place_BW),
        scores_BW,
        ended_ids,
        ended_scores_BW,
        ended_BW,
        search.open & likelier_B & (step < steps.last),
    )


def repeated_cache(cache: Cache, width: int) -> Cache:
    """Return a cache whose examples come several times, one after the other."""
    own, cross = jax.tree.map(lambda kept: jnp.repeat(kept, width, axis=1), (cache.own, cache.cross))
    streams = {name: jnp.repeat(stream, width, axis=0) for name, stream in cache.streams.items()}
    return Cache(own, cross, streams)


def _taken(x_BXS: Array, index_BY: Array) -> Array:
    return jnp.take_along_axis(x_BXS, index_BY[:, :, None], axis=1)


def _of_beams(edit: SiteEdit, examples: int, width: int) -> SiteEdit:
    """Return an edit of examples as one of their beams."""

    def of(array: Array) -> Array:
        return jnp.repeat(array, width, axis=1) if array.shape[1] == examples > 1 else array

    return replace(edit, weight=of(edit.weight), source=of(edit.source))
