"""Gatekeepers: who holds a share of a period's group secret, and whom they give partials to."""
