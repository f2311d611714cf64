"""Tokenizers of GGUF files: byte-level BPE, rebuilt from tokens and merges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...checks import shown
from .config_fields import is_whole
from .containers import reading
from .transformers_import import import_transformers

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

CONTROL, USER_DEFINED = 3, 4  # gguf.TokenType

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """Settings of the split of a text into words before BPE.

    Attributes:
        split: a regular expression; None for GPT-2's, which ByteLevel has.
        single_digits: whether every digit is a word.
        nfc: whether text is normalised to NFC.
        whole_words: whether a word that is a token skips the merges.
        adds_bos: whether a text begins with the BOS token where the file doesn't say.
    """

    split: str | None = None
    single_digits: bool = False
    nfc: bool = False
    whole_words: bool = False
    adds_bos: bool = False


PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType(
    {
        "default": PreTokenizer(),
        "gpt-2": PreTokenizer(),
        "smollm": PreTokenizer(single_digits=True),
        "llama-bpe": PreTokenizer(split=LLAMA3_SPLIT, whole_words=True, adds_bos=True),
        "qwen2": PreTokenizer(split=LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}"), nfc=True),
    }
)
"""Settings by `tokenizer.ggml.pre`."""

IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def gguf_tokenizer(metadata: dict[str, Any], max_length: int) -> tuple[PreTrainedTokenizerBase | None, str]:
    """Build the tokenizer of a GGUF file: return (tokenizer, "") or (None, the reason why it can't be exact).

    Raises:
        ValueError: for a description that contradicts itself.
    """
    model = metadata.get("tokenizer.ggml.model")
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if model is None:
        return None, "the GGUF file has no tokenizer"
    if model != "gpt2":
        return None, f"the GGUF file's tokenizer is {shown(model)}; only 'gpt2' (byte-level BPE) can be rebuilt"
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        return None, f"the GGUF file's tokenizer cuts text as {shown(pre)}; known are {', '.join(PRE_TOKENIZERS)}"
    with reading("the tokenizer inside", "byte-level BPE", ""):
        tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
        return _fast(metadata, tokens, merges, PRE_TOKENIZERS[pre], max_length), ""


def _fast(
    metadata: dict[str, Any], tokens: list[str], merges: list[str], rules: PreTokenizer, max_length: int
) -> PreTrainedTokenizerBase:
    import_transformers()
    from transformers import PreTrainedTokenizerFast

    backend = _backend(tokens, merges, rules)
    _add_tokens(backend, tokens, metadata.get("tokenizer.ggml.token_type", []))
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in IDS.items()}
    beyond = [name for name, index in ids.items() if index is not None and not is_whole(index, 0, len(tokens) - 1)]
    if beyond:
        raise ValueError(f"its {', '.join(beyond)} token is none of its {len(tokens)} tokens")
    special = {f"{name}_token": tokens[index] for name, index in ids.items() if index is not None}
    if metadata.get("tokenizer.ggml.add_bos_token", rules.adds_bos) and ids["bos"] is not None:
        _prepend(backend, tokens[ids["bos"]], ids["bos"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
        chat_template=metadata.get("tokenizer.chat_template"),
        **special,
    )


def _backend(tokens: list[str], merges: list[str], rules: PreTokenizer) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=rules.whole_words))
    steps: list[pre_tokenizers.PreTokenizer] = []
    if rules.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if rules.split is not None:
        steps.append(pre_tokenizers.Split(Regex(rules.split), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rules.split is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    if rules.nfc:
        backend.normalizer = normalizers.NFC()
    return backend


def _add_tokens(backend: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Add the tokens that a text keeps whole, before it is split; they keep their ids."""
    from tokenizers import AddedToken

    # All at once: each call builds the search for all added tokens anew.
    kinds = [(token, kind) for token, kind in zip(tokens, types, strict=False) if kind in (CONTROL, USER_DEFINED)]
    special = [AddedToken(token, special=True, normalized=False) for token, kind in kinds if kind == CONTROL]
    own = [AddedToken(token, special=False, normalized=False) for token, kind in kinds if kind == USER_DEFINED]
    backend.add_special_tokens(special)
    backend.add_tokens(own)


def _prepend(backend: Tokenizer, token: str, index: int) -> None:
    from tokenizers import processors

    backend.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=[(token, index)]
    )
