"""Objects whose settings cannot be assigned, because what they have made from them would not follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from .validate import shown


class FixedSettings:
    """Raises ``AttributeError`` when a setting is assigned again."""

    _FIXED: ClassVar[tuple[str, ...]] = ()

    if not TYPE_CHECKING:  # it would make type checkers accept assignments to unknown attributes

        def __setattr__(self, name: str, value: Any) -> None:
            if name in self._FIXED and name in vars(self):
                kind = type(self).__name__
                raise AttributeError(f"{name}: expected no assignment, got {shown(value)}; make a new {kind}")
            super().__setattr__(name, value)
