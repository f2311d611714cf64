"""What the tensors of a checkpoint say where its config is silent or wrong: the family, the head, the pooler."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from .families import FAMILIES
from .families.bases.class_heads import class_names
from .families.bases.reading import UncoveredArchitecture
from .loading.checkpoint import Checkpoint
from .loading.weights import Table, gaps


@dataclass(frozen=True)
class Recognised:
    """A reading of a checkpoint's config.

    Attributes:
        config: the family's config.
        table: the table of its tensors.
        hf_config: the Hugging Face config, with the architecture that was chosen.
    """

    config: Any
    table: Table
    hf_config: dict[str, Any]

    @property
    def names(self) -> set[str]:
        """Names of the rules."""
        return {rule.name for rule in self.table.rules}


def with_family(config: Mapping[str, Any], checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """Return a config with its `model_type`, found by the architecture or else by the tensors where it is missing.

    Where the tensors fit several families, the one counts whose name is part of the source's. Where they fit none, the
    config is returned as it is.

    Raises:
        ValueError: where several families fit; the message lists them.
    """
    if config.get("model_type") is not None:
        return dict(config)
    stated = config.get("architectures")
    first = stated[0] if isinstance(stated, list | tuple) and stated else None
    kind = FAMILIES.by_architecture(first) if isinstance(first, str) else None
    if kind is None and checkpoint is not None:
        kind = _family_by_tensors(
            {name: value for name, value in config.items() if name != "architectures"}, checkpoint
        )
    return dict(config) if kind is None else {**config, "model_type": kind}


def _family_by_tensors(config: Mapping[str, Any], checkpoint: Checkpoint) -> str | None:
    fitting = [kind for kind in FAMILIES if _fits(kind, {**config, "model_type": kind}, checkpoint)]
    if len({FAMILIES[kind].__module__ for kind in fitting}) > 1:
        named = [kind for kind in fitting if kind in checkpoint.name.lower()]
        if not named:
            raise ValueError(
                f"the config of {checkpoint.name} has no model_type, and its tensors may be those of "
                f"{' or '.join(fitting)}: write the right one into config.json"
            )
        fitting = [max(named, key=len)]
    return fitting[0] if fitting else None


def _fits(kind: str, config: Mapping[str, Any], checkpoint: Checkpoint) -> bool:
    try:
        best = _best(FAMILIES[kind], config, checkpoint)
        return best is not None and gaps(best.table, checkpoint) == (set(), set())
    except Exception:  # a config of another family, and tensors of other names, may end a reader in anything
        return False


def recognise(family: Any, config: Mapping[str, Any], checkpoint: Checkpoint, head: str | None = None) -> Recognised:
    """Read the family's config, with the head that the tensors have.

    Where the config names no architecture, the head with most tensors is taken of those whose tensors are all there.
    Where it names one and the file has no tensor of its head, the bare network is taken, with a warning. Bare networks
    may lack their pooler.

    Args:
        config: a Hugging Face config with a `model_type`.
        head: "none" for the bare network, whatever the architecture; tensors of its head are passed over.

    Raises:
        ValueError: for a config that is not understood, or a family without a bare network.
    """
    if head is None and not config.get("architectures"):
        chosen = _best(family, config, checkpoint) or _read(family, config)
    elif head is None:
        chosen = _stated(family, config, checkpoint)
    else:
        bare = _bare_config(family, config)
        if bare is None:
            raise ValueError(f'head="none": {config["model_type"]} has no network without a head')
        chosen = next(_fitting(family, bare, checkpoint), None) or _read(family, bare)
        chosen = replace(chosen, table=_without_heads(chosen.table))
    family.config_type.from_hf(chosen.hf_config)  # with its warnings
    return chosen


def _stated(family: Any, config: Mapping[str, Any], checkpoint: Checkpoint) -> Recognised:
    """Read a config that names an architecture."""
    whole = _read(family, config)
    missing, _ = gaps(whole.table, checkpoint)
    if not missing:
        return whole
    bare = _bare_config(family, config)
    for config_read in (config, bare):
        for other in () if config_read is None else _fitting(family, config_read, checkpoint):
            if whole.names - other.names <= missing:
                if config_read is bare and other.hf_config != whole.hf_config:
                    _warn(checkpoint.name, config["architectures"][0], other.hf_config["architectures"][0])
                return other
    return whole


def _warn(name: str, architecture: str, bare: str) -> None:
    warnings.warn(
        f"{name} has no tensor of the head of {architecture}, which its config names: it is loaded as {bare}, the bare "
        "network, without logits",
        stacklevel=7,  # the caller of `load`
    )


def _best(family: Any, config: Mapping[str, Any], checkpoint: Checkpoint) -> Recognised | None:
    """Return the reading with most tensors of those that fit; None if none fits."""
    fitting = []
    for architecture in _heads(family, config):
        try:
            fitting += _fitting(family, {**config, "architectures": [architecture]}, checkpoint)
        except ValueError:  # this head needs a field that the config lacks
            continue
    return max(fitting, key=lambda reading: len(reading.table.rules), default=None)


def _fitting(family: Any, config: Mapping[str, Any], checkpoint: Checkpoint) -> Iterator[Recognised]:
    """Yield the readings of a config, with and without what a file may lack, none of whose tensors is missing."""
    whole = _read(family, config)
    configs = [whole.config]
    if getattr(whole.config, "pooler", False) is True and class_names(whole.config) is None:
        configs.append(replace(whole.config, pooler=False))
    if getattr(whole.config, "tied_where_absent", False) and not whole.config.tie_word_embeddings:
        configs.append(replace(whole.config, tie_word_embeddings=True))
    for read in configs:
        reading = Recognised(read, family.table(read), whole.hf_config)
        if not gaps(reading.table, checkpoint)[0] and whole.names - reading.names <= gaps(whole.table, checkpoint)[0]:
            yield reading


def _read(family: Any, config: Mapping[str, Any]) -> Recognised:
    with _quiet():
        read = family.config_type.from_hf(config)
    return Recognised(read, family.table(read), dict(config))


def _heads(family: Any, config: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the family's name of each head, by the class name of its architecture."""
    with _quiet():
        try:
            family.config_type.from_hf({**config, "architectures": ["?"]})
        except UncoveredArchitecture as error:
            return error.heads
    return {}


def _bare_config(family: Any, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config of the network without its head; None for a family that has none."""
    bare = next((name for name, head in _heads(family, config).items() if head == "none"), None)
    return None if bare is None else {**config, "architectures": [bare]}


def _without_heads(table: Table) -> Table:
    """Return the table of a bare network that passes over all tensors which lie beside it."""
    roots = {rule.name.partition(".")[0] for rule in table.rules}
    beside = rf"(?!({'|'.join(map(re.escape, sorted(roots)))})\.).*"
    return replace(table, passed_over={**table.passed_over, beside: "a head, which is left out"})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back warnings of a config that is read more than once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
