"""Operators of the networks: plain torch, autograd functions and Triton kernels with equal results."""
