"""Many minimizations at once: they reach known minima, and no row depends on another."""

import torch
from observations import uniform

from lightning_memaudit.recovery.descent import minimize


def quadratics(number, size, seed=0):
    """``(x - c)' A (x - c)`` with known minima c, and their gradients."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(number, size, size, generator=generator, dtype=torch.float64)
    matrix = factor @ factor.mT / size + 0.1 * torch.eye(size, dtype=torch.float64)
    center = torch.rand(number, size, generator=generator, dtype=torch.float64)

    def evaluate(points, rows):
        away = points - center[rows]
        product = (matrix[rows] @ away[:, :, None]).squeeze(2)
        return (away * product).sum(1), 2 * product

    return evaluate, center


def test_quadratic_functions_are_minimized_in_fewer_gradients_than_there_are_unknowns_squared():
    evaluate, center = quadratics(5, 12)
    found = minimize(evaluate, torch.zeros(5, 12, dtype=torch.float64), torch.full((5,), 100))
    torch.testing.assert_close(found.point, center, atol=1e-4, rtol=0)
    assert (found.num_gradients <= 100).all()


def test_the_function_of_rosenbrock_is_minimized():
    def evaluate(points, rows):
        with torch.enable_grad():
            x = points.detach().requires_grad_()
            value = (1 - x[:, 0]) ** 2 + 100 * (x[:, 1] - x[:, 0] ** 2) ** 2
            return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    start = torch.tensor([[-1.2, 1.0], [0.0, 0.0]], dtype=torch.float64)
    found = minimize(evaluate, start, torch.full((2,), 200), improvement=0.999)
    torch.testing.assert_close(found.point, torch.ones_like(start), atol=1e-3, rtol=0)


def test_no_row_depends_on_another():
    evaluate, _ = quadratics(4, 6)
    together = minimize(evaluate, uniform((4, 6)).double(), torch.tensor([3, 60, 7, 0]))
    for row in range(4):
        alone = minimize(
            lambda points, rows, row=row: evaluate(points, rows + row),
            uniform((4, 6)).double()[row : row + 1],
            torch.tensor([[3, 60, 7, 0][row]]),
        )
        torch.testing.assert_close(together.point[row], alone.point[0])
        assert together.num_gradients[row] == alone.num_gradients[0]
    assert together.num_gradients.tolist()[3] == 0
    assert together.num_gradients[0] == 3


def test_values_never_rise_and_rows_that_stand_still_or_are_not_finite_leave():
    start = torch.tensor([[1.0], [2.0], [3.0], [0.5]])

    def evaluate(points, rows):
        value = torch.where(rows == 0, torch.nan, torch.where(rows == 1, 1.0, points[:, 0].square()))
        # The third function lies about its slope, so that no step lowers it.
        gradient = torch.where(rows == 2, -2 * points[:, 0], torch.where(rows == 3, 2 * points[:, 0], 0.0))
        return value, gradient[:, None]

    found = minimize(evaluate, start, torch.full((4,), 50))
    assert found.value[0] == torch.inf
    torch.testing.assert_close(found.point[:3], start[:3])
    assert found.num_gradients.tolist()[:2] == [1, 1]
    assert found.num_gradients[2] < 10
    assert found.value[3] < 1e-4
