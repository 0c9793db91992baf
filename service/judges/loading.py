"""From a judge's name to a judge."""

import importlib
import json
from pathlib import Path

from service.judges.base import Judge, JudgeError

_CLIP = "clip:"


def shipped_judge(model: str) -> str | None:
    """Return the name of the judge that a model's `headstart.json` names ("judge"), None if it names none."""
    try:
        named = json.loads((Path(model) / "headstart.json").read_text("utf-8")).get("judge")
    except (OSError, ValueError, AttributeError):
        return None
    return named if isinstance(named, str) else None


def load_judge(name: str, device: str = "cpu") -> Judge:
    """Return a judge.

    Args:
        name: "clip:MODEL" for CLIP and scorers of its form (PickScore), by folder or hub id; or "module:function" of
            one's own, called without arguments, that returns a `Judge`.
        device: where a network of ours runs.

    Raises:
        JudgeError: there is no such judge, or it cannot be loaded.
    """
    if name.startswith(_CLIP):
        # Imported here so that who only asks for a name does not load torch.
        from service.judges.clip import ClipJudge

        try:
            return ClipJudge.load(name.removeprefix(_CLIP), device)
        except (RuntimeError, AssertionError) as error:  # torch: no such device, or weights of another shape
            raise JudgeError(f"judge {name} cannot be loaded: {_line(error)}") from error
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise JudgeError(f'a judge is "clip:MODEL" or "module:function", not {name!r}')
    try:
        found = vars(importlib.import_module(module))
        if function not in found:
            raise JudgeError(f"judge {name!r}: {module} has no {function!r}")
        made = found[function]()
    except JudgeError:
        raise
    except ModuleNotFoundError as error:
        hint = " (install it, or name its folder in PYTHONPATH)" if error.name == module else ""
        raise JudgeError(f"judge {name!r}: {error}{hint}") from error
    except Exception as error:  # somebody else's code: whatever it is, there is no judge
        raise JudgeError(f"judge {name!r} cannot be loaded: {_line(error)}") from error
    if not isinstance(made, Judge):
        raise JudgeError(f"judge {name!r}: {function} returns a {type(made).__name__}, not a Judge")
    return made


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
