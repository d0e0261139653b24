"""What can go wrong, as one small family: every message says what was found, where, and what to do."""

from __future__ import annotations


class BclsError(Exception):
    """Base of the project's errors; `exit_code` is what a command that ends with it returns."""

    exit_code = 1


class InputError(BclsError):
    """Something the user gave cannot be used; nothing was changed."""

    exit_code = 2


class ConfigError(InputError):
    """A recipe, an option or an environment variable is wrong."""


class CorpusError(InputError):
    """A dataset cannot be read as a corpus."""


class ModelError(InputError):
    """A model or a tokenizer cannot be loaded, or does not fit where it is used."""


class ShapeError(BclsError, ValueError):
    """Arrays disagree in shape, or hold values no formula is defined for."""

    exit_code = 2


class StoreError(BclsError):
    """An artefact is missing, damaged, or written by a newer version."""


class UnknownArtifactError(InputError):
    """No artefact of that kind and version is published under this root."""


class TrackingError(BclsError):
    """The tracking server cannot be reached, or refuses."""


class StoppedError(BclsError):
    """The work was asked to stop (SIGTERM, preemption) and did, so that it can go on from there."""

    exit_code = 143


class StalePublicationError(StoreError):
    """Somebody published a newer version while this job was at work; its own version is not made current."""


class GateError(BclsError):
    """What was made does not reach the quality it must have; the version published before stays."""

    exit_code = 3


class LockHeldError(BclsError):
    """Another process is making the same artefact."""

    exit_code = 4
