import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import ple

INT8, INT4 = "int8", "int4"


def naive_widen(bits):
    """Bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def naive_round(values):
    """Bits of the nearest bfloat16 of each value: of the one towards zero and the one away from it."""
    below = (values.view(np.uint32) >> 16).astype(np.uint16)
    above = below + np.uint16(1)
    down = np.abs(values.astype(np.float64) - naive_widen(below))
    up = np.abs(values.astype(np.float64) - naive_widen(above))
    return np.where((up < down) | ((up == down) & (below % 2 == 1)), above, below)


def naive_values(values, layers):
    """What the numbers of a quantised table stand for but for their scales, [rows, layers, width]."""
    if values.dtype == np.int8:
        return values.reshape(len(values), layers, -1).astype(np.float32)
    blocks = values.reshape(len(values), layers, -1)
    return np.concatenate([blocks % 16, blocks // 16], axis=-1).astype(np.float32) - np.float32(8)


def naive_gather(table, scales, ids, factor, dtype):
    """Rows by definition, one id at a time; the scales are None for a plain table."""
    rows = []
    for id_ in ids:
        row = id_ if id_ in range(len(table)) else 0
        if scales is not None:
            blocks = naive_values(table[[row]], scales.shape[1])[0]
            rows.append((blocks * (scales[row] * np.float32(factor))[:, None]).ravel())
        elif table.dtype == np.uint16:
            rows.append(naive_widen(table[row]) * np.float32(factor))
        else:
            rows.append(table[row] * np.float32(factor))
    width = table.shape[1] * (2 if table.dtype == np.uint8 else 1)
    gathered = np.array(rows, dtype=np.float32).reshape(len(ids), width)
    return naive_round(gathered) if dtype == np.uint16 else gathered


def draw_table(rng, form, rows, layers, width):
    """A random table and its scales, which a plain one does not have."""
    if form == np.float32:
        return rng.standard_normal((rows, layers * width)).astype(np.float32), None
    if form == np.uint16:
        return naive_round(rng.standard_normal((rows, layers * width)).astype(np.float32)), None
    scales = rng.uniform(0, 0.1, (rows, layers)).astype(np.float32)
    if form == INT8:
        return rng.integers(-127, 128, (rows, layers * width), dtype=np.int8), scales
    return rng.integers(0, 256, (rows, layers * width // 2), dtype=np.uint8), scales


def gather(table, scales, ids, factor, dtype):
    out = np.full((len(ids), table.shape[1] * (2 if table.dtype == np.uint8 else 1)), 77, dtype)
    if scales is None:
        ple.gather(table, ids, factor, out)
    else:
        kernel = {np.int8: ple.gather_int8, np.uint8: ple.gather_int4}[table.dtype.type]
        kernel(table, scales, ids, factor, out)
    return out


@pytest.mark.parametrize("form", [np.float32, np.uint16, INT8, INT4])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@given(
    rows=st.integers(1, 30),
    layers=st.integers(1, 5),
    half=st.integers(1, 40),
    ids=st.lists(st.integers(-3, 33) | st.sampled_from([-(2**63), 2**63 - 1]), max_size=20),
    factor=st.sampled_from([1.0, 16.0, 12**0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_gathering_equals_its_definition(*, form, dtype, rows, layers, half, ids, factor, seed):
    """Bit for bit, for any batch: ids without a row have row 0, bfloat16 is rounded to nearest even."""
    table, scales = draw_table(np.random.default_rng(seed), form, rows, layers, 2 * half)
    ids = np.array(ids, dtype=np.int64)

    np.testing.assert_array_equal(
        gather(table, scales, ids, factor, dtype), naive_gather(table, scales, ids, factor, dtype)
    )


def test_bfloat16_rounds_ties_to_even():
    """Halfway between two: 1 + 2^-8 goes down, 1 + 3 * 2^-8 goes up; infinity stays what it is."""
    table = np.array([[1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38, np.inf]], dtype=np.float32)
    out = gather(table, None, np.zeros(1, np.int64), 1.0, np.uint16)

    np.testing.assert_array_equal(naive_widen(out), [[1, 1 + 2**-6, -1, np.inf, np.inf]])


def test_both_halves_of_a_block_of_4_bits_lie_in_the_same_bytes():
    """A low nibble belongs to the first half, and 8 stands for 0."""
    values = np.array([[0x80, 0xF1]], dtype=np.uint8)
    out = gather(values, np.array([[2]], np.float32), np.zeros(1, np.int64), 1.0, np.float32)

    np.testing.assert_array_equal(out, [[-16, -14, 0, 14]])


IDS = np.zeros(2, np.int64)
OUT = np.zeros((2, 8), np.float32)
SCALES = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    ("table", "ids", "out", "message"),
    [
        (
            np.zeros((3, 8)),
            IDS,
            OUT,
            r"table must be contiguous float32 or uint16 \[rows, row\], got float64",
        ),
        (np.zeros(8, np.float32), IDS, OUT, "table must be"),
        (np.zeros((0, 8), np.float32), IDS, OUT, "table must be"),
        (np.zeros((3, 16), np.float32)[:, ::2], IDS, OUT, "table must be"),
        (np.zeros((3, 8), np.float32), IDS.astype(np.int32), OUT, r"ids must be contiguous int64 \[2\]"),
        (np.zeros((3, 8), np.float32), IDS[None], OUT, "ids must be"),
        (np.zeros((3, 8), np.float32), np.zeros(4, np.int64)[::2], OUT, "ids must be"),
        (np.zeros((3, 8), np.float32), IDS, OUT[:1], r"out must be .* \[2, 8\], got float32 \[1, 8\]"),
        (np.zeros((3, 8), np.float32), IDS, OUT.astype(np.float16), "out must be"),
        (np.zeros((3, 8), np.float32), IDS, np.zeros((2, 16), np.float32)[:, ::2], "out must be"),
    ],
)
def test_wrong_arrays_are_named(table, ids, out, message):
    """An array of the wrong type, shape or layout is refused by name."""
    with pytest.raises(ValueError, match=f"^{message}"):
        ple.gather(table, ids, 1.0, out)


@pytest.mark.parametrize(
    ("kernel", "dtype", "row"), [(ple.gather_int8, np.int8, 8), (ple.gather_int4, np.uint8, 4)]
)
def test_wrong_arrays_of_quantised_tables_are_named(kernel, dtype, row):
    """Values and scales have to fit each other, too."""
    values = np.zeros((3, row), dtype)
    for wrong, message in (
        ((np.zeros((3, row), np.int16), SCALES, IDS, 1.0, OUT), "values must be contiguous u?int8"),
        ((values, SCALES.astype(np.float64), IDS, 1.0, OUT), "scales must be contiguous float32"),
        ((values, SCALES[:2], IDS, 1.0, OUT), r"scales must be .* \[3, layers\], got float32 \[2, 2\]"),
        ((values, np.ones((3, 0), np.float32), IDS, 1.0, OUT), "scales must be"),
        ((values, np.ones((3, 3), np.float32), IDS, 1.0, OUT), f"a row of {row} bytes has no 3 blocks"),
        ((values, SCALES, IDS.astype(np.int32), 1.0, OUT), "ids must be"),
        ((values, SCALES, IDS, 1.0, np.zeros((2, row // 2), np.float32)), "out must be"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            kernel(*wrong)
