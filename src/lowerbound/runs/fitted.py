"""A prior that is fitted to a run's codes after training, as the run holds it."""

from lowerbound.model import Model
from lowerbound.runs.recipes import Recipe
from lowerbound.runs.run import Run

# ---- the run


def is_fitted(recipe: Recipe) -> bool:
    """Whether the recipe has a prior that was fitted after training."""
    return recipe.model.as_trained() is not recipe.model


def unfitted(recipe: Recipe) -> Recipe:
    """The recipe as it was trained."""
    return recipe.model_copy(update={"model": recipe.model.as_trained()}) if is_fitted(recipe) else recipe


def _unfitted(run: Run) -> Run:
    """The run with the prior it was trained with, in memory alone."""
    return Run(run.path, run.name, unfitted(run.recipe), run.facts)


def remove_prior(run: Run) -> None:
    """Take a fitted prior out of a run, and what was measured and drawn with it. A kill on the way leaves a run."""
    run.forget_prior()
    if is_fitted(run.recipe):
        run.recipe = unfitted(run.recipe)
        run.save_config()  # the weights may hold more than the configuration asks for
        run.save_model(run.load())


def _store(run: Run, model: Model) -> None:
    """Put a model with a fitted prior into its run. In this order a kill leaves the former prior or the fitted one."""
    remove_prior(run)
    run.save_model(model)
    run.recipe = run.recipe.model_copy(update={"model": model.config})
    run.save_config()
