"""Values: traced numbers, static structure compared by value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.value import batch_axes, number, static, value, walk


@value
class Part:
    size: float = number()
    mask: object = number(rank=3, dtype=np.bool_, default=None)
    name: str = static(default="a")


@value
class Whole:
    first: Part
    others: tuple = ()


def test_numbers_are_leaves_and_statics_are_structure():
    part = Part(0.5, name="b")
    assert [leaf.dtype for leaf in jax.tree.leaves(part)] == [np.float32]
    assert jax.tree.structure(Part(0.1)) == jax.tree.structure(Part(0.2))
    assert jax.tree.structure(Part(0.1)) != jax.tree.structure(part)


def test_numbers_of_jax_are_checked_and_traced_like_python_ones():
    assert Part(jnp.asarray(0.5)) == Part(0.5)
    assert jax.tree.leaves(Part(jnp.asarray(1)))[0].dtype == np.float32
    with pytest.raises(ValueError, match="mask must hold 0 and 1 only"):
        Part(1.0, np.full((2, 2, 1), 0.5))


@pytest.mark.parametrize(
    "wrong", ["8/255", b"1", 1j, True, [True, False], ["a"], [None], [[1], [1, 2]], np.complex64(1)]
)
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises(TypeError, match="size must hold numbers"):
        Part(wrong)


def test_classes_of_equal_fields_are_of_different_structure():
    # jax.tree_util.register_dataclass gets this wrong, and jit would run the program of the wrong class.
    @value
    class Other:
        size: float = number()
        mask: object = number(rank=3, dtype=np.bool_, default=None)
        name: str = static(default="a")

    assert jax.tree.structure(Part(0.1)) != jax.tree.structure(Other(0.1))
    assert Part(0.1) != Other(0.1)


def test_values_are_frozen():
    with pytest.raises(AttributeError):
        Part(1.0).size = 2.0


def test_equal_by_content():
    assert Part([1.0, 2.0]) == Part([1.0, 2.0])
    assert Part([1.0, 2.0]) != Part([1.0, 3.0])
    assert Part(1.0) != Part(1.0, name="b")
    assert hash(Part(1.0)) == hash(Part(1.0))


def test_walk_visits_every_value_inside():
    whole = Whole(Part(1.0), (Part(2.0), Part(3.0)))
    assert [type(part).__name__ for part in walk(whole)] == ["Whole", "Part", "Part", "Part"]


def test_batch_axes_tells_shared_from_per_image_leaves_in_leaf_order():
    whole = Whole(Part(np.ones(4)), (Part(2.0, np.ones((2, 2, 1))), Part(3.0, np.ones((4, 2, 2, 1)))))
    assert len(jax.tree.leaves(whole)) == 5
    assert batch_axes(whole, 4) == [0, None, None, None, 0]


def test_batch_axes_names_the_field_that_does_not_fit():
    with pytest.raises(ValueError, match="size has one entry for each of 3 images, but the batch has 4"):
        batch_axes(Part(np.ones(3)), 4)
    with pytest.raises(ValueError, match=r"mask must have rank 3 .* got shape \(2, 2\)"):
        batch_axes(Part(1.0, np.ones((2, 2))), 4)


def test_values_pass_through_jit_and_vmap():
    doubled = jax.jit(lambda part: part.size * 2)(Part(3.0))
    assert doubled == 6
    sizes = jax.vmap(lambda size: Part(size))(jnp.arange(3.0)).size
    np.testing.assert_array_equal(sizes, [0, 1, 2])
