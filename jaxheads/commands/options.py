"""Options of the commands that read a data set, from the command line and from a file. Nothing slow is imported."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import tyro

from ..precision import Arithmetic


@dataclass(frozen=True)
class OnData:
    """What every question about a data set says."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = ""
    """A zoo name (see `jaxheads zoo`), a hub id, a local directory, or a .gguf file."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = Path()
    """The examples: .txt (one a line), .jsonl, .csv or .parquet."""

    config: Path | None = None
    """A .toml, .yaml or .json file with any of these options by name (`max_length: 64`); the command line comes before
    it."""

    out: Path | None = None
    """Folder of the tables; ./COMMAND-MODEL/ when left out. A run that was stopped goes on where the same command is
    repeated."""

    limit: int | None = None
    """Read this number of examples at most."""

    max_length: int | None = None
    """Cut texts to this number of tokens. Without it, a text longer than the model reads is an error."""

    stack: str | None = None
    """The stack whose heads are asked about, in a model that has several: encoder, decoder, cross."""

    level: float = 0.95
    """Level of the intervals over examples."""

    clusters: str | None = None
    """Column of labels of examples that depend on each other, such as the document: intervals are then over these."""

    seed: int = 0
    """Seed of everything random."""

    memory: int = 1 << 30
    """Bytes for the activations of a chunk of work, on each device."""

    arithmetic: Arithmetic | None = None
    """Arithmetic of products of float32: full is the default on every device; differences makes sweeps faster where
    bfloat16 is, and fine differences nearly so, with smaller errors; fast is what the device does by itself, emulated
    bfloat16 and emulated tf32 what a TPU and a GPU do."""

    columns: ClassVar[tuple[str, ...]] = ("clusters",)
    """The options that name a column."""


@dataclass(frozen=True)
class Measure(OnData):
    """Attention patterns of every head on a data set, as tables: entropy, previous token, induction …

    jaxheads measure smollm2-135m texts.jsonl --metrics entropy induction --max-length 64
    """

    column: str = "text"
    """Column of the texts."""

    metrics: tuple[str, ...] = ()
    """Metrics by name, such as entropy or previous_token; all that fit the model when left out."""

    of: Literal["weights", "norms", "raw_norms"] = "weights"
    """Whether metrics read attention weights, or weights times the norms of the values that they move."""

    columns: ClassVar[tuple[str, ...]] = ("column", "clusters")


@dataclass(frozen=True)
class Ablate(OnData):
    """Effect of the ablation of each head on a data set, one at a time.

    jaxheads ablate smollm2-135m texts.txt --max-length 64

    jaxheads ablate smollm2-135m prompts.csv --objective logit-difference --right answer --wrong distractor
    """

    column: str = "text"
    """Column of the texts."""

    objective: Literal["loss", "logit-difference"] = "loss"
    """What is measured: the mean next-token loss (nats), or the logit of one answer less that of another, at the last
    token."""

    right: str = "right"
    """Column of the right answers of a logit difference, each one token, with its leading blank where it has one."""

    wrong: str = "wrong"
    """Column of the wrong answers."""

    method: Literal["mean", "zero", "resample"] = "mean"
    """What replaces a head's output: its mean over the other examples, zeros, or its output on another example."""

    by: tuple[str, ...] = ("layer", "head")
    """The cells: layer head, layer, or layer head position."""

    columns: ClassVar[tuple[str, ...]] = ("column", "right", "wrong", "clusters")


@dataclass(frozen=True)
class Patch(OnData):
    """Effect of putting each head's values from one run into another (activation patching).

    jaxheads patch smollm2-135m pairs.jsonl --site resid_pre --by layer position

    A line of pairs.jsonl is {"clean": "… gave it to", "corrupt": "… gave it to", "right": " Mary", "wrong": " John"}.
    """

    clean: str = "clean"
    """Column of the texts as they are."""

    corrupt: str = "corrupt"
    """Column of the same texts with what matters replaced, token for token."""

    right: str = "right"
    """Column of the clean text's answers, each one token, with its leading blank where it has one."""

    wrong: str = "wrong"
    """Column of the corrupt text's answers."""

    site: str = "z"
    """What is patched: z q k v pattern resid_pre attn_out mlp_out …"""

    by: tuple[str, ...] = ("layer", "head")
    """The cells: layer head, layer, layer position, or layer head position."""

    direction: Literal["denoising", "noising"] = "denoising"
    """Clean values into the corrupt run, or corrupt values into the clean run."""

    columns: ClassVar[tuple[str, ...]] = ("clean", "corrupt", "right", "wrong", "clusters")


@dataclass(frozen=True)
class Page:
    """One HTML file that shows every head of a model: what it does, where it looks, what the model loses without it.

    It is made of the model's atlas; where there is none, that is made first, which takes minutes.
    """

    model: Annotated[str, tyro.conf.Positional] = "smollm2-135m"
    """A zoo name (see `jaxheads zoo`), a hub id, a local directory, or a .gguf file."""

    beside: str | None = None
    """A second model, shown side by side with the first, with an atlas of its own."""

    atlas: Path | None = None
    """Folder of the model's atlas; ./atlas-MODEL/ when left out."""

    text: Path | None = None
    """Prose to look at the heads on: a UTF-8 file, passages apart by blank lines. Without it, the package's own."""

    images: Path | None = None
    """Folder of images, for a model that reads them. Without it, crops of one photograph."""

    audio: Path | None = None
    """Folder of recordings, for a model that reads audio (see `jaxheads atlas --help`)."""

    checkpoints: Path | None = None
    """Folder of models of the training, each in a folder whose name ends in its step, for each head's history."""

    headvis: Path | None = None
    """Folder to write to in HeadVis's format, too: what its page reads as data/."""

    out: Path | None = None
    """The file to write, or a folder for heads.html; the folder of the atlas when left out."""

    seed: int = 0
    """Seed of everything random."""


@dataclass(frozen=True)
class Compare:
    """Tables of two or more runs side by side: do they rank heads alike, and where do they differ?

    Each table that all folders have is compared with that of the first one: the rank correlation over heads, the share
    of the ten leading heads that both have, and, where both kept the same examples, the differences with their
    intervals.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = ()
    """Folders of saved tables, two or more."""

    out: Path | None = None
    """Folder for the tables of differences; without it they are only printed."""

    level: float = 0.95
    """Level of the intervals of differences."""


QUESTIONS: Mapping[str, type[OnData]] = {"measure": Measure, "ablate": Ablate, "patch": Patch}

AnyOptions = TypeVar("AnyOptions", bound=OnData)


def from_file(kind: type[AnyOptions], path: Path) -> AnyOptions:
    """Return a command's options with the values of a file.

    Raises:
        ValueError: for a file that can't be read, or an option that is unknown or of another type.
        FileNotFoundError: for a missing file.
    """
    known = {entry.name: entry for entry in dataclasses.fields(kind) if entry.name != "config"}
    stated = {name.replace("-", "_"): value for name, value in _contents(path).items()}
    if unknown := sorted(set(stated) - set(known)):
        raise ValueError(f"{path}: unknown options {', '.join(unknown)}; known are {', '.join(known)}")
    return kind(**{name: _value(path, name, known[name].type, value) for name, value in stated.items()})


def _contents(path: Path) -> Mapping[str, Any]:
    text = path.expanduser().read_text(encoding="utf-8")
    try:
        if path.suffix == ".toml":
            import tomllib

            contents = tomllib.loads(text)
        elif path.suffix in (".yaml", ".yml"):
            import yaml

            contents = yaml.safe_load(text)
        elif path.suffix == ".json":
            contents = json.loads(text)
        else:
            raise ValueError("expected a file that ends in .toml, .yaml or .json")
    except Exception as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path}: expected options by name, got {type(contents).__name__}")
    return contents


def _value(path: Path, name: str, annotation: Any, value: Any) -> Any:
    """Return a value of a file as the option's type has it; lists become tuples and texts paths."""
    words = str(annotation).partition(",")[0] if "Positional" in str(annotation) else str(annotation)
    if isinstance(value, list):
        value = tuple(value)
    fits: dict[str, Any] = {
        "tuple": isinstance(value, tuple) and all(isinstance(entry, str) for entry in value),
        "Path": isinstance(value, str),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "Literal": value in getattr(annotation, "__args__", ()),
        "str": isinstance(value, str),
    }
    expected = next(kind for kind in fits if kind in words)
    if not fits[expected]:
        choice = f"one of {', '.join(annotation.__args__)}" if expected == "Literal" else f"{expected}"
        raise ValueError(f"{path}: {name} must be {choice}, got {value!r}")
    return Path(str(value)) if expected == "Path" else value


def check(options: OnData, command: str) -> None:
    """Raise ValueError, with the flag's name, for what can't be meant, before a model is fetched."""
    if not options.model.strip():
        raise ValueError(f"MODEL is missing: jaxheads {command} MODEL DATA, or `model` in the file of --config")
    if not options.data.expanduser().is_file():
        given = "DATA is missing" if options.data == Path() else f"{options.data} is not there"
        raise ValueError(f"{given}: expected a file .txt, .jsonl, .csv or .parquet")
    for name in ("limit", "max_length", "memory"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
    if not 0 < options.level < 1 or math.isnan(options.level):
        raise ValueError(f"--level must lie between 0 and 1, got {options.level}")
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"--seed must be from 0 up, below 2 to the 32, got {options.seed}")


def config_path(words: Sequence[str]) -> Path | None:
    """Return the path after --config among the words of a command."""
    for number, word in enumerate(words):
        if word == "--config" and number + 1 < len(words):
            return Path(words[number + 1])
        if word.startswith("--config="):
            return Path(word.partition("=")[2])
    return None
