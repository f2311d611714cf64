"""The model that users hold, and one run of it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from ..arguments import among, at_least, checked, settles
from ..checks import all_finite, nearest, one_of, shown
from ..columns import listed
from ..programs import compiled
from .captures import Constant, Run, RunSource
from .described import model_words
from .given import as_batch
from .inputs.audio import Audio
from .inputs.batch import Batch, Positions, Texts
from .inputs.encoding import Text, encode, encode_audio, unknown_share
from .inputs.images import Picture, are_images, image_pixels
from .inputs.packing import check_packing
from .network import Network, check_network, forward
from .own_parameters import other_parameters, parameters_identity
from .sites import SiteEdit
from .stack import Sites, Stack


@checked(network=check_network)
@dataclass(frozen=True, eq=False)
class Model:
    """A network with its config, its tokenizer and its provenance.

    It can be pickled and deep-copied. Parameters that are split over devices come back on one.

    Attributes:
        network: the Flax module, a pytree: `jax.jit`, `vmap` and `grad` take it.
        tokenizer: the checkpoint's tokenizer, or None.
        no_tokenizer: the reason why `tokenizer` is None.
        name: the source that the user named.
        identity: returns a hash or a revision of the weights, for provenance.
        hf_config: the Hugging Face config from which `config` was read; None for networks built by hand.
        preprocessor: the contents of the checkpoint's preprocessor_config.json, or None.
    """

    network: Any
    tokenizer: Any = None
    no_tokenizer: str = "the model was built without one"
    name: str = "unnamed"
    identity: Callable[[], str] = field(default=lambda: "unknown", repr=False)
    hf_config: Mapping[str, Any] | None = field(default=None, repr=False)
    preprocessor: Mapping[str, Any] | None = field(default=None, repr=False)
    _warned: set[str] = field(default_factory=set, init=False, repr=False)

    def __repr__(self) -> str:
        return model_words(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields for pickle: `identity` as the text that it returns, because functions can't be pickled."""
        return {**self.__dict__, "identity": Constant(self.identity())}

    @property
    def config(self) -> Any:
        """The family's frozen config."""
        return self.network.config

    @property
    def stacks(self) -> Mapping[str, Stack]:
        """Stacks by name, in the order they run."""
        return {stack.name: stack for stack in self.network.stacks}

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes that the model's logits are of, as `id2label` of its config has them; else None.

        The classes of a model that answers questions are "start" and "end".
        """
        network = self.network
        if network.classes_of is None:
            return None
        if network.classes_of == "answer":
            return "start", "end"
        names = {str(number): name for number, name in ((self.hf_config or {}).get("id2label") or {}).items()}
        return tuple(str(names.get(f"{n}", f"LABEL_{n}")) for n in range(network.unembedding.weight.shape[0]))

    @property
    def causal(self) -> bool:
        """Whether queries of the last stream see no later keys, so that it can predict the next token."""
        return self.network.streams[-1].causal

    @checked()
    def with_parameters(
        self, parameters: Any, table: Mapping[str, Any] | None = None, *, name: str | None = None
    ) -> "Model":
        """Return the same model with other weights, such as those of a later step of its training.

        Nothing is compiled anew. Weights get this model's dtypes and devices. Under the paths of this network they may
        be traced (`jax.grad`, `jax.jit`), and arrays of JAX are shared, not copied.

        Args:
            parameters, table: as in `jh.adopt`: by Hugging Face's names, by the paths of this network (as the state
                `nnx.state(model.network, nnx.Param)` has them), or by a table.
            name: the new model's name; this one's when left out.

        Raises:
            ValueError: for arrays that are missing, left over or of a wrong shape, all in one message.
        """
        network = other_parameters(self, parameters, table or {})
        identity = cache(partial(parameters_identity, network))
        return replace(self, network=network, name=self.name if name is None else name, identity=identity)

    @checked()
    def stack(self, name: str | None = None) -> Stack:
        """Return a stack by name; without a name, the only stack.

        Raises:
            ValueError: for an unknown name, or without a name in a model with several stacks.
        """
        stacks = self.stacks
        if name is None and len(stacks) == 1:
            return next(iter(stacks.values()))
        if name is None or name not in stacks:
            hint = nearest(name, stacks)
            raise ValueError(f"stack: {self.name} has the stacks {', '.join(stacks)}; got {name!r}{hint}")
        return stacks[name]

    @checked()
    def site(self, name: str) -> tuple[str, str]:
        """Split a site's name, with or without its stack's prefix ("z", "decoder.z"), into stack and site.

        Raises:
            ValueError: for a stack or a site that this model does not have; the message lists those it has.
        """
        prefix, _, site = name.rpartition(".")
        stack = self.stack(prefix or None)
        if site not in stack.sites:
            hint = nearest(site, stack.sites)
            raise ValueError(
                f"site: the {stack.name} of {self.name} has the sites {', '.join(stack.sites)}; got {name!r}{hint}"
            )
        return stack.name, site

    @checked(max_length=at_least(1), side=among(("right", "left")))
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
        """Encode texts, images, both, or audio as a batch.

        Texts are padded to the longest, audio with silence to the length that the model reads. A special token that a
        text holds already, as that of a chat template does, does not come a second time from the tokenizer. Once per
        model, a warning says so; another, that more than half of a call's tokens are the unknown token. Columns of
        pandas, polars and Arrow and arrays of texts are taken as lists.

        Args:
            inputs: for a model that reads texts, one text or several: strings, pairs of texts as tuples ("[CLS] a
                [SEP] b [SEP]"), or lists of words (`words` of the batch then assigns tokens to words, see
                `jaxheads.pool_words`). For a model that reads only images, as in `images`. For a model that reads
                audio, one mono recording, an array of floats from -1 to 1, or several in a list.
            images: one image or several, for a model that reads texts and images: Pillow images, or arrays (height,
                width, 3) of 8-bit integers or of floats from 0 to 1. They are resized, cropped and normalised by the
                checkpoint's preprocessor_config.json.
            targets: for an encoder–decoder, the decoder's input: the text after its start token, with the end token.
                When left out, the start token alone; for a classifier, the text that is read. Whisper's tokenizer adds
                its prefix (`model.tokenizer.set_prefix_tokens(language="en", task="transcribe")`).
            bos: True puts the beginning-of-sequence token first unless the tokenizer did; False removes it; None
                leaves it to the tokenizer.
            max_length: cut texts and targets to this number of tokens, special ones among them, as the tokenizer
                cuts them: special tokens stay, and of a pair the longer text is cut first. Without it nothing is cut.
            side: side on which texts are padded, "right" or "left".
            sampling_rate: samples per second of audio; must be 16,000, the default.

        Raises:
            ValueError: without a tokenizer; for no text, one without a token, or one longer than the context; for a
                `max_length` that leaves no token of a text; for `bos` with a tokenizer that has none; for images
                without a preprocessor_config.json, settings that are not understood, or an array that is no image; for
                audio of another rate, with several channels, not of finite floats, empty or too long; for an argument
                that the model does not read.
        """
        inputs, images, targets = listed(inputs), listed(images), listed(targets)
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
        self._warn_of_unknown(batch)
        return batch

    def _warn_of_unknown(self, batch: Batch) -> None:
        if (share := unknown_share(self.tokenizer, batch)) <= 0.5:
            return
        self._warn_once(
            "unknown tokens",
            f"{share:.0%} of these tokens are the unknown token {self.tokenizer.unk_token!r} of {self.name}; for text "
            "that the model was trained to read, few or none are expected. Check that the text is in the model's "
            "language and letter case, and that the tokenizer's files belong to this model",
        )

    def _warn_once(self, subject: str, message: str) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            warnings.warn(message, stacklevel=4)

    def _texts(self, texts: Any, targets: Any, **options: Any) -> Batch:
        if are_images(texts):
            raise ValueError(f"{self.name} takes no images or audio; it reads texts")
        if self.tokenizer is None:
            raise ValueError(f"{self.name} has no tokenizer ({self.no_tokenizer}); give token ids: jh.Batch(tokens=…)")
        warn = partial(self._warn_once, "special tokens")
        own = self.network
        more = {"start": self.start_token(), "repeats": own.repeats_source, "length": own.text_length}
        return encode(self.tokenizer, texts, targets=targets, warn=warn, **more, **options)

    def _recordings(self, audio: Any, targets: Any, rate: int | None, side: str) -> Batch:
        if self.tokenizer is None and targets is not None:
            raise ValueError(f"{self.name} has no tokenizer ({self.no_tokenizer}); give token ids: jh.Batch(targets=…)")
        mels, frames = self.network.spectrogram
        start = self.start_token()
        return encode_audio(
            self.tokenizer, audio, mels=mels, frames=frames, rate=rate, side=side, targets=targets, start=start
        )

    def _pictures(self, inputs: Any, images: Any, targets: Any, **options: Any) -> Batch:
        """Encode images, texts, or texts with images."""
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
        batch = self._texts(inputs, targets, **options)
        if pixels is None:
            return batch
        return Batch(batch.tokens, batch.mask, batch.token_types, words=batch.words, pixels=pixels)

    def start_token(self) -> int | None:
        """Return the start token of an encoder–decoder's decoder; None for other models.

        Raises:
            ValueError: for an encoder–decoder whose config names none.
        """
        if all(stack.queries.kind != "targets" for stack in self.network.streams):
            return None
        start = (self.hf_config or {}).get("decoder_start_token_id")
        if start is None:
            raise ValueError(f"the config of {self.name} has no decoder_start_token_id; give ids: jh.Batch(targets=…)")
        return start

    @checked()
    def check(self, batch: Batch, *, packed: bool = False) -> None:
        """Raise ValueError if the model can't run the batch, or if it is packed unless `packed` texts are expected.

        That is a batch that lacks a field which the model reads, or has one that it does not read; token ids or types
        outside the vocabulary; or more real tokens than the context holds. While tracing, only the fields are checked.
        """
        axes = {axis.kind: axis for stack in self.network.stacks for axis in (stack.queries, stack.keys)}
        needed = {_FIELD_OF[kind] for kind in axes}
        present = {field for field in _FIELD_OF.values() if getattr(batch, field) is not None}
        enough = self.network.apart and present and present < needed
        if present != needed and not enough:
            both = (", ".join(sorted(fields)) for fields in (needed, present))
            raise ValueError("{} takes {}; the batch has {}".format(self.name, *both))
        check_packing(self.name, self.network, batch, packed=packed)
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(batch)):
            return
        for kind in ("tokens", "targets"):
            if kind in axes and kind in present:
                self._check_ids(kind, axes[kind].of(batch))
        if "tokens" in axes and "tokens" in present:
            types, kinds = np.asarray(batch.token_types), getattr(self.config, "type_vocab_size", None)
            if kinds is not None and (types.min() < 0 or types.max() >= kinds):
                wrong = types[(types < 0) | (types >= kinds)][0]
                raise ValueError(f"token types of {self.name} lie in 0..{kinds - 1}; got {wrong}")
        self.network.check(batch)

    @checked()
    def running_streams(self, batch: Batch) -> tuple[Stack, ...]:
        """Return the streams that the batch has inputs for: all, unless streams read nothing of each other."""
        streams = self.network.streams
        return tuple(stream for stream in streams if getattr(batch, _FIELD_OF[stream.queries.kind]) is not None)

    @checked()
    def check_runs(self, stack: Stack, batch: Batch) -> None:
        """Raise ValueError if this stack does not run, because the batch has inputs for another stack only."""
        field = _FIELD_OF[stack.queries.kind]
        if getattr(batch, field) is None:
            raise ValueError(f"the batch has no {field}: the {stack.name} of {self.name} does not run")

    def _check_ids(self, kind: str, positions: Positions) -> None:
        tokens = np.asarray(positions.ids)
        vocabulary, context = self.config.vocab_size, self.config.max_position_embeddings
        outside = (tokens < 0) | (tokens >= vocabulary)
        if outside.any():
            example, position = np.argwhere(outside)[0]
            raise ValueError(
                f"token ids of {self.name} lie in 0..{vocabulary - 1}; "
                f"got {tokens[example, position]} in example {example} at position {position} of {kind}"
            )
        longest = positions.longest  # of texts that share an example, each by itself
        if context is not None and longest > context:
            raise ValueError(f"{self.name} takes up to {context} {kind}; got {longest}. Cut or split the text")


settles(Batch)(as_batch)
_FIELD_OF = {"tokens": "tokens", "targets": "targets", "patches": "pixels", "frames": "features"}
"""Field of a batch that an axis comes from, by the axis's kind."""


@checked()
def run(
    model: Model, batch: Batch | Texts, capture: str | Sequence[str] = (), edits: Sequence[SiteEdit] | SiteEdit = ()
) -> Run:
    """Run one forward pass, with edits, and keep the sites named in `capture`.

    Args:
        capture: names of sites ("pattern", "z", "decoder.resid_post"). `run.seen` holds each with a leading layer
            axis, before the axes that `jaxheads.models.sites.SITES` lists.
        edits: one edit or several, applied in order; see `jaxheads.edits`.

    Raises:
        ValueError: for a batch the model can't run, a site it does not have, or an edit that can change nothing.
    """
    edits = (edits,) if isinstance(edits, SiteEdit) else tuple(edits)
    model.check(batch, packed=True)
    for edit in edits:
        check_edit(model, batch, edit)
    sites = tuple((name, *model.site(name)) for name in ((capture,) if isinstance(capture, str) else capture))
    for _, stack, _ in sites:
        model.check_runs(model.stack(stack), batch)
    return replace(_run(model.network, batch, edits, sites), source=RunSource.of(model, batch, edits))


@partial(compiled, static_argnames="sites")
def _run(network: Network, batch: Batch, edits: tuple[SiteEdit, ...], sites: tuple[tuple[str, str, str], ...]) -> Run:
    wanted: dict[str, set[str]] = {}
    for _, stack, site in sites:
        wanted.setdefault(stack, set()).add(site)
    readers = {stack: partial(_read_sites, names) for stack, names in wanted.items()}
    x_BTD, readings = forward(network, batch, edits, readers)
    return Run(network.output(x_BTD, batch), {name: readings[stack][site] for name, stack, site in sites})


def _read_sites(names: set[str], seen: Sites) -> dict[str, Array]:
    return {name: seen[name] for name in names}


def check_edit(model: Model, batch: Batch, edit: SiteEdit) -> None:
    """Raise ValueError if the edit can change nothing in this model.

    That is an unknown stack, site or layer, or arrays that don't broadcast to the site's shape. While tracing, layers
    are not checked.
    """
    stack = model.stack(edit.stack)
    one_of("the operation of an edit", edit.operation, ("mix", "add", "window"))
    if edit.site not in stack.sites:
        raise ValueError(f"an edit at {edit.site!r} hits nothing: the {stack.name} has {', '.join(stack.sites)}")
    for name in ("layers", "weight", "source"):
        if not hasattr(getattr(edit, name), "shape"):
            raise ValueError(f"{name} of an edit must be an array, got {shown(getattr(edit, name))}")
    if not isinstance(edit.layers, Tracer):
        layers = np.asarray(edit.layers)
        if layers.size == 0 or layers.min() < 0 or layers.max() >= stack.layers:
            raise ValueError(f"an edit at layers {layers.tolist()} hits nothing: layers are 0..{stack.layers - 1}")
        if len(np.unique(layers)) < layers.size:
            raise ValueError(f"layers of an edit must each be named once, got {layers.tolist()}")
    all_finite(f"the weight of an edit at {edit.site}", edit.weight)
    model.check_runs(stack, batch)
    shape = stack.site_shape(edit.site, *stack.queries.of(batch).shape, stack.keys.count(batch))
    for name, array in (("weight", edit.weight), ("source", edit.source)):
        expected = (edit.layers.shape[0], *shape)
        fits = len(array.shape) == len(expected) and all(
            a in (1, b) for a, b in zip(array.shape[1:], expected[1:], strict=True)
        )
        if not fits or array.shape[0] != expected[0]:
            raise ValueError(f"{name} of an edit at {edit.site} must broadcast to {expected}, got {array.shape}")
