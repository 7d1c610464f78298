"""How torch's threads wait: by what the machine does, and by what the user says."""

from pathlib import Path

import pytest

from k25.cli import openmp


@pytest.fixture(autouse=True)
def no_choice_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_threads_spin_on_an_idle_machine_and_sleep_on_a_busy_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "idle_share", lambda: 0.95)
    assert "GOMP_SPINCOUNT" in openmp.waiting_threads()
    monkeypatch.setattr(openmp, "idle_share", lambda: 0.4)
    assert openmp.waiting_threads() == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert openmp.waiting_threads() == {}


def test_the_idle_share_is_that_of_the_time_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = tmp_path / "stat"
    times.write_text("cpu  100 0 50 1000 10 0 0 0 0 0\n")
    monkeypatch.setattr(
        openmp.time, "sleep", lambda _: times.write_text("cpu  104 0 51 1013 12 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7 8\n")
    )
    assert openmp.idle_share(times) == pytest.approx(15 / 20)


def test_a_system_that_does_not_tell_counts_as_busy(tmp_path: Path) -> None:
    assert openmp.idle_share(tmp_path / "absent") == 0
