"""Reports: everything that is asked of a model at once, written down for people."""
