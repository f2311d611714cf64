"""Import of transformers without its advice to install PyTorch, which tokenizers don't need; fields of its configs."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from .hub_progress import import_tqdm

ADVICE = "PyTorch was not found"


def import_transformers() -> None:
    """Import transformers; drop its advice from the log, and leave the log's settings alone."""
    import_tqdm()
    logger = logging.getLogger("transformers")
    logger.addFilter(_is_no_advice)
    try:
        import transformers  # noqa: F401 (callers then import names from it)
    finally:
        logger.removeFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    return ADVICE not in record.getMessage()


@cache
def config_fields_of(family: str) -> Mapping[str, str | None] | None:
    """Return the fields that transformers' config class of a family has; None for a family that it does not have.

    Each is mapped to None, or to the field that it is another name of.
    """
    import_transformers()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if family not in CONFIG_MAPPING:
        return None
    config = CONFIG_MAPPING[family]
    return {field.name: None for field in fields(config)} | dict(config.attribute_map)


def completed_config(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the fields that it leaves out, at the values that transformers gives them in this family.

    Raises:
        ValueError: for a family that transformers does not have, or values that its config class refuses.
    """
    import_transformers()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if family not in CONFIG_MAPPING:
        raise ValueError(f"transformers has no config of the family {family!r}, to complete one that leaves fields out")
    try:
        return CONFIG_MAPPING[family](**config).to_dict()
    except Exception as error:  # its checks raise their own kinds
        raise ValueError(f"transformers refuses the {family} config: {error}") from error
