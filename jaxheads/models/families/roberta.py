"""RoBERTa (Liu et al. 2019), XLM-RoBERTa and CamemBERT: BERT with other names of tensors.

Positions count from the row after padding's, and the head's activation is always GELU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ..loading.weights import Table
from .bases.masked_lm import ENCODER_ONLY, LIKE_ROBERTA, HeadNames, bert_layers, common_fields, encoder_table
from .bases.reading import refuse_unknown
from .bert import Bert, BertConfig


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """The fields of a Hugging Face `RobertaConfig` that affect the computation.

    `max_position_embeddings` counts the tokens of the longest text: the checkpoint's rows after padding's.
    """

    model_type = "roberta"
    stem: ClassVar[str] = "Roberta"
    class_heads = LIKE_ROBERTA

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        refuse_unknown(config, cls.fields_of_file(), neutral=ENCODER_ONLY)
        common = common_fields(config, cls.stem, cls.class_heads)
        padding = config.get("pad_token_id", 1)
        common["max_position_embeddings"] = tokens_of(config, common["max_position_embeddings"], padding)
        return cls(**common, type_vocab_size=config.get("type_vocab_size", 2), pad_token_id=padding)

    @property
    def first_position(self) -> int:
        assert self.pad_token_id is not None, "tokens_of refuses that"
        return self.pad_token_id + 1

    @property
    def head_act(self) -> str:
        return "gelu"


def tokens_of(config: Mapping[str, Any], rows: int, padding: int | None) -> int:
    """Return the number of tokens that a table of `rows` positions serves, if they begin after padding's row.

    Raises:
        ValueError: for no padding token, or a table without a row for the first token.
    """
    if padding is None or not 0 <= padding < rows - 1:
        raise ValueError(
            f"positions of {config.get('model_type')} begin at pad_token_id + 1, so that must lie in 0..{rows - 2} "
            f"(max_position_embeddings is {rows}); got pad_token_id={padding}"
        )
    return rows - padding - 1


class XLMRobertaConfig(RobertaConfig):
    """The fields of XLM-RoBERTa's config (Conneau et al. 2020)."""

    model_type = "xlm-roberta"
    stem = "XLMRoberta"


class CamembertConfig(RobertaConfig):
    """The fields of CamemBERT's config (Martin et al. 2020)."""

    model_type = "camembert"
    stem = "Camembert"


class Roberta(Bert):
    """BERT with positions from `pad_token_id + 1`."""

    config_type: ClassVar[type[RobertaConfig]] = RobertaConfig

    @staticmethod
    def table(config: BertConfig) -> Table:
        """Return the table of a RoBERTa checkpoint's tensors."""
        return encoder_table(config, "roberta", bert_layers("roberta"), lm_head("roberta"))


def lm_head(stem: str) -> HeadNames:
    """Return the names of fairseq's head, which MPNet has too."""
    words = f"{stem}.embeddings.word_embeddings.weight"
    return HeadNames("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias", words)


class XLMRoberta(Roberta):
    """XLM-RoBERTa, which computes what RoBERTa does."""

    config_type = XLMRobertaConfig


class Camembert(Roberta):
    """CamemBERT, which computes what RoBERTa does."""

    config_type = CamembertConfig
