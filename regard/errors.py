"""What can go wrong, as one small family of exceptions."""


class RegardError(Exception):
    """A mistake that a person can mend; its text says what is wrong, what came, what is allowed and what to type."""


class ShapeError(RegardError, ValueError):
    """Tensors whose shapes do not fit together."""


class Unsupported(RegardError, NotImplementedError):
    """Something was asked for that the part does not claim to do."""


class EngineRefused(Unsupported):
    """An engine asked for by name can't run this problem; `reasons` says why."""

    def __init__(self, engine: str, reasons: list[str]) -> None:
        self.engine, self.reasons = engine, reasons
        why = "; ".join(reasons)
        if engine == "auto":
            super().__init__(f"No engine can run this: {why}.")
        else:
            super().__init__(f"Engine {engine!r} can't run this: {why}. Use engine='auto'.")


class MissingExtra(RegardError, ImportError):
    """An optional package is not installed; the text has the pip command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the {extra!r} extra. Type: pip install 'regard[{extra}]'")


class CheckpointError(RegardError):
    """A checkpoint is missing, incomplete or not what it should be."""
