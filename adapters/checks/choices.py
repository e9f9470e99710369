"""Hyper-parameters that are left open: chosen on validation rows, and refused without any."""

from __future__ import annotations

from itertools import product
from typing import Any

from mma.adapters.base import Adapter, AdapterError
from mma.adapters.checks.subject import Broken, Promise, Subject, promise
from mma.adapters.options import options_of
from mma.adapters.registry import title
from mma.adapters.training import accuracy, fit, predict


def what_is_chosen_on_validation_is_an_option_that_can_be_left_open(s: Subject) -> None:
    """Those of `tunes` are None by default."""
    for option in options_of(s.kind):
        promise(
            option.name not in s.kind.tunes or option.default is None, f"{option.name} is in `tunes` and has a default"
        )
    promise(set(s.kind.tunes) <= set(s.names), "`tunes` names what is not an option")


def no_value_of_the_grid_beats_what_is_chosen_on_validation(s: Subject) -> Any:
    """And some are worse, so there is a choice."""
    if not s.made().open_options():
        return NotImplemented
    data, adapter = s.data, s.made()
    chosen = fit(adapter, data.support, s.short, seed=0, validation=data.validation).chosen
    grids = {name: s.kind.tunes[name] for name in chosen}
    promise(all(chosen[name] in grid for name, grid in grids.items()), f"{chosen} is not of the grid")

    def score(adapter: Adapter) -> float:
        return accuracy(predict(adapter, data.validation.image, data.support.text), data.validation.label)

    best, rivals = score(adapter), []
    for values in product(*grids.values()):
        given = dict(zip(grids, values, strict=True))
        rival = adapter
        if s.kind.trains:  # the choice is made with weights that are trained already
            adapter.choose(given)
        else:
            rival = s.made(**given)
            fit(rival, data.support, s.short, seed=0)
        rivals.append(score(rival))
    promise(max(rivals) == best, f"{chosen} gives {best:.3f} on validation rows, another {max(rivals):.3f}")
    return promise(min(rivals) < best, "every value of the grid is as good")


def without_validation_rows_a_choice_is_refused_naming_the_option(s: Subject) -> None:
    """And with a value given none are needed."""
    adapter = s.made()
    wanted = adapter.open_options()
    if wanted:
        try:
            fit(adapter, s.data.support, s.short, seed=0)
        except AdapterError as error:
            message = str(error)
        else:
            raise Broken("it was fitted without validation rows")
        said = message.startswith(f"{title(adapter)} chooses ") and f"give {wanted[0]}" in message
        promise(said and "\n" not in message, f"it says {message!r}")
    fit(s.made(**{name: s.kind.tunes[name][0] for name in wanted}), s.data.support, s.short, seed=0)


PROMISES: tuple[Promise, ...] = (
    what_is_chosen_on_validation_is_an_option_that_can_be_left_open,
    no_value_of_the_grid_beats_what_is_chosen_on_validation,
    without_validation_rows_a_choice_is_refused_naming_the_option,
)
