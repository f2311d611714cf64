"""jaxheads.execution"""
