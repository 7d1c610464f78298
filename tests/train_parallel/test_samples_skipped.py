"""Samples that cannot be used are counted whichever rank meets them, and cost nothing where there are none."""

from collections import Counter

import parity_cases
import pytest
import tomli_w
import torch.distributed as dist
from launches import torchrun
from training_builders import packed, random_documents, recipe, state, steps, table, train

from k25.train.batch import pack_documents
from k25.train.parallel.config import ParallelConfig
from k25.train.parallel.ranks import ranks
from k25.train.step import train_step

BROKEN = ['{"text": "fine ', "[1, 2]", '{"text": 7}']


def settings(folder):
    """Streams of which nearly every one meets broken lines."""
    lines = [f'{{"text": "the words of line {n}"}}\n' for n in range(40)]
    for place, broken in zip((3, 9, 17, 22, 31, 36), BROKEN * 2, strict=True):
        lines[place] = broken + "\n"
    (folder / "lines.jsonl").write_text("".join(lines))
    source = {"kind": "text", "path": str(folder / "lines.jsonl")}
    return table(data={"sequence_tokens": 128, "block_streams": 1, "sources": {"lines": source}})


def counted(run):
    return [(record["step"], record["samples_skipped"]) for record in steps(run)]


@pytest.mark.slow
def test_two_ranks_count_what_one_process_counts(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(settings(tmp_path)))
    train(recipe(**{key: value for key, value in settings(tmp_path).items() if key != "stage"}), tmp_path / "alone")
    torchrun(2, ["-m", "k25", "pretrain", path, "--out", tmp_path / "two"])
    assert counted(tmp_path / "two") == counted(tmp_path / "alone")
    total = sum((Counter(reasons) for _, reasons in counted(tmp_path / "alone")), Counter())
    assert sum(reason.startswith("lines: ") for reason in total) == len(BROKEN)


def test_only_a_step_that_lost_samples_asks_the_ranks_for_reasons(monkeypatch):
    asked = []
    gather = dist.all_gather_object

    def watched(*arguments, **options):
        asked.append(arguments[1])
        gather(*arguments, **options)

    monkeypatch.setattr(dist, "all_gather_object", watched)
    whole = random_documents([20, 30], placeholder=parity_cases.PLACEHOLDER)
    with ranks(ParallelConfig()):
        now = state(parity_cases.tiny_model())
        now.group = dist.group.WORLD
        assert train_step(now, [packed(whole)] * 2).samples_skipped == {}
        assert asked == []
        damaged = [
            pack_documents(whole, ("a", "b"), {"a: not JSON": 1}),
            pack_documents(whole, ("a", "b"), {"b: cut": 2}),
        ]
        lost = {"a: not JSON": 1, "b: cut": 2}
        assert train_step(now, damaged).samples_skipped == lost
        assert asked == [lost]
