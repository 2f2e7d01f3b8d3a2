"""What the user of a recipe is told where a student cannot be shrunk."""

import pytest

from edgekd.compress.order import Shrinking, in_order
from edgekd.compress.shrink import shrink
from edgekd.errors import UsageError
from edgekd.models.build import Architecture, build
from edgekd.recipe import load_recipe

SMALL = Architecture("ds_cnn", {"width": 8, "blocks": 1}, (1, 8, 8), 4)


def asked(entry: str) -> Shrinking:
    recipe = load_recipe("digits", [f"compress=[{{ {entry}, train = {{ epochs = 1 }} }}]"]).recipe
    (one,), _ = in_order(recipe.compress, recipe.quantize)
    return one


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('kind = "prune", macs = 0.01', "compress: prune: keep: 0.01 of the cost of DSCNN cannot be reached"),
        ('kind = "prune", macs = 0.5, protect = ["blocs"]', "compress: prune: protect: no module of DSCNN"),
        ('kind = "factorize", rank = 0.5, layers = ["blocs"]', "compress: factorize: no linear or convolution layer"),
        ('kind = "sparsify", share = 0.9999', "compress: sparsify: share 0.9999 takes all"),
    ],
)
def test_the_entry_of_the_recipe_is_named(entry: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        shrink(asked(entry), build(SMALL, "student"), SMALL, lambda model: None)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
