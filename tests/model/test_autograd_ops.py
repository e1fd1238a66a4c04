"""Derivatives written by hand against autograd's and against differences, on the operations written out."""

import torch
from torch.nn import functional as F

from wm.model.ops.autograd_ops import CausalConvolution, DecayedScores, RMSNorm


def numbers(*shape: int) -> torch.Tensor:
    """float64, the same for each shape."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def test_the_convolution_equals_torchs_and_so_do_its_derivatives():
    padded, weight, bias = numbers(2, 8, 3), numbers(4, 3), numbers(3)
    expected = F.conv1d(padded.transpose(1, 2), weight.t()[:, None], bias, groups=3).transpose(1, 2)
    torch.testing.assert_close(CausalConvolution.apply(padded, weight, bias), expected)
    assert torch.autograd.gradcheck(CausalConvolution.apply, (padded, weight, bias))


def test_the_norm_equals_torchs_and_so_do_its_derivatives():
    x, weight = numbers(2, 3, 5), numbers(5)
    torch.testing.assert_close(RMSNorm.apply(x, weight, 1e-5), F.rms_norm(x, (5,), weight, 1e-5))
    assert torch.autograd.gradcheck(RMSNorm.apply, (x, weight, 1e-5))


def test_the_norm_of_low_precision_sums_in_float32():
    x = torch.full((1, 70_000), 0.01, dtype=torch.bfloat16)  # sums to 1e-4 * 70,000: a bfloat16 sum sticks at far less
    normed = RMSNorm.apply(x, torch.ones(70_000), 0.0)
    assert normed.dtype == torch.bfloat16
    torch.testing.assert_close(normed.float(), torch.ones(1, 70_000), rtol=1e-2, atol=0)


def test_the_norm_of_bf16_is_that_of_float64_rounded_once():
    x, weight = numbers(40, 96).detach().bfloat16(), numbers(96).detach().float()
    expected = F.rms_norm(x.double(), (96,), weight.double(), 1e-5).bfloat16()
    # A scale in bf16 would change all channels of a frame by the same factor, and most of their last bits.
    different = RMSNorm.apply(x, weight, 1e-5) != expected
    assert different.float().mean() < 1e-3


def test_the_gradients_of_the_norm_of_bf16_are_exact_but_for_their_own_rounding():
    x, weight, grad = (numbers(*shape).detach() for shape in ((40, 96), (96,), (1, 40, 96)))
    x, grad = x.bfloat16(), grad[0].bfloat16()
    exact = [x.double().requires_grad_(), weight.clone().requires_grad_()]
    F.rms_norm(exact[0], (96,), exact[1], 1e-5).backward(grad.double())
    ours = [x.requires_grad_(), weight.float().requires_grad_()]
    RMSNorm.apply(ours[0], ours[1], 1e-5).backward(grad)
    torch.testing.assert_close(ours[0].grad.double(), exact[0].grad, rtol=2**-8, atol=1e-5)
    torch.testing.assert_close(ours[1].grad.double(), exact[1].grad, rtol=1e-5, atol=1e-5)


def test_decayed_scores_equal_what_they_say_and_so_do_their_derivatives():
    scores, decay = numbers(2, 4, 4), numbers(2, 3, 4)
    between = (decay[..., :, None] - decay[..., None, :]).exp().tril()
    torch.testing.assert_close(DecayedScores.apply(scores, decay), between * scores[:, None])
    assert torch.autograd.gradcheck(DecayedScores.apply, (scores, decay))


def test_what_would_grow_without_bound_for_the_future_stays_finite():
    decay = torch.linspace(0, -1e4, 64).expand(1, 1, 64).clone().requires_grad_()
    scores = torch.ones(1, 64, 64)
    out = DecayedScores.apply(scores, decay)
    out.sum().backward()
    assert torch.isfinite(out).all() and decay.grad is not None and torch.isfinite(decay.grad).all()
