"""Names of weight files: which of a directory's, or of a repository's, are the model's weights."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from .containers import listed

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"

CONTAINERS = (SAFETENSORS, PICKLE)
"""Usual names of the weight file, in order of preference."""

INDEX = ".index.json"
"""End of the name of the file that lists a weight file's shards."""

_SHARD = re.compile(r"[-_.](\d{1,6})-of-(\d{1,6})")
_OTHER = re.compile(
    r"(adapter_|optimizer|scheduler|scaler|rng_state|random_states|training_args|consolidated|tokenizer|vocab|"
    r"embeddings?\b|openvino|quant).*"
)
"""Begins of the names of files that hold something else than the weights by Hugging Face's names."""

_PRECISE_FIRST = ("fp32", "bf16", "fp16")

_ELSEWHERE = (
    (r".*\.gguf", 'GGUF files: name one of them, jh.load("…/NAME.gguf"), after `hf download`'),
    (r"adapter_model\..*", "an adapter: load the model that its adapter_config.json names"),
    (
        r".*\.(h5|msgpack|ckpt.*)|.*\.index",
        "weights of TensorFlow or Flax: convert them with transformers 4, "
        "AutoModel.from_pretrained(…, from_tf=True or from_flax=True).save_pretrained(…)",
    ),
    (r"consolidated.*", "weights under the names of their first release: fetch those for transformers"),
    (r".*\.onnx", "an ONNX graph: fetch the weights it was made from"),
    (r"model_index\.json", "a pipeline of several models: name the folder of one of them"),
)
"""What a repository without weights of ours may hold instead, and what to do then."""


class NothingFits(FileNotFoundError):
    """Error for a directory or a repository whose files are not the weights of a model, or not all of them."""


@dataclass(frozen=True)
class WeightFiles:
    """Weight files of a model.

    Attributes:
        container: SAFETENSORS or PICKLE, whatever the files are called.
        files: their names; without an index all of them, with one those that may be shards.
        index: the name of the file that lists the shards, or None.
    """

    container: str
    files: tuple[str, ...]
    index: str | None = None


@dataclass
class _Group:
    """Files of a container in one variant."""

    whole: str | None = None
    index: str | None = None
    shards: dict[int, str] = field(default_factory=dict)
    counts: set[int] = field(default_factory=set)

    def add(self, name: str) -> None:
        """Add a file."""
        if name.endswith(".json"):
            self.index = name
        elif (shard := _SHARD.search(name)) is not None:
            self.shards[int(shard[1])] = name
            self.counts.add(int(shard[2]))
        else:
            self.whole = name

    def files(self, container: str) -> WeightFiles:
        """Return the weights; raise FileNotFoundError for shards of which some are missing."""
        if self.whole is not None:
            return WeightFiles(container, (self.whole,))
        shards = tuple(self.shards[number] for number in sorted(self.shards))
        if self.index is not None:
            return WeightFiles(container, shards, self.index)
        first = 0 if 0 in self.shards else 1
        missing = [number for number in range(first, first + max(self.counts)) if number not in self.shards]
        if missing or len(self.counts) > 1:
            raise NothingFits(
                f"{len(missing)} of the {max(self.counts)} shards beside {shards[0]} are missing: "
                f"{listed([str(number) for number in missing])}. Fetch them too."
            )
        return WeightFiles(container, shards)


def weight_files(names: Collection[str]) -> WeightFiles | None:
    """Return the weight files among the names of a directory's or a repository's files; None if there are none.

    Usual names go first (`model.safetensors`, then `pytorch_model.bin`: one file, shards with an index, shards without
    one), then variants (`model.fp16.safetensors`), then a single file of another name.

    Raises:
        FileNotFoundError: for shards without an index of which some are missing.
    """
    names = sorted(name for name in names if "/" not in name)
    groups: dict[tuple[str, str], _Group] = {}
    for container in CONTAINERS:
        for name in names:
            if (variant := _variant(name, container)) is not None:
                groups.setdefault((container, variant), _Group()).add(name)
    if groups:
        container, variant = min(groups, key=_preference)
        return groups[container, variant].files(container)
    for container in CONTAINERS:
        others = [name for name in names if name.endswith(_ending(container)) and not _OTHER.match(name)]
        if len(others) == 1:
            return WeightFiles(container, (others[0],))
    return None


def _ending(container: str) -> str:
    return container[container.rindex(".") :]


def _variant(name: str, container: str) -> str | None:
    """Return the variant of a container's file, "" for the usual one; None for a file of another kind."""
    ending = _ending(container)
    stem = container.removesuffix(ending)
    if not name.startswith(stem) or ending not in name:
        return None
    rest = _SHARD.sub("", name.removeprefix(stem), count=1).replace(ending, "")
    if name.endswith(".json"):
        rest, _, json = rest.removesuffix(".json").partition(".index")
        rest = rest + json if ".index" in name else "?"
    elif not name.endswith(ending):
        return None
    return rest[1:] if re.fullmatch(r"(\.[\w-]+)?", rest) else None


def _preference(group: tuple[str, str]) -> tuple:
    container, variant = group
    return (variant != "", *(variant != precise for precise in _PRECISE_FIRST), CONTAINERS.index(container), variant)


def nothing_fits(where: str, names: Collection[str], lacking: str = "weights") -> NothingFits:
    """Return the error for a directory or a repository without weights that can be read, or without a config.json."""
    held = sorted(names)
    hints = [advice for pattern, advice in _ELSEWHERE if any(re.fullmatch(pattern, name) for name in held)]
    expected = (
        f"{' or '.join(CONTAINERS)}, or one of them in shards" if lacking == "weights" else "one beside its weights"
    )
    return NothingFits(
        f"{where} has no {lacking}: expected {expected}. It holds {listed(held, 20) or 'nothing'}."
        f"{' That is ' if hints else ''}{'; '.join(hints)}"
    )
