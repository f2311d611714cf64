"""Modules that belong to one experiment each; their names begin with its name."""
