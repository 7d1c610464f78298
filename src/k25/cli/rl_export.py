"""`k25 rl export-rft`: the good rollouts of a run as records for fine-tuning."""

from pathlib import Path

from k25.rl.rft import RftConfig, read_rollouts, rft, tools_of, write_records


def export_rft(run: Path, file: Path, /, *, reward: float = 1.0, keep: int = 1, longest: int | None = None) -> None:
    """Write the good rollouts of a run as records that `k25 sft` reads.

    A run keeps the rollouts of as many groups of each step as its recipe says under `rollouts.shown`.

    Args:
        run: Folder of a run of `k25 rl`.
        file: The .jsonl file to write.
        reward: The least reward of a rollout.
        keep: The most rollouts of one prompt: the best, of equals the shortest.
        longest: The most tokens that the policy may have chosen [any number].
    """
    found = rft(read_rollouts(run), RftConfig(reward, keep, longest), tools_of(run))
    write_records(found.records, file)
    print(f"{len(found.records):,} records of {len(found.records) + found.left_out.total():,} rollouts: {file}")
    for reason, count in found.left_out.most_common():
        print(f"left out: {count:,}, {reason}")
