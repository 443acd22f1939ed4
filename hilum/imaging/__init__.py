"""From a decoded film to the model's input, and back to a picture with its map."""
