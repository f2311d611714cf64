"""jaxheads.evidence"""
