"""A model as its user holds it, and one run of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from .inputs.audio import Audio
from .inputs.axes import Positions
from .inputs.batch import Batch
from .inputs.encoding import Text, encode, encode_audio
from .inputs.images import Picture, are_images, image_pixels
from .network import Network, forward
from .sites import SiteEdit
from .stack import Sites, Stack


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Run:
    """What a forward pass gave.

    Attributes:
        output: logits `[B,T,V]`, or of a classifier `[B,classes]`; the last hidden state `[B,T,D]` of a model without a
            head; `[images, texts]` of one that compares them.
        seen: the captured sites, each with a leading layer axis, by the names they were asked for.
    """

    output: Array
    seen: dict[str, Array]


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its config, its tokenizer, and where it came from.

    Attributes:
        network: the Flax module, a pytree: `jax.jit`, `vmap` and `grad` take it.
        tokenizer: the checkpoint's tokenizer, or None (`no_tokenizer` then says why).
        name: what the user asked for.
        identity: gives a hash or a revision of the weights, for provenance.
        hf_config: the config as Hugging Face has it, from which `config` was read; None for networks made by hand.
        preprocessor: what the checkpoint says of how images become pixels, if it does.
    """

    network: Any
    tokenizer: Any = None
    no_tokenizer: str = "the model was built without one"
    name: str = "unnamed"
    identity: Callable[[], str] = field(default=lambda: "unknown", repr=False)
    hf_config: Mapping[str, Any] | None = field(default=None, repr=False)
    preprocessor: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def config(self) -> Any:
        """The family's frozen config."""
        return self.network.config

    @property
    def stacks(self) -> Mapping[str, Stack]:
        """The stacks by name, in the order they run."""
        return {stack.name: stack for stack in self.network.stacks}

    @property
    def causal(self) -> bool:
        """Whether the last stream predicts the next token: its attention looks back only."""
        return self.network.streams[-1].causal

    def stack(self, name: str | None = None) -> Stack:
        """A stack by name; without one, the only stack.

        Raises:
            ValueError: if there is no such stack, or no name was given and there are several.
        """
        stacks = self.stacks
        if name is None and len(stacks) == 1:
            return next(iter(stacks.values()))
        if name is None or name not in stacks:
            raise ValueError(f"{self.name} has the stacks {', '.join(stacks)}; got {name!r}")
        return stacks[name]

    def site(self, name: str) -> tuple[str, str]:
        """`(stack, site)` of a site's name, with or without its stack's prefix: "z", "decoder.z".

        Raises:
            ValueError: for a stack or a site that this model does not have, with those it has.
        """
        prefix, _, site = name.rpartition(".")
        stack = self.stack(prefix or None)
        if site not in stack.sites:
            raise ValueError(f"the {stack.name} of {self.name} has the sites {', '.join(stack.sites)}; got {name!r}")
        return stack.name, site

    def encode(
        self,
        inputs: Text | Sequence[Text] | Picture | Sequence[Picture] | Audio | None = None,
        *,
        images: Picture | Sequence[Picture] | None = None,
        targets: str | Sequence[str] | None = None,
        bos: bool | None = None,
        max_length: int | None = None,
        side: str = "right",
        sampling_rate: int | None = None,
    ) -> Batch:
        """A batch of texts, padded to the longest; of images; of both; or of audio, padded with silence to what the
        model reads.

        Args:
            inputs: one text or several: strings, tuples of two strings that belong together ("[CLS] a [SEP] b [SEP]"),
                or lists of words (the batch then says which word each piece belongs to, see `jaxheads.pool_words`).
                Of a model that reads images alone, these; of one that reads audio, a mono recording, an array of floats
                from -1 to 1, or several in a list.
            images: one image or several, for a model that reads texts and images: Pillow's, or arrays (height, width,
                3) of 8-bit integers or of floats from 0 to 1; resized, cropped and normalised as the checkpoint's
                preprocessor_config.json says.
            targets: of an encoder–decoder: what the decoder has written so far, after its start token, with the end
                token; the start token alone when left out. Whisper's tokenizer says what comes between them
                (`model.tokenizer.set_prefix_tokens(language="en", task="transcribe")`).
            bos: True puts the beginning-of-sequence token first unless the tokenizer did; False takes it away;
                None leaves it to the tokenizer.
            max_length: cut texts to this many tokens. Without it nothing is ever cut.
            side: where padding of texts goes, "right" or "left".
            sampling_rate: of audio, samples a second: 16,000, which it is taken for when left out.

        Raises:
            ValueError: without a tokenizer, for no text or an empty one, for a text longer than the context, or if
                `bos` is asked of a tokenizer that has none; for images without settings, or with some that are not
                understood, or images that are none; for audio of another rate, with several channels, not of finite
                floats, empty or too long; for an argument that is not for what the model reads.
        """
        kinds = {stack.queries.kind for stack in self.network.streams}
        if "patches" not in kinds and images is not None:
            raise ValueError(f"{self.name} takes no images")
        if "frames" not in kinds and sampling_rate is not None:
            raise ValueError(f"sampling_rate is for audio; {self.name} reads {' and '.join(sorted(kinds))}")
        if "frames" in kinds:
            if bos is not None or max_length is not None:
                raise ValueError(f"bos and max_length are for texts; {self.name} reads audio")
            batch = self._recordings(inputs, targets, sampling_rate, side)
        elif "patches" in kinds:
            batch = self._pictures(inputs, images, targets, bos=bos, max_length=max_length, side=side)
        else:
            batch = self._texts(inputs, targets, bos=bos, max_length=max_length, side=side)
        self.check(batch)
        return batch

    def _texts(self, texts: Any, targets: Any, **how: Any) -> Batch:
        if are_images(texts):
            raise ValueError(f"{self.name} takes no images or audio; it reads texts")
        if self.tokenizer is None:
            raise ValueError(f"{self.name} has no tokenizer ({self.no_tokenizer}); give token ids: jh.Batch(tokens=…)")
        return encode(self.tokenizer, texts, targets=targets, start=self._start(), **how)

    def _recordings(self, audio: Any, targets: Any, rate: int | None, side: str) -> Batch:
        if self.tokenizer is None and targets is not None:
            raise ValueError(f"{self.name} has no tokenizer ({self.no_tokenizer}); give token ids: jh.Batch(targets=…)")
        mels, frames = self.network.spectrogram
        start = self._start()
        return encode_audio(
            self.tokenizer, audio, mels=mels, frames=frames, rate=rate, side=side, targets=targets, start=start
        )

    def _pictures(self, inputs: Any, images: Any, targets: Any, **how: Any) -> Batch:
        """Images, texts, or texts with images."""
        if images is None and are_images(inputs):
            inputs, images = None, inputs
        if images is not None and self.preprocessor is None:
            raise ValueError(
                f"{self.name} has no preprocessor_config.json to say how images become pixels; give them normalised: "
                "jh.Batch(pixels=…)"
            )
        pixels = None if images is None else image_pixels(images, self.preprocessor or {})
        if inputs is None:
            return Batch(pixels=pixels)
        if all(stack.queries.kind == "patches" for stack in self.network.streams):
            raise ValueError(f"{self.name} takes images, not texts")
        batch = self._texts(inputs, targets, **how)
        return (
            batch
            if pixels is None
            else Batch(batch.tokens, batch.mask, batch.token_types, words=batch.words, pixels=pixels)
        )

    def _start(self) -> int | None:
        """The token that a decoder beside an encoder begins with; None for models without one."""
        if all(stack.queries.kind != "targets" for stack in self.network.streams):
            return None
        start = (self.hf_config or {}).get("decoder_start_token_id")
        if start is None:
            raise ValueError(f"the config of {self.name} has no decoder_start_token_id; give ids: jh.Batch(targets=…)")
        return start

    def check(self, batch: Batch) -> None:
        """Raise ValueError if the batch can't go through: parts that the model needs are missing, or it has some that
        the model does not take; token ids or types outside the vocabulary; more real tokens than the context holds.
        While tracing, values can't be seen, and only the parts are checked."""
        axes = {axis.kind: axis for stack in self.network.stacks for axis in (stack.queries, stack.keys)}
        needed = {_PARTS[kind] for kind in axes}
        given = {part for part in _PARTS.values() if getattr(batch, part) is not None}
        some = self.network.apart and given and given < needed
        if given != needed and not some:
            raise ValueError(f"{self.name} takes {', '.join(sorted(needed))}; the batch has {', '.join(sorted(given))}")
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(batch)):
            return
        for kind in ("tokens", "targets"):
            if kind in axes and kind in given:
                self._check_ids(kind, axes[kind].of(batch))
        if "tokens" in axes and "tokens" in given:
            types, kinds = np.asarray(batch.token_types), getattr(self.config, "type_vocab_size", None)
            if kinds is not None and (types.min() < 0 or types.max() >= kinds):
                wrong = types[(types < 0) | (types >= kinds)][0]
                raise ValueError(f"token types of {self.name} lie in 0..{kinds - 1}; got {wrong}")
        self.network.check(batch)

    def check_runs(self, stack: Stack, batch: Batch) -> None:
        """Raise ValueError if the batch has nothing for this stack (where stacks are apart, it may have it for one)."""
        part = _PARTS[stack.queries.kind]
        if getattr(batch, part) is None:
            raise ValueError(f"the batch has no {part}: the {stack.name} of {self.name} does not run")

    def _check_ids(self, kind: str, side: Positions) -> None:
        tokens, mask = np.asarray(side.ids), np.asarray(side.mask)
        vocabulary, context = self.config.vocab_size, self.config.max_position_embeddings
        outside = (tokens < 0) | (tokens >= vocabulary)
        if outside.any():
            where = np.argwhere(outside)[0]
            raise ValueError(
                f"token ids of {self.name} lie in 0..{vocabulary - 1}; "
                f"got {tokens[tuple(where)]} in example {where[0]} at position {where[1]} of {kind}"
            )
        longest = int(mask.sum(axis=1).max())
        if context is not None and longest > context:
            raise ValueError(f"{self.name} takes up to {context} {kind}; got {longest}. Cut or split the text")


_PARTS = {"tokens": "tokens", "targets": "targets", "patches": "pixels", "frames": "features"}
"""By an axis's kind, the part of the batch that it comes from."""


def run(model: Model, batch: Batch, capture: Sequence[str] = (), edits: Sequence[SiteEdit] | SiteEdit = ()) -> Run:
    """One forward pass, with edits, keeping the sites named in `capture`.

    Args:
        capture: names of sites ("pattern", "z", "decoder.resid_post"); each comes back in `run.seen` with a leading
            layer axis, shapes as in `jaxheads.models.attention`.
        edits: one edit or several, applied in order; see `jaxheads.edits`.

    Raises:
        ValueError: for a batch the model can't take, a site it does not have, or an edit that can hit nothing.
    """
    edits = (edits,) if isinstance(edits, SiteEdit) else tuple(edits)
    model.check(batch)
    for edit in edits:
        check_edit(model, batch, edit)
    sites = tuple((name, *model.site(name)) for name in ((capture,) if isinstance(capture, str) else capture))
    for _, stack, _ in sites:
        model.check_runs(model.stack(stack), batch)
    return _run(model.network, batch, edits, sites)


@partial(jax.jit, static_argnames="sites")
def _run(network: Network, batch: Batch, edits: tuple[SiteEdit, ...], sites: tuple[tuple[str, str, str], ...]) -> Run:
    wanted: dict[str, set[str]] = {}
    for _, stack, site in sites:
        wanted.setdefault(stack, set()).add(site)
    readers = {stack: partial(_read_sites, own) for stack, own in wanted.items()}
    x_BTD, kept = forward(network, batch, edits, readers)
    return Run(network.output(x_BTD, batch), {name: kept[stack][site] for name, stack, site in sites})


def _read_sites(wanted: set[str], seen: Sites) -> dict[str, Array]:
    return {site: seen[site] for site in wanted}


def check_edit(model: Model, batch: Batch, edit: SiteEdit) -> None:
    """Raise ValueError if the edit can hit nothing in this model: an unknown stack or site, a layer that is not
    there, or arrays that don't fit the site's shape. While tracing, what can't be seen is not checked."""
    stack = model.stack(edit.stack)
    if edit.site not in stack.sites:
        raise ValueError(f"an edit at {edit.site!r} hits nothing: the {stack.name} has {', '.join(stack.sites)}")
    if not isinstance(edit.layers, Tracer):
        layers = np.asarray(edit.layers)
        if layers.size == 0 or layers.min() < 0 or layers.max() >= stack.layers:
            raise ValueError(f"an edit at layers {layers.tolist()} hits nothing: layers are 0..{stack.layers - 1}")
    model.check_runs(stack, batch)
    shape = stack.site_shape(edit.site, *stack.queries.of(batch).shape, stack.keys.count(batch))
    for name, part in (("weight", edit.weight), ("source", edit.source)):
        expected = (edit.layers.shape[0], *shape)
        fits = len(part.shape) == len(expected) and all(
            a in (1, b) for a, b in zip(part.shape[1:], expected[1:], strict=True)
        )
        if not fits or part.shape[0] != expected[0]:
            raise ValueError(f"{name} of an edit at {edit.site} must broadcast to {expected}, got {part.shape}")
