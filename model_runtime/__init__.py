"""What serves a model: bundles, the registry and the scorer. Imports no PyTorch."""
