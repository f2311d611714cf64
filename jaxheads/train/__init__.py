"""The training lab: small models trained many at once, and their heads watched as they specialise."""
