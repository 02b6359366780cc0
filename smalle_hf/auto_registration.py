"""Registers the package's classes with Transformers' Auto classes once both packages are imported, in any order.

Registering needs torch and Transformers, which take seconds to import and which speaking with exported graphs does
without. So it waits for whoever imports Transformers.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def register_when_imported() -> None:
    """Registers the classes now if Transformers is imported already, else as soon as it is."""
    if "transformers" in sys.modules:
        register_classes()
    else:
        sys.meta_path.insert(0, _Watcher())


def register_classes() -> None:
    """Registers the classes. Without torch there is nothing to register."""
    if find_spec("torch") is None:
        return
    transformers: Any = importlib.import_module("transformers")
    small_codec = _module("configuration_small_codec").SmallCodecConfig
    small_e = _module("configuration_smalle").SmallEConfig
    speaker = _module("modeling_smalle").SmallEForSpeechGeneration
    transformers.AutoConfig.register("small_codec", small_codec)
    transformers.AutoModel.register(small_codec, _module("modeling_small_codec").SmallCodecModel)
    transformers.AutoConfig.register("small_e", small_e)
    # `AutoModel` gives the model that speaks: the bare one has no use of its own.
    transformers.AutoModel.register(small_e, speaker)
    transformers.AutoModelForTextToWaveform.register(small_e, speaker)
    transformers.AutoProcessor.register(small_e, _module("processing_smalle").SmallEProcessor)


def _module(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)


class _Watcher(MetaPathFinder):
    """Sees Transformers being imported. Modules of this package import it as well, and have to be complete before
    their classes can be registered, so these are watched, too."""

    def __init__(self) -> None:
        self.num_running = 0

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "transformers" and not name.startswith(f"{__package__}."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _WatchedLoader(spec.loader, self)
        return spec

    def run(self, loader: Loader, module: ModuleType) -> None:
        """Executes a module, and registers the classes if it is the outermost one and Transformers is there now."""
        self.num_running += 1
        try:
            loader.exec_module(module)
        finally:
            self.num_running -= 1
        if not self.num_running and "transformers" in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            register_classes()


class _WatchedLoader(Loader):
    def __init__(self, loader: Loader, watcher: _Watcher) -> None:
        self.loader, self.watcher = loader, watcher

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Whoever asks the module for its loader, as for its source, gets the real one.
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.watcher.run(self.loader, module)

    def __getattr__(self, name: str) -> Any:
        # `python -m` runs a module by its loader's code and never executes the loader.
        return getattr(self.loader, name)


__all__ = ["register_classes", "register_when_imported"]
