"""What a reader must know of some rows."""

from collections.abc import Iterator
from typing import Any

from lowerbound.runs import fitted
from lowerbound.verbs.compare.entries import Entry


def notes(entries: list[Entry], rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know of some rows; what is true of several is said once."""
    said: dict[str, list[str]] = {}
    for entry, row in zip(entries, rows, strict=True):
        for text in _notes_on(entry, row):
            said.setdefault(text, []).append(entry.name)
    found = [f"{', '.join(names)}: {text}." for text, names in said.items()]
    if any(row["difference"] and row["difference"]["relation"] == "?" for row in rows):
        found.append(
            "A difference of two bounds (?) says nothing for certain of the truth: the run whose bound is looser may "
            "have the higher log p(x). Nor does one of a bound and an estimate."
        )
    machines = [row["training"]["machine"] for row in rows if row["training"] and row["training"]["machine"]]
    if any(machine != machines[0] for machine in machines):
        found.append(
            "The runs were trained on different machines, numbers of threads or versions of torch, and their times "
            "differ by that too."
        )
    return found


def _notes_on(entry: Entry, row: dict[str, Any]) -> Iterator[str]:
    model, training = entry.model, row["training"]
    naive = row["sampling"] and row["sampling"]["naive"]
    if row["nll"]["value"] is None:
        yield f"nothing is said of log p(x): {model.why_no_density()}"
    if told := row["nll"].get("given"):
        yield f"given the {told}, and log p(x | {told}) is another quantity than log p(x)"
    if (e := model.estimate) is not None:
        yield (
            f"log Z is estimated, by {e.chains} chains of {e.temperatures:,} temperatures: {e.log_z:.2f} ± "
            f"{e.error:.2g} nats, and {e.reverse:.2f} ± {e.reverse_error:.2g} from the other side; the first is rather "
            "too low, and the NLL with it"
        )
    if naive and naive["measured_passes"] < naive["passes"]:
        yield f"the time without cache is extrapolated from {naive['measured_passes']} of {naive['passes']:,} passes"
    if row["file_bits"] and row["file_bits"]["value"] is None:
        yield f"no file: {row['file_bits']['why']}"
    if not model.can_sample:
        yield "no density to draw samples from"
    if entry.run.facts.name != entry.images.name:
        yield f"trained on {entry.run.facts.name}"
    if entry.doubt:
        yield entry.doubt
    if training is not None and not training["finished"]:
        yield "not trained to its end"
    if fitted.is_fitted(entry.run.recipe):
        yield "the prior was fitted after training, and that time is not in the log"
