"""Reports: all measures and ablations of a model at once, as pages for people."""
