"""Objects whose settings cannot be assigned, because what they have made from them would not follow."""

from __future__ import annotations

from typing import Any, ClassVar


class FixedSettings:
    """Raises ``AttributeError`` when a setting is assigned again."""

    _FIXED: ClassVar[tuple[str, ...]] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._FIXED and name in vars(self):
            raise AttributeError(
                f"{name}: expected no assignment, got {value!r:.100}; make a new {type(self).__name__}"
            )
        super().__setattr__(name, value)
