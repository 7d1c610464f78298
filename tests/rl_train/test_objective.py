"""The policy objective against closed forms and a loop over tokens."""

import math

import pytest
import torch
from pydantic import ValidationError

from k25.rl.objective import ObjectiveConfig, policy_loss

LOG_RATIOS = [-3.0, -0.8, -0.5, 0.0, 0.3, 0.6, 0.8, 3.0]


def cases(seed=0, count=200):
    chance = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(count, generator=chance, dtype=torch.float64)
    new = old + torch.randn(count, generator=chance, dtype=torch.float64)
    return new.requires_grad_(), old, torch.randn(count, generator=chance, dtype=torch.float64)


def gradient(new, old, advantages, **config):
    (found,) = torch.autograd.grad(policy_loss(new, old, advantages, ObjectiveConfig(**config)).loss_N.sum(), new)
    return found


def by_hand(new, old, advantage, mask, ratio, tau):
    """d loss / d log pi of one token, in floats; alpha 0.5, beta 2."""
    rho = math.exp(new - old)
    inside = 0.5 <= rho <= 2
    if mask == "ppo":
        inside = not ((rho > 2 and advantage > 0) or (rho < 0.5 and advantage < 0))
    pulls = inside or mask == "none"
    return (-(rho if ratio else 1.0) * advantage if pulls else 0.0) + 2 * tau * (new - old)


@pytest.mark.parametrize("mask", ["sign-agnostic", "ppo", "none"])
@pytest.mark.parametrize("ratio", [True, False])
@pytest.mark.parametrize("tau", [0.0, 0.3])
def test_the_gradient_equals_a_loop_over_tokens(mask, ratio, tau):
    new, old, advantages = cases()
    expected = [by_hand(*values, mask, ratio, tau) for values in zip(*map(torch.Tensor.tolist, cases()), strict=True)]
    found = gradient(new, old, advantages, mask=mask, ratio=ratio, tau=tau)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("log_ratio", LOG_RATIOS)
def test_the_mask_ignores_the_sign_of_the_advantage(log_ratio):
    new = torch.tensor([log_ratio, log_ratio], requires_grad=True)
    found = policy_loss(new, torch.zeros(2), torch.tensor([1.0, -1.0]), ObjectiveConfig())
    assert found.masked_N.tolist() == [not 0.5 <= math.exp(log_ratio) <= 2] * 2
    up, down = gradient(new, torch.zeros(2), torch.tensor([1.0, -1.0]), tau=0).tolist()
    assert up == -down


def test_ppo_is_the_lesser_of_the_two_surrogates():
    new, old, advantages = cases(1)
    rho = (new - old).exp()
    reference = -torch.minimum(rho * advantages, rho.clamp(0.5, 2) * advantages).sum()
    (expected,) = torch.autograd.grad(reference, new)
    torch.testing.assert_close(gradient(new, old, advantages, mask="ppo", tau=0), expected)


def test_inside_the_interval_the_loss_is_equation_1():
    new, old, advantages = cases(2)
    near = (new - old).abs() < math.log(2)
    found = policy_loss(new, old, advantages, ObjectiveConfig(tau=0.2)).loss_N
    expected = -(new - old).exp() * advantages + 0.2 * (new - old) ** 2
    torch.testing.assert_close(found[near], expected[near])


def test_tokens_outside_the_mask_are_still_pulled_back_by_the_quadratic_term():
    new = torch.tensor([2.0], requires_grad=True)
    assert gradient(new, torch.zeros(1), torch.ones(1), tau=0.5).item() == pytest.approx(2.0)


def test_a_token_that_became_impossible_leaves_the_loss_finite():
    new = torch.tensor([-200.0, 200.0], requires_grad=True)
    for mask in ("sign-agnostic", "ppo", "none"):
        found = policy_loss(new, torch.zeros(2), torch.tensor([1.0, -1.0]), ObjectiveConfig(mask=mask))
        assert found.loss_N.isfinite().all()
        assert torch.autograd.grad(found.loss_N.sum(), new)[0].isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [{"alpha": 1.0}, {"beta": 1.0}, {"tau": -1}, {"mask": "sign"}, {"mask": "none", "alpha": 0.3}, {"gamma": 1}],
)
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ValidationError):
        ObjectiveConfig(**wrong)
