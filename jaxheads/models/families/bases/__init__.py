"""jaxheads.models.families.bases"""
