"""What heads do: numbers of their patterns, the nulls these must beat, and the names they earn."""
