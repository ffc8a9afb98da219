//! A real client pulls every recorded image.

#[test]
fn x() {}
