"""jaxheads.measure.similarity"""
