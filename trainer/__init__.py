"""Fine-tuning of the backbones. Needs the `train` extra."""
