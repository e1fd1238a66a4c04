"""Look-ups in learned tables: both backward passes equal torch's indexing."""

import pytest
import torch

from wm.model.ops import lookup
from wm.model.ops.lookup import lookup_element


def numbers(*shape: int) -> torch.Tensor:
    """float64, the same for each shape."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture(params=[False, True], ids=["as on a CPU", "as on CUDA"])
def one_hot(request, monkeypatch) -> None:
    monkeypatch.setattr(lookup, "uses_one_hot", lambda _device: request.param)


@pytest.mark.usefixtures("one_hot")
@pytest.mark.parametrize("columns", [1, 3])
def test_rows_and_their_gradients_equal_those_of_indexing(columns):
    table, index = numbers(7, columns), torch.tensor([[0, 6, 6], [6, 2, 0]])
    torch.testing.assert_close(lookup.lookup(table, index), table[index])
    assert torch.autograd.gradcheck(lambda t: lookup.lookup(t, index), (table,))


@pytest.mark.usefixtures("one_hot")
def test_elements_and_their_gradients_equal_those_of_indexing():
    table, row, column = numbers(5, 4), torch.tensor([[0, 4, 4, 1]]), torch.tensor([[3, 2, 2, 0]])
    torch.testing.assert_close(lookup_element(table, row, column), table[row, column])
    assert torch.autograd.gradcheck(lambda t: lookup_element(t, row, column), (table,))
