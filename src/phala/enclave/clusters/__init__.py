"""Clusters that this worker serves: keys, contracts, and the commands that change them."""
