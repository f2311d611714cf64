"""jaxheads.models.inputs"""
