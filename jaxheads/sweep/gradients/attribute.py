"""Attribution: what patching would do, estimated for all cells at once from gradients.

The definitions of AtP* are as its reimplementations quote the paper. It defines every score as a mean of absolute
values. Here "atp", "atp+qk" and "ig" keep the sign, as `patch` does; the absolute values can be taken of `per_example`.
With GradDrop there is no sign to keep: effects are at least 0, `normalised` is their share of the mean size of the
whole difference, and `exact` the mean size of the exact effects.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax

from ...execution.devices import Devices
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...objectives import Objective
from ...statistics import rank_correlation
from ...tables import HeadTable
from ..circuits.attribution import METHODS as EDGE_METHODS
from ..circuits.attribution import edge_attribution
from ..exact.patch import Pair, pairs, patch
from ..exact.work import Resources
from ..grid import check_by
from ..question import answer
from .work import RULES, Question

METHODS = ("atp", "atp+qk", "atp+graddrop", "atp*", "ig")


def attribute(
    model: Model, clean: Batch | Iterable[Pair], corrupt: Batch | None = None, objective: Objective | None = None,
    method: Literal["atp", "atp+qk", "atp+graddrop", "atp*", "ig", "eap", "eap-ig"] = "atp",
    *,
    site: str = "z", by: Sequence[str] = ("layer", "head"),
    direction: Literal["denoising", "noising"] = "denoising", stack: str | None = None,
    rule: Literal["left", "midpoint", "right"] | None = None, steps: int | None = None, exact: bool = False,
    level: float = 0.95, seed: int = 0, memory: int = 1 << 30, devices: jax.sharding.Mesh | None = None,
    progress: bool = False, resume: str | os.PathLike | None = None,
) -> HeadTable:  # fmt: skip
    """Estimate `patch` from gradients, all cells at once: the same arguments, the same table, the same signs.

    With a the values of a cell and m the objective, both in the run that is edited, and a' the other run's values:

    - "atp", attribution patching (Nanda 2023): `(a' - a) · d m / d a`, summed over the cell. One pass there and back
      for all cells.
    - "atp+qk", for `q` and `k`: the pattern is made anew with the other run's queries or keys, and `d m / d pattern`
      taken of its change (Kramár et al. 2024, arXiv 2403.00745, section 3.1, the QK fix). With positions in `by` one
      position's query or key is patched at a time, as in the paper; without, all of a head's at once, as in `patch`.
    - "atp+graddrop": L passes back, in each of which one layer's contributions to the stream (`attn_out` and `mlp_out`)
      are held as they are, so that nothing is derived through them; `sum of |estimate| / (L - 1)`, as a cell's own
      layer adds nothing (section 3.2, GradDrop). A cell that acts on the output only directly gets its `|atp|`. Of the
      stream's own sites the paper does not speak: no layer cuts `resid_pre`, `resid_mid` and `resid_post` off, so their
      sum is divided by L, by the same reasoning. In post-norm blocks what is held is what the norms are given.
    - "atp*": both; away from `q` and `k`, where the first has nothing to mend, GradDrop alone.
    - "ig": `(a' - a)` times the mean of `d m / d a` at `steps` points on the straight way from a to a', one layer's
      site at a time: the estimates of a layer's cells sum to the effect of patching them all, as far as the points
      tell. "left" takes k / steps from the run that is edited, k from 0 (one step is "atp"), "right" from 1, "midpoint"
      (k + 1/2) / steps, exact where m is quadratic. Costs L * steps passes.
    - "eap", "eap-ig": edges; see `edge_attribution`, whose table this gives.

    Args:
        clean, corrupt, objective, site, by, direction, stack: as in `patch`; a stream of pairs, too.
        rule, steps: for "ig" ("midpoint" and 5 when left out) and "eap-ig".
        exact: patch every cell as well: adds the column `exact`, and to the provenance `spearman`, the rank correlation
            of the two over cells (None where one of them is constant). Not of a stream.
        level, seed, memory, devices, progress, resume: as in `ablate`.

    Returns:
        A table over the axes in `by`, as `patch` gives it: columns `effect` and `normalised`.

    Raises:
        ValueError: as `patch` does; for an unknown method, or an argument that does not belong to it; for GradDrop in
            a stack of one layer.
    """
    ways: dict[str, Any] = {"direction": direction, "stack": stack}
    options: dict[str, Any] = {
        "level": level, "seed": seed, "memory": memory, "devices": devices, "progress": progress, "resume": resume
    }  # fmt: skip
    if exact and not isinstance(clean, Batch):
        raise ValueError("exact effects are computed of one pair of batches, not of a stream: ask `patch` as well")
    if method in EDGE_METHODS:
        ways |= {**_of_edges(method, site, by, rule, steps), "exact": exact}
        return edge_attribution(model, clean, corrupt, objective, **ways, **options)
    asking = _Asking(model, method, site, by, direction, stack, _path(method, rule, steps))
    patched = partial(patch, model, clean, corrupt, objective, site=site, by=by, **ways, **options)
    return asking.table((clean, corrupt, objective), patched if exact else None, **options)


@dataclass(frozen=True)
class _Asking:
    """All that is asked of nodes, but for the pair; `path` holds rule and steps of "ig"."""

    model: Model
    method: str
    site: str
    by: Sequence[str]
    direction: str
    stack: str | None
    path: Mapping[str, Any]

    def table(
        self,
        given: Any,
        exact: Callable[[], HeadTable] | None,
        *,
        memory: int,
        devices: jax.sharding.Mesh | None,
        **options: Any,
    ) -> HeadTable:
        """Of one pair or a stream of them; with the exact effects, and how well estimates agree with them."""
        part, site = self.model.site(
            self.site if self.stack is None or "." in self.site else f"{self.stack}.{self.site}"
        )
        about = {"method": self.method, "site": site, "by": list(check_by(site, self.by)), "direction": self.direction}
        about |= self.path

        def of(pair: tuple[Batch, Batch, Objective]) -> Question:
            return Question.asked(self.model, *pair, self.method, site, self.by, self.direction, part, self.path)

        def extras() -> dict[str, Any]:
            return {} if exact is None else {"exact": of(given).comparable(exact())}

        room = Resources(memory, Devices.of(devices))
        table = answer(
            "attribute", (of(pair).in_pieces(room, (repr(about),)) for pair in pairs(*given)), about,
            stream=not isinstance(given[0], Batch), extras=extras, **options,
        )  # fmt: skip
        if exact is None:
            return table
        agreement = rank_correlation(table.grid("effect"), table.grid("exact"))
        return replace(table, provenance=table.provenance | {"spearman": agreement})


def _of_edges(method: str, site: str, by: Sequence[str], rule: str | None, steps: int | None) -> dict[str, Any]:
    """The arguments that only `edge_attribution` takes."""
    if site != "z" or tuple(by) != ("layer", "head"):
        raise ValueError(f"method={method!r} attributes edges and takes neither site nor by; got {site!r} and {by}")
    path = {name: value for name, value in (("rule", rule), ("steps", steps)) if value is not None}
    if method == "eap" and path:
        raise ValueError(f"method='eap' takes one gradient; {' and '.join(path)} are arguments of 'eap-ig'")
    return {"method": method, **path}


def _path(method: str, rule: str | None, steps: int | None) -> dict[str, Any]:
    """Rule and steps of "ig", as they are told in the provenance; nothing of other methods."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join((*METHODS, *EDGE_METHODS))}; got {method!r}")
    if method != "ig":
        if rule is not None or steps is not None:
            raise ValueError(f"rule and steps are arguments of 'ig' and 'eap-ig'; method={method!r} takes none")
        return {}
    path = {"rule": "midpoint" if rule is None else rule, "steps": 5 if steps is None else steps}
    if path["rule"] not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}; got {rule!r}")
    if path["steps"] < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return path
