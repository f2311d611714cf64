"""RoBERTa (Liu et al. 2019), and XLM-RoBERTa and CamemBERT, which compute the same: BERT with other names.

Its positions are counted from the one after padding's, and its head's activation is GELU whatever the layers' is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ..loading.weights import Table
from .bases.masked_lm import ENCODER_ONLY, HeadNames, bert_layers, common_fields, encoder_table
from .bases.reading import refuse_unknown
from .bert import Bert, BertConfig


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """The fields of a Hugging Face `RobertaConfig` that change what is computed.

    `max_position_embeddings` is how many tokens there may be: the checkpoint's less the rows up to padding's.
    """

    model_type = "roberta"
    stem: ClassVar[str] = "Roberta"

    pad_token_id: int

    @classmethod
    def from_hf(cls, given: Mapping[str, Any]) -> Self:
        """From the contents of a config.json.

        Raises:
            ValueError: for a missing field, or one that is not understood.
        """
        refuse_unknown(given, cls.own(), neutral=ENCODER_ONLY)
        common = common_fields(given, cls.stem)
        padding = given.get("pad_token_id", 1)
        common["max_position_embeddings"] = tokens_of(given, common["max_position_embeddings"], padding)
        return cls(**common, type_vocab_size=given.get("type_vocab_size", 2), pad_token_id=padding)

    @property
    def first_position(self) -> int:
        return self.pad_token_id + 1

    @property
    def head_act(self) -> str:
        return "gelu"


def tokens_of(given: Mapping[str, Any], rows: int, padding: int | None) -> int:
    """How many tokens a table of so many positions serves, where they begin after padding's.

    Raises:
        ValueError: for no padding token, or a table without a row for the first token.
    """
    if padding is None or not 0 <= padding < rows - 1:
        raise ValueError(
            f"positions of {given.get('model_type')} begin at pad_token_id + 1, so that must lie in 0..{rows - 2} "
            f"(max_position_embeddings is {rows}); got pad_token_id={padding}"
        )
    return rows - padding - 1


class XLMRobertaConfig(RobertaConfig):
    """Of XLM-RoBERTa (Conneau et al. 2020)."""

    model_type = "xlm-roberta"
    stem = "XLMRoberta"


class CamembertConfig(RobertaConfig):
    """Of CamemBERT (Martin et al. 2020)."""

    model_type = "camembert"
    stem = "Camembert"


class Roberta(Bert):
    """BERT with positions from `pad_token_id + 1`."""

    config_type: ClassVar[type[RobertaConfig]] = RobertaConfig

    @staticmethod
    def table(config: BertConfig) -> Table:
        """The tensors of a RoBERTa checkpoint."""
        return encoder_table(config, "roberta", bert_layers("roberta"), lm_head("roberta"))


def lm_head(stem: str) -> HeadNames:
    """The names of fairseq's head, which MPNet has as well."""
    words = f"{stem}.embeddings.word_embeddings.weight"
    return HeadNames("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias", words)


class XLMRoberta(Roberta):
    """XLM-RoBERTa: RoBERTa under another name."""

    config_type = XLMRobertaConfig


class Camembert(Roberta):
    """CamemBERT: RoBERTa under another name."""

    config_type = CamembertConfig
