"""A CTranslate2 directory (faster-whisper's container) as a Whisper checkpoint.

model.bin, version 6, little-endian: the version (uint32); the name of the model's spec and its revision (uint32); the
number of variables (uint32), and for each its name, rank (uint8), sizes (uint32), dtype (uint8), number of bytes
(uint32), and these bytes; the number of aliases (uint32), each a pair of names. A name follows its length (uint16),
which counts the NUL at its end. Projections of the same input are stored as one matrix, concatenated along its rows.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import ml_dtypes
import numpy as np

from ...checks import shown
from .checkpoint import Checkpoint, Tensor, files_identity
from .config_fields import check_fields
from .containers import file_size, is_present, listed, reading, require_files
from .hf_directory import read_json
from .transformers_import import import_transformers
from .weight_files import CONTAINERS, INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE, VERSION, SPEC, REVISION = "model.bin", 6, "WhisperSpec", 3

DTYPES = {
    0: np.dtype(np.float32),
    1: np.dtype(np.int8),
    2: np.dtype(np.int16),
    3: np.dtype(np.int32),
    4: np.dtype(np.float16),
    5: np.dtype(ml_dtypes.bfloat16),
}

SETTINGS = {
    "decoder/activation": 3,  # GELU, exact; the encoder has no other
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
"""Variables that change the computation, with Whisper's values."""

READ = ("encoder/num_heads", "decoder/num_heads")
UNUSED = ("decoder/alignment_heads", "decoder/alignment_layer")
"""Variables of a translator's alignment heads; Whisper's are in config.json."""

RANK = 8
"""Most axes of a variable."""

START, END = "<|startoftranscript|>", "<|endoftext|>"

KINDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "encodings": "weight"}

MODULES = {
    "encoder/conv1": ("model.encoder.conv1",),
    "encoder/conv2": ("model.encoder.conv2",),
    "encoder/position_encodings": ("model.encoder.embed_positions",),
    "encoder/layer_norm": ("model.encoder.layer_norm",),
    "decoder/embeddings": ("model.decoder.embed_tokens",),
    "decoder/position_encodings": ("model.decoder.embed_positions",),
    "decoder/layer_norm": ("model.decoder.layer_norm",),
    "decoder/projection": ("proj_out",),
}

LAYER = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
CROSS = {
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
}


@dataclass(frozen=True)
class Variable:
    """Location of a variable's values in the file."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int

    def slice(self, number: int, count: int) -> Variable:
        """Return slice `number` of `count` slices of equal size along the first axis."""
        if count == 1:
            return self
        shape = (self.shape[0] // count, *self.shape[1:])
        return Variable(self.path, shape, self.dtype, self.offset + number * math.prod(shape) * self.dtype.itemsize)

    def read(self) -> np.ndarray:
        """Read the values."""
        with reading(self.path, "a CTranslate2 file"), open(self.path, "rb") as file:
            file.seek(self.offset)
            values = np.fromfile(file, self.dtype, math.prod(self.shape))
            return values.reshape(self.shape)


def is_ctranslate2_directory(directory: Path) -> bool:
    """Whether the directory holds weights in CTranslate2's container."""
    return is_present(directory / FILE) and not any(
        is_present(directory / f"{name}{end}") for name in CONTAINERS for end in ("", INDEX)
    )


def ctranslate2_checkpoint(directory: Path, *, name: str) -> Checkpoint:
    """Open a directory with model.bin and, optionally, config.json and tokenizer.json.

    Raises:
        ValueError: for a file that is cut off or of another version, or a variable that is missing, not known
            (quantised weights have scales) or at another value than Whisper's; the message names the file.
    """
    path = directory / FILE
    variables, aliases = _contents(path)
    settings = read_json(directory / "config.json") if is_present(directory / "config.json") else {}
    try:
        tied = aliases.pop("decoder/projection/weight", None) == "decoder/embeddings/weight"
        if aliases:
            raise ValueError(f"aliases that are not known: {listed(sorted(aliases))}")
        tensors = _tensors(variables)
        config = {**_config(variables), "tie_word_embeddings": tied}
        check_fields(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        tokenizer = _tokenizer(directory)
        missing = "" if tokenizer is not None else f"{directory} has no tokenizer.json"
    except ValueError as error:
        tokenizer, missing = None, str(error)
    config |= _tokens(settings, tokenizer)
    return Checkpoint(config, tensors, lambda: (tokenizer, missing), name, partial(files_identity, [path]))


class _Reader:
    """Reader of a file's numbers and names in sequence."""

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path, self.size = file, path, file_size(path)

    def take(self, count: int) -> bytes:
        content = self.file.read(count)
        if len(content) < count:
            self.cut_off()
        return content

    def numbers(self, code: str) -> tuple[int, ...]:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))

    def name(self) -> str:
        return self.take(self.numbers("H")[0]).rstrip(b"\0").decode("utf-8", errors="replace")

    def skip(self, count: int) -> int:
        """Skip `count` bytes and return the offset at which they begin."""
        offset = self.file.tell()
        if offset + count > self.size:
            self.cut_off()
        self.file.seek(count, 1)
        return offset

    def cut_off(self) -> NoReturn:
        raise ValueError(f"{self.path} is cut off ({self.size:,} bytes) or corrupt. Fetch it again")


def _contents(path: Path) -> tuple[dict[str, Variable], dict[str, str]]:
    """Read the table of contents: variables by name, and aliases with the names they stand for."""
    file_size(path)
    with open(path, "rb") as file:
        reader = _Reader(file, path)
        (version,) = reader.numbers("I")
        if version != VERSION:
            raise ValueError(f"{path} is no CTranslate2 file of version {VERSION}: it begins with {version}")
        spec, (revision, count) = reader.name(), reader.numbers("II")
        if (spec, revision) != (SPEC, REVISION):
            raise ValueError(f"{path} is a {spec!r} of revision {revision}; known is {SPEC!r} of revision {REVISION}")
        variables = _once(path, (_variable(reader) for _ in range(count)))
        aliases = _once(path, ((reader.name(), reader.name()) for _ in range(reader.numbers("I")[0])))
        if file.tell() != reader.size:
            raise ValueError(
                f"{path} goes on after its end, at byte {file.tell():,} of {reader.size:,}. Fetch it again"
            )
    return variables, aliases


def _once(path: Path, entries: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return entries by their names; raise ValueError for a name that comes twice."""
    values: dict[str, Any] = {}
    for name, value in entries:
        if name in values:
            raise ValueError(f"{path} has {shown(name)} twice: it is corrupt")
        values[name] = value
    return values


def _variable(reader: _Reader) -> tuple[str, Variable]:
    name, (rank,) = reader.name(), reader.numbers("B")
    shape, (kind, size) = reader.numbers(f"{rank}I"), reader.numbers("BI")
    if rank > RANK or kind not in DTYPES or math.prod(shape) * DTYPES[kind].itemsize != size:
        raise ValueError(
            f"{reader.path} has {shown(name)} of shape {shape[:RANK]}, dtype {kind} and {size} bytes: it is corrupt"
        )
    return name, Variable(reader.path, shape, DTYPES[kind], reader.skip(size))


def _modules(name: str) -> tuple[str, ...]:
    """Translate a module's name to Hugging Face's: several for fused modules, none for an unknown module."""
    match = re.fullmatch(r"(encoder|decoder)/layer_(\d+)/(.+)", name)
    if match is None:
        return MODULES.get(name, ())
    side, layer, module = match.groups()
    known = LAYER if side == "encoder" else LAYER | CROSS
    return tuple(f"model.{side}.layers.{layer}.{renamed}" for renamed in known.get(module, ()))


def _tensors(variables: Mapping[str, Variable]) -> dict[str, Tensor]:
    """Rename variables to Hugging Face's tensors, and split fused modules; raise ValueError for unknown variables."""
    tensors, unknown = {}, []
    for name, variable in variables.items():
        if name in SETTINGS or name in READ or name in UNUSED:
            continue
        module, _, kind = name.rpartition("/")
        modules = _modules(module)
        if not modules or kind not in KINDS or not variable.shape or variable.shape[0] % len(modules):
            unknown.append(f"{name} {list(variable.shape)}")
            continue
        for number, renamed in enumerate(modules):
            values = variable.slice(number, len(modules))
            if renamed.endswith("k_proj") and kind == "bias":
                _check_zero(name, values)
            else:
                tensors[f"{renamed}.{KINDS[kind]}"] = Tensor(values.shape, str(values.dtype), values.read)
    if unknown:
        raise ValueError(f"variables that are not known: {listed(unknown)}; quantised weights can't be read")
    return tensors


def _check_zero(name: str, bias: Variable) -> None:
    """Raise ValueError for a bias of keys that is not zero: only fused projections store it, and Whisper has none."""
    if np.any(bias.read()):
        raise ValueError(f"{name} gives keys a bias; Whisper's have none")


def _config(variables: Mapping[str, Variable]) -> dict[str, Any]:
    """Infer a config.json's contents from the variables; raise ValueError for a setting that is not Whisper's."""

    def variable(name: str) -> Variable:
        if name not in variables:
            raise ValueError(f"there is no variable {name}")
        return variables[name]

    def size(name: str, axis: int) -> int:
        shape = variable(name).shape
        if axis >= len(shape):
            raise ValueError(f"{name} has shape {shape}")
        return shape[axis]

    def number(name: str) -> float:
        if math.prod(variable(name).shape) != 1:
            raise ValueError(f"{name} has shape {variable(name).shape}, expected one number")
        return variable(name).read().item()

    for name, value in SETTINGS.items():
        if (stored := number(name)) != value:
            raise ValueError(f"{name} is {stored}; supported is {value} only")
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "is_encoder_decoder": True,
        "activation_function": "gelu",
        "vocab_size": size("decoder/embeddings/weight", 0),
        "d_model": size("decoder/embeddings/weight", 1),
        "num_mel_bins": size("encoder/conv1/weight", 1),
        "max_source_positions": size("encoder/position_encodings/encodings", 0),
        "max_target_positions": size("decoder/position_encodings/encodings", 0),
    }
    for side in ("encoder", "decoder"):
        layers = {int(layer) for name in variables for layer in re.findall(rf"^{side}/layer_(\d{{1,9}})/", name)}
        config[f"{side}_layers"] = max(layers, default=-1) + 1
        config[f"{side}_ffn_dim"] = size(f"{side}/layer_0/ffn/linear_0/weight", 0)
        config[f"{side}_attention_heads"] = number(f"{side}/num_heads")
    return config


def _tokens(settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """Return config.json's settings under Hugging Face's names, and the special tokens of the tokenizer."""
    names = {
        "alignment_heads": "alignment_heads",
        "lang_ids": "lang_ids",
        "suppress_ids": "suppress_tokens",
        "suppress_ids_begin": "begin_suppress_tokens",
    }
    fields = {renamed: settings[stored] for stored, renamed in names.items() if stored in settings}
    if tokenizer is not None:
        start, end = (tokenizer.convert_tokens_to_ids(token) for token in (START, END))
        fields |= {"decoder_start_token_id": start, "bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return fields


def _tokenizer(directory: Path) -> PreTrainedTokenizerBase | None:
    if not is_present(directory / "tokenizer.json"):
        return None
    import_transformers()
    from transformers import WhisperTokenizer

    require_files(directory)
    with reading(directory / "tokenizer.json", "a tokenizer"):
        return WhisperTokenizer.from_pretrained(directory, local_files_only=True, pad_token=END)
