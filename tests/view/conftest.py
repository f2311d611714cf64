"""The browser for tests of views."""

from ..browser import browser, opened

__all__ = ["browser", "opened"]
