"""Cycles of a program that XLA has compiled for a TPU, and the fewest that its matrix products could take."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")

PASSES = {"DEFAULT": 1, "HIGH": 3, "HIGHEST": 6}
"""Products of bfloat16 that a TPU makes of one product of float32, by precision."""


class Program:
    """The text of a compiled program, by computation."""

    def __init__(self, text: str):
        self.computations: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in text.splitlines():
            if opens := re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
                lines = self.computations.setdefault(opens[2], [])
                if opens[1]:
                    self.entry = opens[2]
            elif line.startswith("  "):
                lines.append(line)

    def cycles(self, name: str, unknown: float) -> float:
        """Return the estimated cycles of a computation with the loops and branches in it.

        Args:
            unknown: steps of a loop whose number the program itself does not tell.
        """
        total = 0.0
        for line in self.computations[name]:
            total += _estimate(line)
            if " while(" in line and (body := re.search(r"body=%?([\w.\-]+)", line)):
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                total += (float(known[1]) if known else unknown) * self.cycles(body[1], unknown)
            elif branches := _branches(line):
                total += max(self.cycles(branch, unknown) for branch in branches)
            elif called := re.search(r" call\(.*to_apply=%?([\w.\-]+)", line):
                total += self.cycles(called[1], unknown)
        return total

    def layer_loop(self) -> float:
        """Return the cycles of one step of the largest loop, without loops in it; 0 for a program without loops."""
        bodies = {body for lines in self.computations.values() for line in lines for body in _bodies(line)}
        return max((sum(map(_estimate, self.computations[body])) for body in bodies), default=0.0)

    def collectives(self) -> Counter[str]:
        """Return the number of collectives of each kind in the program's text; one in a loop counts once."""
        counts: Counter[str] = Counter()
        for lines in self.computations.values():
            for line in lines:
                if found := re.search(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(", line):
                    counts[found[1]] += 1
        return counts


def _estimate(line: str) -> float:
    found = re.search(r'"estimated_cycles":"(\d+)"', line)
    return float(found[1]) if found else 0.0


def _bodies(line: str) -> list[str]:
    return re.findall(r"body=%?([\w.\-]+)", line)


def _branches(line: str) -> list[str]:
    if found := re.search(r"branch_computations=\{([^}]*)\}", line):
        return [name.strip().lstrip("%") for name in found[1].split(",")]
    return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line)


def ideal_cycles(jaxpr: Any, products: float, unknown: float) -> float:
    """Return the fewest cycles that the matrix products of a traced program take.

    Args:
        products: operations of bfloat16 products a cycle.
        unknown: steps of a loop whose number is data.
    """
    return sum(times * cycles for times, cycles in _products(jaxpr, products, unknown))


def ideal_step(jaxpr: Any, products: float) -> float:
    """Return the fewest cycles that the products of one step of the largest loop take."""
    steps = [ideal_cycles(body, products, 1) for body in _loops(jaxpr)]
    return max(steps, default=0.0)


def layer_cycles(config: Mapping[str, Any], tokens: float, keys: int, products: float) -> float:
    """Return the fewest cycles that one layer's products take, each computed once, in bfloat16.

    Args:
        config: of a GPT-2 or a Llama, as `accelerators_machines.MODELS` has it.
        tokens: that go through the layer.
        keys: positions that each of them looks at.
        products: operations of bfloat16 products a cycle.
    """
    if config["model_type"] == "gpt2":
        width = heads_width = config["n_embd"]
        weights = 12 * width**2
    else:
        width, heads = config["hidden_size"], config["num_attention_heads"]
        heads_width = width
        keys_values = 2 * width * (width // heads) * config["num_key_value_heads"]
        weights = 2 * width**2 + keys_values + 3 * width * config["intermediate_size"]
    return tokens * (2 * weights + 4 * heads_width * keys) / products


def _products(jaxpr: Any, products: float, unknown: float) -> Iterator[tuple[float, float]]:
    """Yield how often each product runs, and its cycles."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield 1.0, _dot_flops(equation) * _passes(equation) / products
            continue
        inner = list(_inner(equation))
        if equation.primitive.name == "cond":
            # Of the ways of several platforms to compute one thing, the one of fewest products is what is needed.
            choose = min if equation.params.get("branches_platforms") else max
            yield 1.0, choose(ideal_cycles(branch, products, unknown) for branch in inner)
            continue
        times = float(equation.params.get("length", 1)) if equation.primitive.name == "scan" else 1.0
        times = unknown if equation.primitive.name == "while" else times
        for body in inner:
            yield from ((times * count, cycles) for count, cycles in _products(body, products, unknown))


def _loops(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        for body in _inner(equation):
            if equation.primitive.name in ("scan", "while"):
                yield body
            yield from _loops(body)


def _inner(equation: Any) -> Iterator[Any]:
    """Yield the programs within an operation."""
    for value in equation.params.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            if hasattr(entry, "eqns"):
                yield entry
            elif hasattr(entry, "jaxpr"):
                yield entry.jaxpr


def _dot_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _passes(equation: Any) -> int:
    if any(operand.aval.dtype.itemsize < 4 for operand in equation.invars):
        return 1
    precision = equation.params["precision"]
    first = precision[0] if isinstance(precision, tuple) else precision
    return PASSES[getattr(first, "name", "DEFAULT")]
