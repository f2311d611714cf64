"""Tasks for the training lab: known structure, exact optimum, negative control; drawn on the device."""

from collections.abc import Mapping

from ...checks import Named
from .agreement import Agreement
from .captions import Captions
from .dyck import Dyck
from .finite import Examples, FewExamples
from .functions import InContext
from .grammar import Grammar, Sentiment
from .images import Corners, Digits, Texture
from .induction import Induction
from .ioi import ToyIOI
from .markov import Markov, bigram, unigram
from .modular import ModularAddition
from .task import Sample, Task
from .translation import Translation

TASKS: Mapping[str, Task] = Named(
    "tasks",
    {
        task.name: task
        for task in (
            Induction(),
            *(Markov(states) for states in (2, 3, 5)),
            *(Translation(order) for order in ("copy", "reverse", "swap")),
            Agreement(),
            Agreement(masked=True),
            *(ModularAddition(prime) for prime in (59, 113)),
            Digits(),
            Corners(),
            Texture(),
            Dyck(),
            InContext(),
            ToyIOI(),
            Grammar(),
            Sentiment(),
            Captions(),
        )
    },
)
"""All tasks with their default options, by name."""

__all__ = [
    "TASKS",
    "Agreement",
    "Captions",
    "Corners",
    "Digits",
    "Dyck",
    "Examples",
    "FewExamples",
    "Grammar",
    "InContext",
    "Induction",
    "Markov",
    "ModularAddition",
    "Sample",
    "Sentiment",
    "Task",
    "Texture",
    "ToyIOI",
    "Translation",
    "bigram",
    "unigram",
]
