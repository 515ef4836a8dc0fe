"""Running a model file: one session per file, alike for every engine and every kind of model.

``registry.py`` has the table of engines, ``session.py`` what they have in common; each engine is one file or
folder. ``onnx_file.py``, ``ir_file.py`` and ``container.py`` look through a file before an engine sees it.
"""

from __future__ import annotations
