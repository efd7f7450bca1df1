"""`python -m mist_attack.bench.gpu`, from a plain checkout: `mist bench --gpu`."""

import sys

from ...__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "--gpu"]
    main()
