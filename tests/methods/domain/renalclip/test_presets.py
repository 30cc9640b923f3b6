"""The presets of RenalCLIP."""

from diptych.methods.domain.renalclip import RenalCLIP


def test_published_recipes_of_the_tasks():
    for task, optimizer in (("diagnosis", "adamw"), ("survival", "adam")):
        preset = RenalCLIP.preset(f"paper_{task}")
        recipe = preset.recipe
        assert preset.config == RenalCLIP.preset(task).config
        assert preset.config == {"task": task, "augment": {"flip": True}}
        assert (recipe.batch_size, recipe.epochs, recipe.lr) == (150, 100, 1e-5)
        assert (recipe.optimizer, recipe.precision) == (optimizer, "float32")
