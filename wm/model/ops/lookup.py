"""Rows of small learned tables by index, with a backward pass that suits the device.

On CUDA torch adds the gradients of equal rows by sorting all indices and adding the duplicates of a row one after
another: in a batch of a large GPU tens of thousands share a row. A product with the one-hot matrix of the indices adds
them on the matrix units, in a fixed order. On a CPU adding one after another is fastest.
Shape legend: N = lookups, R = rows, C = columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def lookup(table_RC: Tensor, index: Tensor) -> Tensor:
    """`F.embedding`: the row of each index.

    Args:
        index: int64, any shape.
    Returns:
        (*index.shape, C).
    """
    if uses_one_hot(table_RC.device):
        return OneHotLookup.apply(table_RC, index)
    return table_RC.index_select(0, index.flatten()).view(*index.shape, table_RC.shape[1])


def lookup_element(table_RC: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """`table[row, column]`.

    Args:
        row, column: int64, of the same shape, which is that of the result.
    """
    if uses_one_hot(table_RC.device):
        return OneHotElement.apply(table_RC, row, column)
    index = row * table_RC.shape[1] + column
    return table_RC.flatten().index_select(0, index.flatten()).view(index.shape)


def uses_one_hot(device: torch.device) -> bool:
    """Whether gradients are added by matrix products."""
    return device.type == "cuda"


class OneHotLookup(torch.autograd.Function):
    """See `lookup`."""

    @staticmethod
    def forward(ctx: Any, table_RC: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num_rows = len(table_RC)
        return F.embedding(index, table_RC)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:  # pyrefly: ignore
        (grad,) = grad_outputs
        (index,) = ctx.saved_tensors
        return _one_hot(index, ctx.num_rows, grad.dtype).t() @ grad.flatten(0, -2), None


class OneHotElement(torch.autograd.Function):
    """See `lookup_element`."""

    @staticmethod
    def forward(ctx: Any, table_RC: Tensor, row: Tensor, column: Tensor) -> Tensor:
        ctx.save_for_backward(row, column)
        ctx.shape = table_RC.shape
        return table_RC[row, column]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:  # pyrefly: ignore
        (grad,) = grad_outputs
        row, column = ctx.saved_tensors
        num_rows, num_columns = ctx.shape
        rows_NR = _one_hot(row, num_rows, grad.dtype).mul_(grad.flatten()[:, None])
        return rows_NR.t() @ _one_hot(column, num_columns, grad.dtype), None, None


def _one_hot(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """(N, size), 1 in the column of each index."""
    return (index.flatten()[:, None] == torch.arange(size, device=index.device)).to(dtype)
