"""`python -m phala.node`."""

from phala.node.main import main

main()
