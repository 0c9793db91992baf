"""From the setting to a checker."""

import importlib
from pathlib import Path

from service.safety.base import SafetyChecker, SafetyCheckerError

LONGEST_VERSION = 200


def load_checker(name: str) -> SafetyChecker:
    """Return a checker.

    Args:
        name: "module:function" of one's own, called without arguments, that returns a `SafetyChecker`; or a folder of
            diffusers' Stable Diffusion checker, alone or in the folder of a model that ships one.

    Raises:
        SafetyCheckerError: there is no such checker, or it cannot be loaded.
    """
    if Path(name).is_dir():
        # Imported here so that who needs none does not load it.
        from service.safety.concepts import ConceptChecker

        return ConceptChecker.load(Path(name))
    made = _made(name)
    try:
        version, judge = made.version, made.judge
    except AttributeError as error:
        raise SafetyCheckerError(f"what the safety checker's function returns has no {error.name}") from None
    if not isinstance(version, str) or not 0 < len(version) <= LONGEST_VERSION or not callable(judge):
        raise SafetyCheckerError("the safety checker needs a version, a text of 1 to 200 characters, and judge()")
    return made


def _made(name: str) -> SafetyChecker:
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise SafetyCheckerError('a safety checker is "module:function" or a folder that is there')
    try:
        made: SafetyChecker = vars(importlib.import_module(module))[function]()
    except KeyError:
        raise SafetyCheckerError(f"the module of the safety checker has no {function!r}") from None
    except Exception as error:
        raise SafetyCheckerError(f"the safety checker cannot be loaded: {type(error).__name__}: {error}") from error
    return made
