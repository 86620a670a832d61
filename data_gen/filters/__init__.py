"""Filters: what an accepted dialogue or response must satisfy, each refusal with a reason that is counted.

`chain` runs them in the order schema, strategy, length, language, repetition, conduct, PII, crisis.
"""
