"""Checkpoints of every kind: a source (zoo name, directory, GGUF file, hub id) becomes a `Checkpoint`.

Nothing here depends on a family of models. The package imports none of its modules, so that `zoo` opens at once.
"""
