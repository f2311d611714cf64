"""What heads add to the stream, and what the model's own head reads of it."""
