"""An engine: runs the files of format.py by onnx's reference evaluator, in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aicl_fast.engines.registry import EngineSpec
from aicl_fast.engines.session import Session, read_settings


class ToySession(Session):
    name = "toy"

    def __init__(self, path: Path, kind: str) -> None:
        from onnx.reference import ReferenceEvaluator

        settings, _, model = path.read_bytes().partition(b"\n")
        super().__init__(path, read_settings(settings.decode(), path, kind))
        self.evaluator = ReferenceEvaluator(model)

    def run(self, inputs: Any) -> Any:
        result = self.signature.result
        return result(*self.evaluator.run(list(result._fields), {self.signature.input.name: inputs}))


ENGINE = EngineSpec("aicl_toy.engine:ToySession", (".toy",), "the toy engine", devices=("cpu",))
