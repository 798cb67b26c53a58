"""The three ops in plain PyTorch."""
