"""Rotary positions and YaRN against the published figures of the release and against geometry."""

import pytest
import torch
from model_builders import tiny_config

from k25.model import preset
from k25.model.rotary import rotary_frequencies, rotary_table, rotate, softmax_scale

# fmt: off
RELEASED_FREQUENCIES = [
    1, 0.713111085, 0.508527419, 0.36263654, 0.258600136, 0.184410624, 0.13150526, 0.0937778586, 0.0668740305,
    0.043776656,
    0.0284279591, 0.0182829556, 0.0116191599, 0.00727411927, 0.00446584875, 0.00267020339, 0.00153729673,
    0.000834655045,
    0.000408645987, 0.000158374991, 1.80702339e-05, 1.28860841e-05, 9.1892094e-06, 6.55292708e-06, 4.67296494e-06,
    3.3323431e-06, 2.3763308e-06, 1.69458784e-06, 1.20842937e-06, 8.6174438e-07, 6.14519469e-07, 4.38220646e-07,
]
# fmt: on


def test_released_frequencies_are_those_of_the_yarn_table():
    torch.testing.assert_close(
        rotary_frequencies(preset("k2.5").text), torch.tensor(RELEASED_FREQUENCIES), rtol=1e-5, atol=0
    )


def test_released_softmax_scale_carries_the_squared_mscale():
    assert softmax_scale(preset("k2.5").text) == pytest.approx(0.1446796258, abs=1e-10)


def test_softmax_scale_without_yarn_is_the_plain_one():
    assert softmax_scale(preset("moonlight-16b-a3b").text) == pytest.approx(192**-0.5)


def test_cosine_and_sine_are_not_scaled_in_the_release():
    length = rotary_table(preset("k2.5").text, torch.tensor([0, 5, 262_143])).abs()
    torch.testing.assert_close(length, torch.ones_like(length))


def test_rotated_dot_products_depend_on_the_distance_only():
    config = tiny_config().text
    query, key = torch.randn(2, 1, config.qk_rope_head_dim, dtype=torch.float32)

    def score(query_position: int, key_position: int) -> torch.Tensor:
        turned = [
            rotate(x, rotary_table(config, torch.tensor([position])))
            for x, position in ((query, query_position), (key, key_position))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(17, 4), score(113, 100), rtol=1e-4, atol=1e-5)


def test_pairs_are_interleaved():
    config = tiny_config(yarn=False).text
    turned = rotate(torch.eye(config.qk_rope_head_dim)[:1], rotary_table(config, torch.tensor([1])))
    expected = torch.zeros(1, config.qk_rope_head_dim)
    expected[0, :2] = torch.tensor([torch.tensor(1.0).cos(), torch.tensor(1.0).sin()])
    torch.testing.assert_close(turned, expected)
