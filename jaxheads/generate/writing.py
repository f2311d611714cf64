"""Text that a model writes, token by token, with its heads read and edited at every step.

Dimension key: E examples, C edited copies, T steps, S columns of prompt and text, L layers, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import whole
from ..execution.resources import Options, Resources, shares_options
from ..measure.streams import Batches, each_batch
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.sites import SITES, SiteEdit
from ..progress import progress as show_progress
from ..provenance import provenance
from .beams import Beams
from .choosing import Sampling
from .prompts import Prompts, check_prompts
from .segments import Sites
from .stops import Stop, Stops
from .writer import Writer

Edits = Sequence[SiteEdit] | SiteEdit


@dataclass(frozen=True, eq=False)
class Writing:
    """Texts that a model wrote.

    With edited copies, all arrays have an axis of copies first (behind the layers of what was captured).

    Attributes:
        tokens: ids of the new tokens, int32 `[E,T]`; after a text's end the padding's id.
        lengths: number of tokens of each text, its end token among them, `[E]`.
        logits: those that each token was chosen by, float32 `[E,T,V]`, NaN after a text's end; None unless asked for.
        seen: captured sites by name, layers first, with T for the axis of queries, NaN after a text's end. Row t is of
            the pass that wrote token t; keys are the columns of `batch`.
        cache_bytes: bytes of the keys and values that are kept for one example of one copy.
        batch: prompts, padded on the left, and texts, as one batch; None of a stream, and of copies.
        provenance: plain JSON values.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    logits: np.ndarray | None
    seen: dict[str, np.ndarray]
    cache_bytes: int
    batch: Batch | None
    provenance: dict[str, Any]
    tokenizer: Any = field(default=None, repr=False)

    @property
    def texts(self) -> list[Any]:
        """The texts, without special tokens; a list of them for each copy.

        Raises:
            ValueError: for a model without a tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError("the model has no tokenizer: read .tokens, cut to .lengths")
        return texts_of(self.tokenizer, self.tokens, self.lengths)


def texts_of(tokenizer: Any, tokens: np.ndarray, lengths: np.ndarray) -> list[Any]:
    """Return the texts of tokens `[…,T]` up to their lengths `[…]`, in lists of that shape."""
    if lengths.ndim > 1:
        return [texts_of(tokenizer, *pair) for pair in zip(tokens, lengths, strict=True)]
    rows = [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
    return [tokenizer.decode(row, skip_special_tokens=True) for row in rows]


@shares_options(without=("stack", "level", "clusters"))
def generate(
    model: Model,
    batch: Batches,
    steps: int,
    *,
    edits: Edits = (),
    copies: Sequence[Edits] | None = None,
    sample: Sampling | Beams | None = None,
    stop: Stop = None,
    logits: bool = False,
    capture: str | Sequence[str] = (),
    **options: Unpack[Options],
) -> Writing:
    """Let a model go on with each prompt, token by token; keys and values of earlier positions are kept.

    Prompts may be padded on either side: positions count real tokens, those of an encoder too. Without `sample` each
    token is the likeliest.

    Args:
        batch: prompts, one batch or a stream. An encoder–decoder goes on with the targets, which `model.encode` begins
            with the start token.
        steps: the number of tokens to write, at most.
        edits: edits of the prompt and of every step, the encoder's too. They must hold at all positions.
        copies: edits of several copies of the model, which write side by side, each with `edits` before its own. All
            have the same sites and shapes: "each head ablated" is `[jh.zero_heads(model, [head]) for head in heads]`.
        sample: draws tokens: a `jh.Sampling`, by this call's `seed`, copies by the same random numbers. Or searches for
            the likeliest text: a `jh.Beams`, which takes no `logits`, `capture` or strings in `stop`.
        stop: token ids and strings that end a text, in place of the end tokens of the model's config; () for none.
            Without an end token in the config, nothing ends a text.
        logits: whether to keep the logits of every step.
        capture: names of sites of the last stream and its cross-attention ("pattern", "decoder.z"), which are kept at
            every step; keys and values are not among them.
        options: shared by all questions: seed, memory, devices, progress, resume.

    Raises:
        ValueError: for a model that does not write, such as an encoder; for prompts that the model can't run, without a
            token, or too long for its context with `steps`; for an edit with an axis of positions, or copies that
            differ in shape; for a stop that is no token or string; for a site that is not there at every step.
    """
    whole("steps", steps, 1)
    resources, own = Resources.of(options), as_edits(edits)
    each = None if copies is None else [(*own, *as_edits(copy)) for copy in copies]
    given = own if each is None else stacked(each)
    writer = Writer(
        model,
        steps,
        Stops.of(model, stop),
        sample,
        _sites(model, capture),
        logits,
        options.get("seed", 0),
        None if each is None else len(each),
    )
    writer.check()
    results: list[dict[str, np.ndarray]] = []
    prompts: Prompts | None = None
    first = 0
    total = len(batch) if isinstance(batch, Batch) else None
    with show_progress(total, f"{model.name} writes", resources.progress) as advance:
        for current in each_batch(batch, "batch"):
            check_prompts(model, current, steps, own if each is None else [edit for copy in each for edit in copy])
            prompts = writer.prompts(current)
            results.append(writer.write(prompts, given, resources, first, advance))
            first += len(current)
    if prompts is None:
        raise ValueError("batch: expected at least one batch; the iterable gave none (a generator can be read once)")
    axis = int(each is not None)
    arrays = {name: np.concatenate([result[name] for result in results], axis=axis) for name in results[0]}
    single = isinstance(batch, Batch) and each is None
    return Writing(
        arrays["tokens"],
        arrays["lengths"],
        arrays.get("logits"),
        {name: np.moveaxis(arrays[name], 1 + axis, 0) for name, _, _ in writer.sites},
        writer.cache_bytes(prompts),
        prompts.written(arrays["tokens"], arrays["lengths"]) if single else None,
        provenance(model, question="generate", steps=steps, examples=first, sample=repr(sample), seed=writer.seed),
        model.tokenizer,
    )


def as_edits(edits: Edits) -> tuple[SiteEdit, ...]:
    """Return one edit or several as a tuple."""
    return (edits,) if isinstance(edits, SiteEdit) else tuple(edits)


def stacked(copies: Sequence[tuple[SiteEdit, ...]]) -> tuple[SiteEdit, ...]:
    """Return the edits of copies as edits with a leading axis of copies.

    Raises:
        ValueError: for no copy, or copies of other sites, stacks, operations or shapes.
    """
    if not copies:
        raise ValueError("copies: expected the edits of at least one copy, got none")
    kinds = [
        [(edit.stack, edit.site, edit.operation, edit.weight.shape, edit.source.shape) for edit in own]
        for own in copies
    ]
    if different := [number for number, kind in enumerate(kinds) if kind != kinds[0]]:
        raise ValueError(
            "copies must have edits of the same sites and shapes; the first has "
            f"{_words(kinds[0])}, number {different[0]} has {_words(kinds[different[0]])}"
        )
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *copies)


def _words(kinds: Sequence[tuple[Any, ...]]) -> str:
    return ", ".join(f"{stack}.{site} {list(shape)}" for stack, site, _, shape, _ in kinds) or "none"


def _sites(model: Model, capture: str | Sequence[str]) -> Sites:
    """Return name, stack and site of what is captured.

    Raises:
        ValueError: for a site that is not there, of a stack that runs only once, or of keys.
    """
    last = model.network.streams[-1]
    stacks = {stack.name for stack in last.members}
    sites = tuple((name, *model.site(name)) for name in ((capture,) if isinstance(capture, str) else capture))
    for name, stack, site in sites:
        if stack not in stacks or "T" not in SITES[site]:
            raise ValueError(
                f"capture: {name!r} is not there at every step: give sites of queries of {' or '.join(sorted(stacks))}"
                "; keys, values and the encoder's sites are those of jh.run on the whole text"
            )
    return sites
