"""The network: features, Mamba-2 and MLP cores, prediction heads."""
