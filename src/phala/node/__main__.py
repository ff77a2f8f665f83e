"""`python -m phala.node`."""

from phala.node.compiled import use_compiled

use_compiled()  # before anything of it is imported

from phala.node.main import main  # noqa: E402

main()
