"""Buckets of sizes: few, large enough, and no larger than pays."""

from hypothesis import given
from hypothesis import strategies as st

from advjax.score_command.buckets import MOST_BUCKETS, buckets

shapes = st.dictionaries(
    st.tuples(st.integers(11, 700), st.integers(11, 700), st.sampled_from([1, 3])), st.integers(1, 50), max_size=40
)


@given(shapes)
def test_every_shape_fits_into_one_of_a_few_buckets(counts):
    found = buckets(counts)
    assert found.keys() == counts.keys()
    assert len(set(found.values())) <= MOST_BUCKETS
    for (height, width, channels), bucket in found.items():
        assert bucket[0] >= height
        assert bucket[1] >= width
        assert bucket[2] == channels


def test_a_few_pictures_share_a_program_and_many_do_not():
    # Padding 6 small pictures is quicker than compiling once more; padding 10,000 large ones is not.
    assert len(set(buckets({(24 + k, 20, 1): 1 for k in range(6)}).values())) == 1
    assert len(set(buckets({(300, 400, 3): 10_000, (400, 300, 3): 10_000}).values())) == 2


def test_thousands_of_sizes_take_no_time():
    found = buckets({(100 + k // 70, 100 + k % 70, 3): 1 for k in range(4900)})
    assert len(set(found.values())) <= MOST_BUCKETS
    area = sum(bucket[0] * bucket[1] for bucket in found.values())
    own = sum(height * width for height, width, _ in found)
    assert area < 1.4 * own


def test_without_pictures_there_are_no_buckets():
    assert buckets({}) == {}
