"""What a method for pretrained models is: an intervention with a spec, settings and an identity."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

from regard.core import Spec
from regard.hf import Intervention


@dataclass(frozen=True)
class Method(Intervention):
    """An intervention that a person chooses by name: a frozen dataclass whose fields are its settings."""

    spec: ClassVar[Spec]

    @classmethod
    def identity(cls) -> Self:
        """The method at the setting that leaves every model's logits unchanged."""
        return cls(**dict(cls.spec.exact_at))  # type: ignore[arg-type]

    @property
    def settings(self) -> dict[str, object]:
        """The settings by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def label(self) -> str:
        """The method as it is typed: `name:key=value,...`."""
        settings = ",".join(f"{key}={_typed(value)}" for key, value in self.settings.items())
        return f"{self.spec.id}:{settings}" if settings else self.spec.id

    def at_least(self, **least: float) -> None:
        """Raise ValueError for the first setting below its least allowed value."""
        for name, bound in least.items():
            value = getattr(self, name)
            if not value >= bound:
                raise ValueError(f"{type(self).__name__}.{name} must be at least {bound}; got {value}.")


def _typed(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)
