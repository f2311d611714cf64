"""The training lab's tasks: known structure, exact optimum, negative control; drawn on the device."""

from collections.abc import Mapping

from .agreement import Agreement
from .dyck import Dyck
from .functions import InContext
from .images import Corners, Digits, Texture
from .induction import Induction
from .ioi import ToyIOI
from .markov import Markov
from .modular import ModularAddition
from .task import Sample, Task
from .translation import Translation

TASKS: Mapping[str, Task] = {
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
    )
}
"""All tasks with their usual options, by name."""

__all__ = [
    "TASKS",
    "Agreement",
    "Corners",
    "Digits",
    "Dyck",
    "InContext",
    "Induction",
    "Markov",
    "ModularAddition",
    "Sample",
    "Task",
    "Texture",
    "ToyIOI",
    "Translation",
]
