"""Agent Swarm: an orchestrator that splits work among sub-agents of its own making, and the bench that measures it.

Kimi K2.5 report, arXiv 2602.02276: section 3 (Agent Swarm), appendix E.8 (its two tools).
"""
