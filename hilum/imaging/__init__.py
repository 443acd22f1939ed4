"""Turn decoded films into model input, and Grad-CAM maps into overlays."""
