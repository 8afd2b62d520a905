use super::*;

#[test]
fn the_lowest_number_that_nobody_uses_is_free() {
    for (used, expected) in [(&[][..], 1), (&[1, 2, 4], 3), (&[0, 2, 253, 254, 255], 1)] {
        assert_eq!(lowest_free(used), expected, "{used:?}");
    }
    assert_eq!(lowest_free(&Vec::from_iter(1..=255)), 256);
}
