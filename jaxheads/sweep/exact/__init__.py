"""jaxheads.sweep.exact"""
