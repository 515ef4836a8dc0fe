"""``python -m aicl_fast …`` is ``aicl-fast …``, where scripts are not on the path."""

from __future__ import annotations

from aicl_fast.cli import main

if __name__ == "__main__":
    main()
