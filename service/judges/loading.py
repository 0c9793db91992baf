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

        return ClipJudge.load(name.removeprefix(_CLIP), device)
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise JudgeError(f'a judge is "clip:MODEL" or "module:function", not {name!r}')
    try:
        made = vars(importlib.import_module(module))[function]()
    except ImportError as error:
        raise JudgeError(f"judge {name!r}: {error}") from error
    except KeyError:
        raise JudgeError(f"judge {name!r}: {module} has no {function!r}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise JudgeError(f"judge {name!r} cannot be loaded: {error}") from error
    if not isinstance(made, Judge):
        raise JudgeError(f"judge {name!r}: {function} returns a {type(made).__name__}, not a Judge")
    return made
