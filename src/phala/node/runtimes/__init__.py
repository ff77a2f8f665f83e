"""Releases side by side: each state is read, and followed, by the one that its `:code` names."""
