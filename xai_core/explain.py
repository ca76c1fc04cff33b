"""One call that explains, with the method given by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from xai_core.attribution.base import Explainer, explainer_class
from xai_core.errors import OptionError
from xai_core.explanation import Explanation

__all__ = ["explain", "make"]


def make(method: str | Explainer, options: dict[str, Any]) -> Explainer:
    """An explainer from its name and options.

    Raises
    ------
    UnknownNameError
        If there is no such method.
    OptionError
        If the method has no such option.
    """
    if isinstance(method, Explainer):
        if options:
            raise OptionError(
                "Options go into the explainer when it is given as a value.",
                received=", ".join(options),
                fix=f"method={type(method).__name__}({', '.join(f'{key}=...' for key in options)})",
            )
        return method
    found = explainer_class(method)
    known = [entry.name for entry in fields(found)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise OptionError(
            f"{found.__name__} has no option {', '.join(map(repr, unknown))}.",
            received=", ".join(options),
            fix=f"its options are {', '.join(known) or 'none'}; target, seed and index belong to the call; "
            "batch_size, output and channel_axis to xai.wrap(model, ...).",
        )
    return found(**options)


def explain(
    model: Any,
    x: Any,
    *,
    method: str | Explainer = "integrated_gradients",
    target: Any = None,
    seed: int = 0,
    index: Any = None,
    **options: Any,
) -> Explanation:
    """Explain `model` at `x` with a method given by name and options given as keywords.

    Parameters
    ----------
    model, x, target, seed, index
        As for calling an explainer, see `xai_core.Explainer.__call__`.
    method
        Name of a method (`xai_core.methods()` lists them) or an explainer.
    **options
        Options of the method.

    Raises
    ------
    UnknownNameError, OptionError
        For an unknown method or option; else as the explainer.
    """
    return make(method, options)(model, x, target=target, seed=seed, index=index)
