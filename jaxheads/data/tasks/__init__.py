"""The training lab's tasks: known structure, exact optimum, negative control; drawn on the device."""

from collections.abc import Mapping

from .agreement import Agreement
from .induction import Induction
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
    )
}
"""All tasks with their usual options, by name."""

__all__ = ["TASKS", "Agreement", "Induction", "Markov", "ModularAddition", "Sample", "Task", "Translation"]
