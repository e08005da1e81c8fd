import pytest
import torch
from torch.nn import functional as F

from condense.objectives import distance_loss, distances, divergence, logit_loss, mixed_cross_entropy
from condense.rng import generator

B, C = 6, 4
Z, Q = (3 * torch.randn(B, C, dtype=torch.float64, generator=generator(0, name)) for name in ("z", "q"))
Y, PARTNER = torch.arange(B) % C, (torch.arange(B) + 2) % C


@pytest.mark.parametrize("temperature", [1.0, 4.0, 30.0])
def test_the_divergence_is_written_out(temperature):
    p, q = ((logits / temperature).exp() for logits in (Q, Z))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    expected = temperature**2 * (p * (p / q).log()).sum() / B
    torch.testing.assert_close(divergence(Z, Q, temperature), expected, rtol=1e-10, atol=0)
    by_torch = torch.nn.KLDivLoss(reduction="batchmean")(F.log_softmax(Z / temperature, 1), p)
    torch.testing.assert_close(divergence(Z, Q, temperature), temperature**2 * by_torch)


def test_its_gradient_is_that_of_cross_entropy_with_the_teachers_probabilities():
    z = Z.clone().requires_grad_()
    (ours,) = torch.autograd.grad(divergence(z, Q, 1.0), z)
    (expected,) = torch.autograd.grad(F.cross_entropy(z, Q.softmax(1)), z)
    torch.testing.assert_close(ours, expected)


def test_its_gradient_keeps_its_size_as_the_temperature_grows():
    """Hinton et al., section 2.1: for zero-mean logits it tends to (z - q) / classes."""
    z = (Z - Z.mean(1, keepdim=True)).requires_grad_()
    q = Q - Q.mean(1, keepdim=True)
    (ours,) = torch.autograd.grad(divergence(z, q, 1e4), z)
    torch.testing.assert_close(ours, (z.detach() - q) / C / B, rtol=1e-2, atol=1e-4)


def test_a_constant_added_to_a_row_of_logits_changes_nothing():
    """So log-probabilities do for logits."""
    for logits in (Q + 3, Q.softmax(1).log()):
        torch.testing.assert_close(divergence(Z, logits, 20.0), divergence(Z, Q, 20.0))


def test_without_weight_a_loss_is_cross_entropy_to_the_bit():
    z, d = Z.float(), distances(Q.float(), Y, PARTNER)
    expected = F.cross_entropy(z, Y)
    assert torch.equal(logit_loss(z, Q.float(), Y, PARTNER, 1.0, temperature=20.0, weight=0.0), expected)
    assert torch.equal(distance_loss(z, d, Y, PARTNER, 1.0, weight=0.0), expected)
    assert torch.equal(mixed_cross_entropy(z, Y, PARTNER, 0.0), F.cross_entropy(z, PARTNER))


def test_mixed_cross_entropy_is_that_of_mixed_labels():
    one_hot = torch.eye(C, dtype=torch.float64)
    expected = F.cross_entropy(Z, 0.3 * one_hot[Y] + 0.7 * one_hot[PARTNER])
    torch.testing.assert_close(mixed_cross_entropy(Z, Y, PARTNER, 0.3), expected)
    torch.testing.assert_close(mixed_cross_entropy(Z, one_hot[Y], one_hot[PARTNER], 0.3), expected)


def test_the_weight_interpolates():
    soft, hard = divergence(Z, Q, 4.0), mixed_cross_entropy(Z, Y, PARTNER, 0.6)
    made = logit_loss(Z, Q, Y, PARTNER, 0.6, temperature=4.0, weight=0.25)
    torch.testing.assert_close(made, 0.25 * soft + 0.75 * hard)
    assert torch.equal(logit_loss(Z, Q, Y, PARTNER, 0.6, temperature=4.0, weight=1.0), soft)


def test_a_student_that_equals_its_teacher_is_at_no_distance():
    hard = mixed_cross_entropy(Z, Y, PARTNER, 0.6)
    assert torch.equal(distance_loss(Z, distances(Z, Y, PARTNER), Y, PARTNER, 0.6, weight=2.0), hard)
    assert float(divergence(Z, Z, 20.0)) == 0


def test_distances_by_hand():
    found = distances(Z, Y, PARTNER)
    for i in range(B):
        log_sum = Z[i].exp().sum().log()
        assert found[i].tolist() == pytest.approx([float(log_sum - Z[i, Y[i]]), float(log_sum - Z[i, PARTNER[i]])])
    shifted = found + torch.tensor([0.5, -0.25])
    hard = mixed_cross_entropy(Z, Y, PARTNER, 0.6)
    torch.testing.assert_close(distance_loss(Z, shifted, Y, PARTNER, 0.6, weight=2.0), hard + 2 * 0.75)
