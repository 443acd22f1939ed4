"""The way of a film, from the bytes of an object to its score."""
