"""A reinforcement learning run as people watch it: the training display with rewards instead of losses."""

from rich.table import Table

from k25.cli.train_display import TrainingDisplay
from k25.train.metrics import Record


class RLDisplay(TrainingDisplay):
    """A `Sink` for metrics; use it as a context manager around the run."""

    def _line(self, record: Record) -> str:
        return (
            f"reward {record['reward']:.3f}, {record['output_tokens']:.0f} tokens an answer, "
            f"{record['rollout_tokens_per_second']:,.0f} tokens/s rolled out, gradient {record['gradient_norm']:.2f}"
        )

    def _table(self) -> Table:
        last = self._last
        table = Table(show_header=False, box=None, padding=(0, 2))
        table.add_row("reward", f"{last['reward']:.3f}   {_named(last['reward_by_environment'])}")
        table.add_row("accuracy", _named(last["accuracy_by_domain"]))
        table.add_row(
            "answers",
            f"{last['output_tokens']:.0f} tokens   cut {last['truncated']:.0%}   entropy {last['entropy']:.2f}   "
            f"groups without difference {last['even_groups']:.0%}",
        )
        table.add_row(
            "policy",
            f"masked {last['masked_share']:.2%}   mismatch {last.get('mismatch_max', 0.0):.1e}   "
            f"staleness {last['staleness']:.2f}   gradient norm {last['gradient_norm']:.2f}",
        )
        table.add_row(
            "speed",
            f"{last['rollout_tokens_per_second']:,.0f} tokens/s rolled out   "
            f"training {last['train_seconds']:.1f} s, waited for rollouts {last['rollout_seconds']:.1f} s",
        )
        dropped = "  ".join(f"{count} x {reason}" for reason, count in last["dropped"].items())
        table.add_row("safety", f"steps skipped: {self._skips}   rollouts dropped: {dropped or 'none'}")
        if last["environment_metrics"]:
            table.add_row("episodes", "  ".join(f"{k} {v:.3g}" for k, v in last["environment_metrics"].items()))
        return table


def _named(shares: dict[str, float]) -> str:
    return "  ".join(f"{name} {share:.0%}" for name, share in shares.items())
