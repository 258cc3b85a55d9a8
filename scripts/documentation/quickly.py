"""The command line with everything as short as can be, for pages that are run only to see that they run."""

import sys

from lowerbound import cli
from lowerbound.runs import recipes

FEW = 4  # steps of a stage
DRAWN = 4  # images


def main() -> None:
    sys.argv[1:] = shorter(sys.argv[1:])
    cli.main()


def shorter(words: list[str]) -> list[str]:
    """The words of a command, and those that make it short.

    Example:
        >>> shorter(["evaluate", "runs/vae", "--draws", "500"])
        ['evaluate', 'runs/vae', '--draws', '2', '--limit', '20']
    """
    if words[:1] == ["train"]:
        return [*words, *_few(words)]
    if words[:1] == ["evaluate"]:
        words = words if "--limit" in words else [*words, "--limit", "20"]
        return _instead(words, "--draws", 2)
    if words[:1] == ["sample"]:
        return _instead(words, "-n", DRAWN)
    if words[:1] == ["probe"]:
        return _instead(_instead(words, "--labels", 1), "--seeds", 1)
    return words


def _few(words: list[str]) -> list[str]:
    changes = [word for word in words[2:] if "=" in word and not word.startswith("-")]
    recipe = recipes.load(words[1], changes)
    steps = [f"train.stages.{name}.steps={FEW}" for name in recipe.train.tables()]
    few = [f"train.steps={FEW}", "train.batch=16", "train.valid_images=40", *steps]
    return [*few, *(["data.images=200"] if recipe.data.source in ("scenes", "sprites") else [])]


def _instead(words: list[str], option: str, value: int) -> list[str]:
    """The value of an option that is there."""
    if option not in words[:-1]:
        return words
    n = words.index(option)
    return [*words[: n + 1], str(value), *words[n + 2 :]]
