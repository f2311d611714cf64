"""What heads would do, read off the weights: QK and OV circuits, and how one head's output meets another's input."""
