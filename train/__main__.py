"""``python -m aicl_fast.train …`` is ``aicl-fast train …``; for torchrun, which starts modules.

torchrun --nproc-per-node 2 -m aicl_fast.train --preset thumos14 --data THUMOS14 --out runs/thumos14
"""

from __future__ import annotations

import sys

from aicl_fast.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
