"""Heads for classes: of whole examples, of tokens, or of the first and last token of an answer.

A config has the head's name as `head`, and as `class_heads` how its family builds each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ....checks import shown
from ...layers import activation
from ...loading.config_fields import is_whole
from ...loading.weights import Rule, dense, same
from ...network import Network
from ...unembedding import Unembedding
from .reading import head_of, inner_config

CLASSES_OF: Mapping[str, Literal["example", "token", "answer"]] = {
    "classes": "example",
    "next_sentence": "example",
    "choices": "example",
    "token_classes": "token",
    "discriminator": "token",
    "answers": "answer",
}
"""What a head's logits are classes of, by the head's name in a config."""

_COUNTS = {"next_sentence": 2, "choices": 1, "discriminator": 1, "answers": 2}
"""Numbers of classes of heads that have the same one whatever the config."""

_SUFFIXES = {
    "ForSequenceClassification": "classes",
    "ForTokenClassification": "token_classes",
    "ForQuestionAnswering": "answers",
    "ForMultipleChoice": "choices",
    "ForNextSentencePrediction": "next_sentence",
    "ForPreTraining": "discriminator",
}
"""Heads by the ends of their architectures' names."""


@dataclass(frozen=True)
class ClassNames:
    """A head of classes in a checkpoint.

    Attributes:
        out: the linear map to the classes.
        dense: the dense layer before it, or None.
        act: the activation after `dense`; None for the config's `hidden_act`.
        pooled: whether the head reads the output of the encoder's pooler.
        bias: whether the linear map has a bias.
    """

    out: str
    dense: str | None = None
    act: str | None = "tanh"
    pooled: bool = False
    bias: bool = True


OF_DECODERS: Mapping[str, ClassNames] = {
    "classes": ClassNames("score", bias=False),
    "token_classes": ClassNames("score"),
    "answers": ClassNames("qa_outputs"),
}
"""Heads of Llama, and of the families that share its classes in transformers."""

OF_OLDER_DECODERS: Mapping[str, ClassNames] = {**OF_DECODERS, "token_classes": ClassNames("classifier")}
"""Heads of GPT-2, GPT-NeoX and BLOOM."""


@dataclass(frozen=True)
class ClassFields:
    """The fields of a config of any family that concern a head of classes.

    Attributes:
        num_labels: number of classes; 0 for another head.
        pad_token_id: token that a decoder's classifier passes over at the end of a text, or None.
    """

    num_labels: int = field(default=0, kw_only=True)
    pad_token_id: int | None = field(default=None, kw_only=True)


def architectures(stem: str, class_heads: Mapping[str, ClassNames], **others: str) -> dict[str, str]:
    """Return a family's head for each architecture, for `head_of`.

    Args:
        stem: stem of the architectures' names, "Bert" for BertForSequenceClassification.
        class_heads: heads of classes that the family has.
        others: heads by the ends of other architectures' names, the default one first.
    """
    ends = {**others, **{end: head for end, head in _SUFFIXES.items() if head in class_heads}}
    return {f"{stem}{end}": head for end, head in ends.items()}


def decoder_head(
    config: Mapping[str, Any],
    stem: str,
    class_heads: Mapping[str, ClassNames],
    *,
    padding: int | None = None,
    language_model: str | None = None,
) -> dict[str, Any]:
    """Read the fields `head`, `num_labels` and `pad_token_id` of a decoder.

    Args:
        padding: the default of `pad_token_id`.
        language_model: the language model's architecture; that of the stem when left out.

    Raises:
        ValueError: for an architecture that is not covered, or a wrong number of labels.
    """
    heads = {language_model or f"{stem}ForCausalLM": "lm", **architectures(stem, class_heads, Model="none")}
    head = head_of(config, heads)
    return {"head": head, **label_fields(config, head), "pad_token_id": config.get("pad_token_id", padding)}


def label_fields(config: Mapping[str, Any], head: str) -> dict[str, int]:
    """Read `num_labels` for this head, as a keyword of a config's class."""
    if head not in CLASSES_OF:
        return {"num_labels": 0}
    return {"num_labels": _COUNTS[head] if head in _COUNTS else labels_of(config)}


def labels_of(config: Mapping[str, Any]) -> int:
    """Read the number of classes of a classifier; 2 by default, as in transformers.

    Raises:
        ValueError: for labels that are no object, or a number that is none.
    """
    count = len(inner_config(config, "id2label")) or config.get("num_labels", config.get("_num_labels", 2))
    if not is_whole(count):
        raise ValueError(f"num_labels must be a whole number, got {shown(count)}")
    return count


class ClassHead(nnx.Module):
    """A linear classifier with weight `[classes,F]` and bias `[classes]` or None, perhaps after a dense layer.

    Args:
        act: activation of a dense layer `[F,F]` before the classifier; None for no such layer.

    Raises:
        ValueError: for less than one class.
    """

    def __init__(self, classes: int, features: int, *, rngs: nnx.Rngs, act: str | None = None, bias: bool = True):
        if classes < 1:
            raise ValueError("a classifier needs at least one class, got none; name the bare architecture instead")
        self.dense = None if act is None else nnx.Linear(features, features, rngs=rngs)
        self.act = None if act is None else activation(act)
        self.weight = nnx.Param(0.02 * jax.random.normal(rngs.params(), (classes, features)))
        self.bias = nnx.Param(jnp.zeros((classes,))) if bias else None

    def features(self, x: Array) -> Array:
        """Return what the linear classifier reads."""
        return x if self.dense is None or self.act is None else self.act(self.dense(x))

    @property
    def unembedding(self) -> Unembedding:
        """The linear map to the classes."""
        return Unembedding(self.weight[...], None if self.bias is None else self.bias[...])


class Classifies(Network):
    """Base of networks that may have a head of classes, as their config's `head` says."""

    config: Any
    classifier: ClassHead | None = None

    def own_classifier(self, features: int, rngs: nnx.Rngs) -> ClassHead | None:
        """Build the head of classes on features of this width; None if the config has another head."""
        names = class_names(self.config)
        if names is None:
            return None
        act = None if names.dense is None else names.act or self.config.hidden_act
        return ClassHead(self.config.num_labels, features, act=act, bias=names.bias, rngs=rngs)

    def classified(self, x: Array) -> Array:
        """Return what the linear classifier reads of the normed stream; the stream itself without a classifier."""
        return x if self.classifier is None else self.classifier.features(x)

    @property
    def classes_of(self) -> Literal["example", "token", "answer"] | None:
        return CLASSES_OF.get(self.config.head)

    @property
    def at_every_position(self) -> bool:
        return self.classes_of != "example"


def class_names(config: Any) -> ClassNames | None:
    """Return the names of a config's head of classes; None for another head."""
    if getattr(config, "head", None) not in CLASSES_OF:
        return None
    return config.class_heads[config.head]


def class_rules(name: str, path: str, *, bias: bool = True) -> list[Rule]:
    """Return the rules of a linear classifier."""
    rules = [same(f"{name}.weight", f"{path}.weight"), same(f"{name}.bias", f"{path}.bias")]
    return rules if bias else rules[:1]


def head_rules(config: Any) -> list[Rule]:
    """Return the rules of a config's `classifier`; none for another head."""
    names = class_names(config)
    if names is None:
        return []
    before = [] if names.dense is None else [*dense(names.dense, "classifier.dense")]
    return [*before, *class_rules(names.out, "classifier", bias=names.bias)]


def unused_class_heads(config: Any) -> dict[str, str]:
    """Return the entry of `Table.passed_over` for the heads of classes of a config that has none."""
    if class_names(config) is not None:
        return {}
    stored = {name for names in config.class_heads.values() for name in (names.out, names.dense) if name is not None}
    patterns = "|".join(sorted(name.replace(".", r"\.") for name in stored))
    return {rf"({patterns})\.(weight|bias)": "a head of classes, which this architecture has not"} if stored else {}
