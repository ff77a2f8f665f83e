"""What decides in a node, pure: the pool of transactions."""
