"""What an operator does to a node's folder: check, export, import, revert, snapshot."""
