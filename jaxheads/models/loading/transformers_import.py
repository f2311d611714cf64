"""Import of transformers without its advice to install PyTorch, which tokenizers don't need."""

import logging

ADVICE = "PyTorch was not found"


def import_transformers() -> None:
    """Import transformers; drop its advice from the log, and leave the log's settings alone."""
    logger = logging.getLogger("transformers")
    logger.addFilter(_is_no_advice)
    try:
        import transformers  # noqa: F401 (callers then import names from it)
    finally:
        logger.removeFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    return ADVICE not in record.getMessage()
