"""Progress of work in several stages."""

from __future__ import annotations

from .._engine.validate import Progress


def stage_of(progress: Progress | None, name: str, *, is_public: bool = False) -> Progress | None:
    """Returns the progress of a stage that begins, or None.

    A progress with a method ``stage(name)``, as that of the command line, is told each stage. Any other is called for
    the stages that are documented (is_public) alone.
    """
    stage = getattr(progress, "stage", None)
    if stage is not None:
        found: Progress = stage(name)
        return found
    return progress if is_public else None
