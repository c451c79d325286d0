"""Muon: updates are nearly orthogonal, and are those of PyTorch's own."""

from __future__ import annotations

import pytest
import torch

from pipeline.training.muon import Muon, orthogonalise


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(4)


@pytest.mark.parametrize("shape", [(24, 24), (64, 16), (16, 64), (8, 200)])
def test_singular_values_come_close_to_one_and_vectors_stay(shape: tuple[int, int]):
    matrices = torch.randn(3, *shape)
    for matrix, orthogonal in zip(matrices, orthogonalise(matrices), strict=True):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        values = torch.linalg.svdvals(orthogonal)

        assert values.max() < 1.3
        assert values.median() > 0.65
        aligned = torch.diagonal(left.mT @ orthogonal @ right.mT)
        assert (aligned - values.sum() / len(values)).abs().median() < 0.3
        assert torch.nn.functional.cosine_similarity(orthogonal.flatten(), (left @ right).flatten(), 0) > 0.93


def test_the_size_of_the_gradient_does_not_matter():
    matrix = torch.randn(1, 16, 32)

    torch.testing.assert_close(orthogonalise(1_000 * matrix), orthogonalise(matrix), atol=0.05, rtol=0)


def test_matrices_are_orthogonalised_together_as_alone():
    matrices = torch.randn(5, 16, 24)
    alone = torch.cat([orthogonalise(matrix[None]) for matrix in matrices])

    torch.testing.assert_close(orthogonalise(matrices), alone, atol=0.02, rtol=0)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with PyTorch 2.9")
def test_steps_are_those_of_pytorch():
    shapes = [(16, 16), (48, 16), (16, 48), (16, 16)]
    ours = [torch.nn.Parameter(torch.randn(shape) / 4) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    before = [parameter.detach().clone() for parameter in ours]
    steppers = [
        Muon(ours, lr=0.05, momentum=0.9, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    ]
    for _ in range(6):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for stepper in steppers:
            stepper.step()
    for one, other, start in zip(ours, theirs, before, strict=True):
        # Both iterate in bfloat16; what is left is its rounding.
        assert (one - other).norm() < 0.05 * (one - start).norm()


def test_the_update_has_the_spectral_norm_that_is_promised():
    parameter = torch.nn.Parameter(torch.zeros(64, 16))
    parameter.grad = torch.randn(64, 16)
    Muon([parameter], lr=0.1, weight_decay=0.0).step()

    assert torch.linalg.matrix_norm(parameter.detach(), 2) == pytest.approx(0.1 * (64 / 16) ** 0.5, rel=0.3)


def test_weights_decay_by_the_learning_rate():
    parameter = torch.nn.Parameter(torch.full((8, 8), 2.0))
    parameter.grad = torch.zeros(8, 8)
    Muon([parameter], lr=0.5, weight_decay=0.1).step()

    torch.testing.assert_close(parameter.detach(), torch.full((8, 8), 2.0 * 0.95))


def test_parameters_without_gradient_stay():
    used, unused = (torch.nn.Parameter(torch.ones(8, 8)) for _ in range(2))
    used.grad = torch.randn(8, 8)
    Muon([used, unused], lr=0.1).step()

    assert (used != 1).any()
    assert (unused == 1).all()
