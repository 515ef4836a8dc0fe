"""A plan and the TensorRT that runs it: whether they fit, loading, and kernels compiled at first use."""

from __future__ import annotations

import os
import re
import threading
import warnings
from pathlib import Path
from typing import Any

from aicl_fast.engines.container import Container
from aicl_fast.engines.packages import NAMES, load_tensorrt
from aicl_fast.engines.session import running
from aicl_fast.engines.tensorrt.logger import last_error, make_logger
from aicl_fast.errors import DataError, ModelError
from aicl_fast.files import atomic_path


class Plan:
    """A container's plan. It takes a GPU, current in the calling thread, from :meth:`load` on.

    Args:
        container: of kind ``tensorrt`` or ``tensorrt-rtx``.
        cache: TensorRT-RTX: folder for kernels compiled at first use; None is ``aicl_fast`` in the user's
            cache folder.
        trust: as :func:`require_trust`.
    Raises:
        ModelError: another version of TensorRT built it, or it is not trusted.
        UnavailableError: TensorRT is not installed.
    """

    def __init__(
        self, container: Container, cache: str | os.PathLike[str] | None, *, trust: bool = False
    ) -> None:
        is_rtx = container.kind == "tensorrt-rtx"
        require_trust(container, trust)
        self.container = container
        self.path = container.path
        self.api = load_tensorrt("tensorrt-rtx" if is_rtx else "tensorrt")
        check_builder(container, self.api.__version__)
        self.logger = make_logger(self.api)
        self.runtime: Any = None
        self.engine: Any = None
        self.settings: Any = None
        self.cache = _runtime_cache_file(container, cache) if is_rtx else None
        self._saving = threading.Lock()
        self._saved = b""

    def load(self, capability: tuple[int, int]) -> None:
        """Load it on the current GPU, which has this compute capability.

        Raises:
            ModelError: it is for another card, damaged, or TensorRT does not take it.
        """
        container = self.container
        check_card(container, capability)
        self.runtime = self.api.Runtime(self.logger)
        if container.builder.get("version_compatible"):
            # Such a plan carries its own small runtime, as native code; the caller trusts it.
            self.runtime.engine_host_code_allowed = True
        with running(self.path):
            self.engine = self.runtime.deserialize_cuda_engine(container.read("plan"))
        if self.engine is None:
            raise ModelError(f"{self.path}: {NAMES[container.kind]} cannot load the plan ({self.reason()}).")
        self.settings = self._runtime_settings()

    def context(self) -> Any:
        """A new execution context; None where TensorRT refuses."""
        create = self.engine.create_execution_context
        if self.settings is not None:
            return create(self.settings)
        return create() if self.managed is None else create(self.managed)

    @property
    def managed(self) -> Any:
        """The strategy by which contexts are given memory for their own shape, by whoever makes them.

        None is the default: a context takes memory for the largest shape.
        """
        return getattr(getattr(self.api, "ExecutionContextAllocationStrategy", None), "USER_MANAGED", None)

    def reason(self) -> str:
        """The last error that TensorRT logged."""
        return last_error(self.logger)

    def release(self) -> None:
        """Free it. Contexts go before, the GPU after."""
        self.settings = self.engine = self.runtime = None  # in this order

    def _runtime_settings(self) -> Any:
        """TensorRT-RTX compiles kernels for the card at first use; they are kept from one run to the next."""
        if self.cache is None or not hasattr(self.engine, "create_runtime_config"):
            return None
        settings = self.engine.create_runtime_config()
        kernels = settings.create_runtime_cache()
        if self.cache.is_file():
            kernels.deserialize(self.cache.read_bytes())
        settings.set_runtime_cache(kernels)
        if self.managed is not None:
            settings.set_execution_context_allocation_strategy(self.managed)
        # A context's shape never changes: kernels for it are compiled before its graph is captured.
        strategy = getattr(self.api, "DynamicShapesKernelSpecializationStrategy", None)
        if strategy is not None:
            settings.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        return settings

    def save_kernels(self) -> None:
        """Keep the kernels that were compiled since the last time. Where they cannot be kept, it warns."""
        if self.settings is None or self.cache is None:
            return
        try:
            with self._saving:
                kernels = bytes(memoryview(self.settings.get_runtime_cache().serialize()))
                if kernels == self._saved:
                    return
                self._saved = kernels
                with atomic_path(self.cache) as temporary:
                    temporary.write_bytes(kernels)
        except (DataError, OSError) as error:
            warnings.warn(
                f"the next run compiles its kernels again, since they cannot be kept: {error}",
                RuntimeWarning,
                stacklevel=1,
            )


def require_trust(container: Container, trust: bool) -> None:
    """Refuse a plan with native code in it, unless the caller trusts where it comes from.

    Raises:
        ModelError: it is version-compatible, and not trusted.
    """
    if container.builder.get("version_compatible") and not trust:
        raise ModelError(
            f"{container.path}: was built version-compatible, so it carries native code, which can do "
            "whatever a program can. If you trust its origin: Detector(…, trust=True) or --trust. Or "
            "export the weights here without --version-compatible."
        )


def check_builder(container: Container, version: str) -> None:
    """Compare the version that built a plan with the one that is to run it.

    Raises:
        ModelError: TensorRT would refuse the plan.
    """
    name, built = NAMES[container.kind], str(container.builder.get("version"))
    if container.builder.get("version_compatible"):
        if built.split(".")[0] == version.split(".")[0] and _numbers(built) <= _numbers(version):
            return
        expected = f"{name} {built.split('.')[0]}, {built} or later"
    elif built == version:
        return
    else:
        expected = f"{name} {built}, which built it"
    raise ModelError(
        f"{container.path}: expected {expected}; version {version} is installed. Install that version, or "
        "export the weights again with this one."
    )


def check_card(container: Container, capability: tuple[int, int]) -> None:
    """Compare the cards that a plan was built for with the one that is here.

    Raises:
        ModelError: the plan is for other cards.
    """
    wanted = [str(one) for one in container.builder.get("compute_capability", ())]
    here = f"{capability[0]}.{capability[1]}"
    if not wanted or here in wanted:
        return
    lowest = [one[:-1] for one in wanted if re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}\+", one)]
    if any(_numbers(one) <= capability for one in lowest):
        return
    raise ModelError(
        f"{container.path}: was built for compute capability {', '.join(wanted)}; this card has {here}. "
        "Export the weights again on this card, or with a --compute-capability that covers it."
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if re.fullmatch("[0-9]{1,9}", part))


def _runtime_cache_file(container: Container, folder: str | os.PathLike[str] | None) -> Path:
    if folder is None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "aicl_fast")
    return Path(folder, f"{container.sections['plan'][2][:24]}.rtx")
