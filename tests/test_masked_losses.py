"""The loss of masked tokens: what whole runs of the masked text give, also under edits; and what is refused."""

import numpy as np
import pytest

import jaxheads as jh

from .models.huggingface import assert_close
from .test_minimal_pairs import batch, model

ROWS = [[5, 1, 2, 3, 4], [5, 6, 7]]
WHERE = np.array([[False, True, False, True, False], [False, False, True, True, True]])  # two of them padding


def slow_loss(own: jh.Model, ids: list[int], hidden: list[int], edits=()) -> float:
    """The mean loss of some tokens of one text, all masked together."""
    given = [own.tokenizer.mask_token_id if place in hidden else token for place, token in enumerate(ids)]
    logits = np.asarray(jh.run(own, jh.Batch(np.array([given])), edits=edits).output, np.float64)[0]
    return float(np.mean([np.log(np.exp(logits[place]).sum()) - logits[place, ids[place]] for place in hidden]))


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_value_and_effects_are_those_of_whole_runs_of_masked_texts(side: str):
    own, where, hidden = model("bert"), WHERE, ([1, 3], [2])
    if side == "left":
        where, hidden = np.stack([WHERE[0], WHERE[1, ::-1]]), ([1, 3], [0])
    objective = jh.masked_loss(where)
    before = [slow_loss(own, *pair) for pair in zip(ROWS, hidden, strict=True)]
    assert_close(objective(own, batch(ROWS, side)), np.array(before))
    table = jh.ablate(own, batch(ROWS, side), objective, "zero", sets={"a": [(1, 2)]}, progress=False)
    edit = jh.zero_heads(own, [(1, 2)])
    after = [slow_loss(own, *pair, edit) for pair in zip(ROWS, hidden, strict=True)]
    assert table.per_example is not None
    assert_close(table.per_example[:, 0], np.subtract(after, before))


def test_the_batch_keeps_its_labels_and_special_tokens_are_never_masked():
    own = model("bert")
    whole = batch([[own.tokenizer.cls_token_id, 1, 2], [5, 6, 7]]).clustered([0, 1])
    objective = jh.masked_loss(np.ones((2, 3), bool))
    masked = objective.completed(own, whole)
    specials = np.isin(np.asarray(whole.tokens), own.tokenizer.all_special_ids)
    assert (np.asarray(masked.tokens) == np.where(specials, whole.tokens, own.tokenizer.mask_token_id)).all()
    assert masked.cluster_labels is not None
    assert masked.cluster_labels.tolist() == [0, 1]


def test_what_predicts_no_masked_tokens_is_refused():
    own = model("bert")
    with pytest.raises(ValueError, match="needs a masked language model"):
        jh.masked_loss(WHERE)(model("gpt2"), batch(ROWS))
    with pytest.raises(ValueError, match=r"where must have the shape of tokens \(2, 5\)"):
        jh.masked_loss(WHERE[:1])(own, batch(ROWS))
    with pytest.raises(ValueError, match=r"a token in each example; \[1\] have none"):
        jh.masked_loss([[True] * 5, [False] * 3 + [True] * 2])(own, batch(ROWS))
