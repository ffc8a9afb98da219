//! `Content-Range`: chunks in order, repeated, with gaps, shorter and longer than they say.

use reqwest::{Method, StatusCode};

use super::{Pusher, header, leftovers, refusal};
use crate::support::World;
use crate::support::images::digest_of;

#[tokio::test]
async fn chunks_go_on_where_the_upload_ends() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let uuid = pusher.start().await;
    // What is sent, what is answered, and where the upload ends then.
    for (range, body, status, ends) in [
        ("5-9", b"fghij".as_slice(), 416, 0),
        ("0-4", b"abcde", 202, 5),
        ("6-9", b"ghij", 416, 5),
        // From the beginning again: Quay would hash it twice.
        ("0-4", b"abcde", 416, 5),
        // Overlap: only what is new counts.
        ("3-6", b"defg", 202, 7),
        ("3-6", b"defg", 202, 7),
        // A body that is longer than it says is cut, one that is shorter counts as it is.
        ("7-8", b"hiXX", 202, 9),
        ("9-20", b"j", 202, 10),
        ("10-9", b"", 202, 10),
    ] {
        let answer = pusher.patch_range(&uuid, range, body).await;
        assert_eq!(answer.status().as_u16(), status, "{range}");
        assert_eq!(header(&answer, "docker-upload-uuid"), uuid);
        assert!(header(&answer, "location").ends_with(&uuid), "{range}");
        let told = match status {
            416 => format!("0-{ends}"),
            _ => format!("0-{}", ends - 1),
        };
        assert_eq!(header(&answer, "range"), told, "{range}");
    }
    let digest = digest_of(b"abcdefghij");
    assert_eq!(pusher.finish(&uuid, &digest, "").await.status(), StatusCode::CREATED);
    assert_eq!(pusher.pull(&digest).await.unwrap(), b"abcdefghij");
    assert_eq!(leftovers(&world), ("0".to_owned(), 0));
}

#[tokio::test]
async fn the_last_chunk_may_come_with_the_end() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let (uuid, digest) = (pusher.start().await, digest_of(b"abcdef"));
    pusher.patch_range(&uuid, "0-2", b"abc").await;
    let path = format!("blobs/uploads/{uuid}?digest={digest}");
    // Out of order it is refused, and the upload goes on.
    let gap = pusher.send(Method::PUT, &path, &[("Content-Range", "4-6")], "efg").await;
    assert_eq!(gap.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&pusher.status(&uuid).await, "range"), "0-2");
    let last = pusher.send(Method::PUT, &path, &[("Content-Range", "3-5")], "def").await;
    assert_eq!(last.status(), StatusCode::CREATED);
    assert_eq!(pusher.pull(&digest).await.unwrap(), b"abcdef");
}

#[tokio::test]
async fn what_is_no_range_is_refused() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let uuid = pusher.start().await;
    for range in ["bytes 0-4/*", "bytes=0-4", "-1", "4-2", "a-b", "", "0-18446744073709551615"] {
        let answer = pusher.patch_range(&uuid, range, b"abcde").await;
        let (status, code, message) = refusal(answer).await;
        assert_eq!((status, code.as_str()), (400, "INVALID_REQUEST"), "{range}");
        assert_eq!(message, "Invalid range header");
    }
    assert_eq!(header(&pusher.status(&uuid).await, "range"), "0-0");
}
