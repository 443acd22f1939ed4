"""Compare backbones, frozen and fine-tuned, under several losses, on equal budgets."""
