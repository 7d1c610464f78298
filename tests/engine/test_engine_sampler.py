"""The sampler against closed forms."""

import math

import numpy as np
import pytest
import torch

from k25.engine import SamplingParameters
from k25.engine.sampler import SamplingState, sample, uniform
from k25.errors import InputError

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
DRAWS = 10_000


def frequencies(logits=LOGITS, prompt=(), output=(), mask=None, **parameters):
    """How often each token comes, over many seeds in one batch."""
    states = []
    for seed in range(DRAWS):
        state = SamplingState(SamplingParameters(**parameters), prompt, seed)
        for token in output:
            state.accept(token)
        states.append(state)
    rows = logits.expand(DRAWS, -1).clone()
    chosen = sample(rows, states, [mask] * DRAWS)
    counts = np.bincount([row.token_id for row in chosen], minlength=len(logits))
    return torch.from_numpy(counts / DRAWS)


def assert_distribution(found, expected):
    """Within five standard deviations everywhere, and never outside the support."""
    expected = expected.double()
    deviation = (expected * (1 - expected) / DRAWS).sqrt()
    assert ((found - expected).abs() <= 5 * deviation).all(), (found, expected)


def normalised(weights):
    return weights / weights.sum()


def test_plain_sampling_follows_the_softmax():
    assert_distribution(frequencies(), LOGITS.softmax(-1))


def test_temperature_divides_the_scores():
    assert_distribution(frequencies(temperature=0.5), (LOGITS / 0.5).softmax(-1))


def test_temperature_zero_takes_the_likeliest():
    assert frequencies(temperature=0)[0] == 1


def test_top_k_keeps_the_k_likeliest():
    weights = LOGITS.softmax(-1)
    weights[2:] = 0
    assert_distribution(frequencies(top_k=2), normalised(weights))


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    weights = LOGITS.softmax(-1)  # 0.56, 0.21, 0.13, ...
    weights[2:] = 0
    assert_distribution(frequencies(top_p=0.7), normalised(weights))


def test_top_p_always_keeps_one_token():
    assert frequencies(top_p=1e-6)[0] == 1


def test_top_p_counts_within_what_top_k_left():
    # Of the two likeliest, the first alone has 0.73.
    assert frequencies(top_k=2, top_p=0.7)[0] == 1


def test_min_p_is_relative_to_the_likeliest():
    weights = LOGITS.softmax(-1)
    weights[weights < 0.2 * weights.max()] = 0
    assert_distribution(frequencies(min_p=0.2), normalised(weights))


def test_top_p_is_exact_beyond_the_first_candidates():
    flat = torch.zeros(3000)
    states = [SamplingState(SamplingParameters(top_p=0.5), (), seed) for seed in range(3000)]
    chosen = {row.token_id for row in sample(flat.expand(3000, -1).clone(), states, [None] * 3000)}
    # 1,500 equally likely tokens make up half; 86 % of them are seen, which is more than 1,024.
    assert 1200 < len(chosen) <= 1500


def test_logit_bias_is_added():
    assert_distribution(
        frequencies(logit_bias={5: 5.0, 0: -100.0}), (LOGITS + torch.tensor([-100, 0, 0, 0, 0, 5.0])).softmax(-1)
    )


def test_frequency_penalty_counts_and_presence_penalty_does_not():
    expected = LOGITS - torch.tensor([2 * 0.5 + 0.25, 0.5 + 0.25, 0, 0, 0, 0])
    found = frequencies(output=(0, 0, 1), prompt=(2, 2), frequency_penalty=0.5, presence_penalty=0.25)
    assert_distribution(found, expected.softmax(-1))


def test_repetition_penalty_covers_prompt_and_output_and_depends_on_the_sign():
    expected = LOGITS.clone()
    expected[0] /= 1.5
    expected[4] *= 1.5
    assert_distribution(frequencies(prompt=(4,), output=(0,), repetition_penalty=1.5), expected.softmax(-1))


def test_a_mask_allows_only_its_tokens():
    mask = torch.tensor([0b101010], dtype=torch.int32)
    weights = LOGITS.softmax(-1)
    weights[::2] = 0
    assert_distribution(frequencies(mask=mask), normalised(weights))


def test_a_mask_that_allows_nothing_gives_no_token():
    state = SamplingState(SamplingParameters(), (), 0)
    assert sample(LOGITS[None].clone(), [state], [torch.zeros(1, dtype=torch.int32)])[0].token_id is None


def test_the_forbidden_token_is_never_chosen_but_keeps_its_probability():
    state = SamplingState(SamplingParameters(temperature=0, logprobs=True, top_logprobs=1), (), 0)
    (outcome,) = sample(LOGITS[None].clone(), [state], [None], never=0)
    expected = LOGITS.log_softmax(-1)
    assert outcome.token_id == 1
    assert math.isclose(outcome.logprob, expected[1], abs_tol=1e-6)
    assert outcome.top_logprobs[0][0] == 0


def test_rows_of_different_rules_do_not_disturb_each_other():
    torch.manual_seed(0)
    logits = torch.randn(8, 300) * 3
    parameters = [
        SamplingParameters(seed=1),
        SamplingParameters(temperature=0, logprobs=True),
        SamplingParameters(top_k=3, seed=5, top_logprobs=2),
        SamplingParameters(top_p=0.3, min_p=0.1),
        SamplingParameters(logit_bias={7: 30.0}),
        SamplingParameters(repetition_penalty=2.0),
        SamplingParameters(presence_penalty=2.0, min_tokens=9, stop_token_ids=frozenset({3})),
        SamplingParameters(temperature=9.0),
    ]

    def states():
        made = [SamplingState(p, (1, 2), seed=n) for n, p in enumerate(parameters)]
        for state in made:
            state.accept(7)
        return made

    mask = torch.full((10,), -1, dtype=torch.int32)
    masks = [None, None, mask, None, None, mask, None, None]
    together = sample(logits.clone(), states(), masks)
    alone = [sample(logits[n : n + 1].clone(), [states()[n]], [masks[n]])[0] for n in range(8)]
    for one, other in zip(together, alone, strict=True):
        assert one.token_id == other.token_id
        assert one.logprob == other.logprob or math.isclose(one.logprob, other.logprob, abs_tol=1e-6)
        assert [token for token, _ in one.top_logprobs] == [token for token, _ in other.top_logprobs]


def test_random_numbers_are_even_and_unrelated_between_neighbours():
    numbers = uniform(np.repeat(np.arange(200), 200).tolist(), np.tile(np.arange(200), 200).tolist()).reshape(200, 200)
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(numbers.var() - 1 / 12) < 0.002
    for shifted in (numbers[1:] - numbers[:-1], numbers[:, 1:] - numbers[:, :-1]):
        assert abs(shifted.var() - 1 / 6) < 0.005  # independent uniforms


def test_random_numbers_match_the_published_generator():
    # SplitMix64 started at 1234567 (the reference implementation's well-known first outputs).
    from k25.engine.sampler import _mix

    state, outputs = np.uint64(1234567), []
    with np.errstate(over="ignore"):
        for _ in range(3):
            outputs.append(int(_mix(np.array([state]))[0]))
            state = state + np.uint64(0x9E3779B97F4A7C15)
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2},
        {"presence_penalty": 3},
        {"frequency_penalty": -3},
        {"repetition_penalty": 0},
        {"logit_bias": {1: 101}},
        {"seed": 2**64},
        {"max_tokens": 0},
        {"min_tokens": -1},
        {"top_logprobs": 21},
    ],
)
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        SamplingParameters(**wrong)
