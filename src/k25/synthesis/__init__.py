"""Training records from models: candidate answers of several endpoints, verified in stages, with their provenance.

The K2.5 report (arXiv 2602.02276) fine-tunes on answers that stronger models wrote and several stages verified.

| file | what |
|---|---|
| `plan` | what a plan's TOML file says |
| `prompts` | prompts from tasks and files, and their tools |
| `asking` | one server: the agent loop, the record, the limits |
| `candidates` | one answer of one endpoint |
| `verify` | structure, exact checkers, reference answers, majority |
| `judge` | a model that grades by rubrics |
| `selection` | duplicates, the best or most different, balance |
| `pipeline` | all of it, resumable |
| `summary`, `output` | counts and files |
"""

from k25.synthesis.pipeline import Outcome, Progress, synthesize
from k25.synthesis.plan import Plan, load_plan, parse_plan
from k25.synthesis.summary import Summary

__all__ = ["Outcome", "Plan", "Progress", "Summary", "load_plan", "parse_plan", "synthesize"]
