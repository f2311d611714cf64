"""Prompts that show a task by examples: pairs of inputs and outputs, "Q: hot\\nA: cold" (Todd et al. 2023).

Everything here is text on the host, and takes no model.

Dimension key: `E` prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arguments import at_least, checked
from ..checks import shown

ORDERS = 20
"""Orders of the labels that are drawn for a prompt; the one that leaves the fewest in their place is taken."""


@dataclass(frozen=True, eq=False)
class FewShot:
    """Prompts of one task, each ending where the answer to its query is due.

    Attributes:
        clean: E texts: examples with their outputs, then the query's input.
        shuffled: E texts: the examples' outputs are given to each other's inputs; all else is the same.
        bare: E texts: the query alone.
        answers: E texts, each with the space that it begins with.
        queries: int `[E]`, the index of each query's pair.
    """

    clean: tuple[str, ...]
    shuffled: tuple[str, ...]
    bare: tuple[str, ...]
    answers: tuple[str, ...]
    queries: np.ndarray


def _is_pairs(name: str, value: Sequence[Sequence[str]]) -> None:
    for number, pair in enumerate(value):
        right = isinstance(pair, list | tuple) and len(pair) == 2
        if not (right and all(isinstance(text, str) and text.strip() for text in pair)):
            raise ValueError(f"{name}[{number}] must be two texts, an input and its output; got {shown(pair)}")


@checked(pairs=_is_pairs, prompts=at_least(1), shots=at_least(0))
def few_shot(
    pairs: Sequence[Sequence[str]],
    *,
    prompts: int,
    shots: int = 10,
    seed: int = 0,
    question: str = "Q: ",
    answer: str = "\nA:",
    between: str = "\n\n",
) -> FewShot:
    """Draw prompts of a task: `shots` examples and a query, all of different pairs.

        "Q: hot\\nA: cold\\n\\nQ: big\\nA: small\\n\\nQ: tall\\nA:"

    As many queries as possible differ between prompts. Give each half of the pairs by itself where heads that one half
    chooses are to be judged on the other: no prompt then holds a pair of the other half.

    Args:
        pairs: of an input and its output, each a text.
        shots: examples before the query; the paper has 10.
        question, answer, between: what stands before an input, before the space and the output, and between examples.

    Raises:
        ValueError: for fewer pairs than a prompt has, or what is not a pair of texts.
    """
    if len(pairs) < shots + 1:
        raise ValueError(f"a prompt of {shots} examples and a query needs {shots + 1} pairs, got {len(pairs)}")
    rng = np.random.default_rng(seed)
    rounds = -(-prompts // len(pairs))
    queries = np.concatenate([rng.permutation(len(pairs)) for _ in range(rounds)])[:prompts]
    clean, shuffled, bare = [], [], []
    for query in queries:
        others = np.setdiff1d(np.arange(len(pairs)), [query])
        examples = [pairs[index] for index in rng.choice(others, shots, replace=False)]
        outputs = [output for _, output in examples]
        orders = [[outputs[index] for index in rng.permutation(shots)] for _ in range(ORDERS)]
        moved = min(orders, key=lambda order: sum(a == b for a, b in zip(order, outputs, strict=True)))
        asked = f"{question}{pairs[query][0]}{answer}"
        for texts, labels in ((clean, outputs), (shuffled, moved)):
            inputs = (own for own, _ in examples)
            lines = [f"{question}{own}{answer} {label}{between}" for own, label in zip(inputs, labels, strict=True)]
            texts.append("".join(lines) + asked)
        bare.append(asked)
    answers = tuple(f" {pairs[query][1]}" for query in queries)
    return FewShot(tuple(clean), tuple(shuffled), tuple(bare), answers, queries)
