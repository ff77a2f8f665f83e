"""`python -m phala.node`."""

import gc

from phala.node.compiled import use_compiled

use_compiled()  # before anything of it is imported
gc.disable()  # what is imported stays; to look through it over and over takes a tenth of the time

from phala.node.main import main  # noqa: E402

gc.enable()
main()
