"""Several ranks (gloo) train as one process does, whatever is divided among them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import parity_cases
import pytest
import torch
from launches import torchrun
from parity_cases import CASES, Case, alone

# Which cases run on how many ranks: with divided experts, four are two groups that hold the same.
RUNS = {
    2: ["plain", "text", "experts", "recomputed", "frozen decoder", "frozen vision", "not finite", "bfloat16"],
    4: ["plain", "recomputed", "bfloat16"],
}


@pytest.fixture(scope="module")
def several_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], dict[str, object]]:
    """Results of a case on so many ranks; all cases of a number of ranks come from one launch."""

    @cache
    def launched(ranks: int) -> Path:
        folder = tmp_path_factory.mktemp(f"ranks-{ranks}")
        torchrun(ranks, [parity_cases.__file__, folder, *RUNS[ranks]])
        return folder

    return lambda ranks, name: torch.load(launched(ranks) / f"{name}.pt")


@pytest.fixture(scope="module")
def one_process() -> dict[Case, dict[str, object]]:
    """Results of one process, which divides nothing, by what else differs."""
    return {plain(case): alone(plain(case)) for case in CASES.values()}


def plain(case: Case) -> Case:
    return Case(pictures=case.pictures, trained=case.trained, poisoned=case.poisoned)


def assert_same_training(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(actual["losses"], expected["losses"], rtol=0, atol=tolerance, equal_nan=True)
    torch.testing.assert_close(actual["norms"], expected["norms"], rtol=0, atol=tolerance, equal_nan=True)
    assert actual["skipped"] == expected["skipped"]
    assert actual["clipped"] == expected["clipped"]
    assert actual["violations"] == expected["violations"]
    assert actual["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(actual["weights"][name], weight, rtol=0, atol=tolerance, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "name"), [(ranks, name) for ranks, names in RUNS.items() for name in names])
def test_several_ranks_train_as_one_process(several_ranks, one_process, ranks, name):
    case, actual = CASES[name], several_ranks(ranks, name)
    expected = one_process[plain(case)]
    if case.precision == "float32":
        assert_same_training(actual, expected)
    else:
        torch.testing.assert_close(actual["losses"], expected["losses"], rtol=0, atol=2e-3)


@pytest.mark.slow
def test_bfloat16_on_one_process_stays_close_to_float32(one_process):
    case = CASES["bfloat16"]
    losses, expected = alone(case)["losses"], one_process[plain(case)]["losses"]
    torch.testing.assert_close(losses, expected, rtol=0, atol=2e-3)
    assert losses != expected


def test_poison_on_one_rank_is_felt_by_the_reference(one_process):
    assert one_process[plain(CASES["not finite"])]["skipped"] == ["", "not finite", "", ""]


@pytest.mark.parametrize(
    "case", [Case(decoupled=True), Case(recompute="layers"), Case(decoupled=True, recompute="layers")]
)
def test_decoupling_and_recomputing_change_nothing_on_one_process(one_process, case):
    assert_same_training(alone(case), one_process[plain(case)])
