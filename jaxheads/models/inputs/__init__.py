"""Inputs of models: batches, their axes of positions, and the encoding of texts, images and audio."""
