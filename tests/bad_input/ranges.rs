//! `Range` headers, right and wrong.

use proptest::prelude::*;

use super::*;
use crate::support::images::Blob;

fn layer(target: &Target) -> (String, &Blob) {
    let layer = &target.world.public.manifest.layers()[0];
    (format!("/v2/demo/public/blobs/{}", layer.digest), layer)
}

/// What RFC 9110 asks for: the whole (None), or first and last byte.
fn assert_part(answer: &Raw, whole: &[u8], expected: Option<(usize, usize)>, what: &str) {
    match expected {
        None => {
            assert_eq!((answer.status, answer.header("content-range")), (200, ""), "{what}");
            assert_eq!(answer.body, whole, "{what}");
        }
        Some((first, last)) => {
            let range = format!("bytes {first}-{last}/{}", whole.len());
            assert_eq!((answer.status, answer.header("content-range")), (206, range.as_str()));
            assert_eq!(answer.body, &whole[first..=last], "{what}");
        }
    }
}

#[test]
fn ranges_by_the_book() {
    let target = Target::get();
    let (path, layer) = layer(target);
    let length = layer.bytes.len();
    let end = length - 1;
    for (range, expected) in [
        ("bytes=0-".to_owned(), Some((0, end))),
        ("bytes=0-0".to_owned(), Some((0, 0))),
        ("bytes=2-4".to_owned(), Some((2, 4))),
        ("BYTES=2-4".to_owned(), Some((2, 4))),
        (format!("bytes={end}-"), Some((end, end))),
        (format!("bytes=5-{length}"), Some((5, end))),
        (format!("bytes=0-{}", u64::MAX), Some((0, end))),
        ("bytes=-1".to_owned(), Some((end, end))),
        (format!("bytes=-{}", u64::MAX), Some((0, end))),
        // What is no single range is no range.
        (format!("bytes=0-{}0", u64::MAX), None),
        (format!("bytes={}0-", u64::MAX), None),
        ("bytes=4-2".to_owned(), None),
        ("bytes=--1".to_owned(), None),
        ("bytes=-1-2".to_owned(), None),
        ("bytes=0-1,3-4".to_owned(), None),
        ("bytes=0-1,".to_owned(), None),
        ("bytes=0x0-0x1".to_owned(), None),
        ("bytes=+0-1".to_owned(), None),
        ("bytes=".to_owned(), None),
        ("bytes".to_owned(), None),
        ("-".to_owned(), None),
        ("items=0-1".to_owned(), None),
        ("\u{e9}=0-1".to_owned(), None),
        ("0-1,".repeat(5000), None),
    ] {
        let answer = target.ask(&get(&path).with("Range", &range));
        assert_part(&answer, &layer.bytes, expected, &range);
    }
    for range in [format!("bytes={length}-"), format!("bytes={}-", u64::MAX), "bytes=-0".to_owned()]
    {
        let answer = target.ask(&get(&path).with("Range", &range));
        let found = (answer.status, answer.code());
        assert_eq!(found, (416, "RANGE_INVALID".to_owned()), "{range}: {answer:?}");
        assert_eq!(answer.header("content-range"), format!("bytes */{length}"), "{range}");
    }
    // A condition that we cannot hold the blob against.
    let conditional = get(&path).with("Range", "bytes=0-0").with("If-Range", "\"x\"");
    assert_part(&target.ask(&conditional), &layer.bytes, None, "If-Range");
    target.assert_well();
}

proptest! {
    #![proptest_config(some_hundred())]

    #[test]
    fn ranges_that_lie_somewhere(first in 0..400usize, more in 0..400usize) {
        let target = Target::get();
        let (path, layer) = layer(target);
        let last = first + more;
        let range = format!("bytes={first}-{last}");
        let answer = target.ask(&get(&path).with("Range", &range));
        if first < layer.bytes.len() {
            let expected = Some((first, last.min(layer.bytes.len() - 1)));
            assert_part(&answer, &layer.bytes, expected, &range);
        } else {
            prop_assert_eq!(answer.status, 416);
        }
    }

    #[test]
    fn no_range_breaks_anything(range in "(bytes)?=?[0-9,= -]{0,40}|[ -~]{0,60}") {
        let target = Target::get();
        let (path, layer) = layer(target);
        let answer = target.ask(&get(&path).with("Range", &range));
        match answer.status {
            200 => prop_assert_eq!(&answer.body, &layer.bytes),
            206 => prop_assert!(answer.body.len() <= layer.bytes.len()),
            status => prop_assert_eq!(status, 416),
        }
    }
}
